#include "io/text_source.h"

#include <zlib.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <utility>

#include "comm/error.h"
#include "io/raw_file.h"

namespace pg::io {

struct TextReader::Impl {
  Impl(const TextFile& file, bool repair_, std::size_t piece_bytes_)
      : disk(RawFile::open(file.path, ExitCode::kData)),
        repair(repair_),
        piece_bytes(piece_bytes_) {
    PG_ASSERT(piece_bytes >= 4, "a piece of {} bytes cannot hold every character", piece_bytes);
    refill();
    gzip = filled >= 2 && block[0] == 0x1f && block[1] == 0x8b;
    if (gzip) {
      const int status = inflateInit2(&stream, 15 + 16);  // gzip frames only
      PG_ASSERT(status == Z_OK, "inflateInit2 {}", status);
    }
  }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;
  ~Impl() {
    if (gzip) inflateEnd(&stream);
  }

  // The next block from disk; what is left of the last one has been used.
  void refill() {
    filled = disk.read_at(offset, block.data(), block.size());
    offset += static_cast<std::int64_t>(filled);
    used = 0;
    at_end = filled < block.size();
  }

  Error damaged(std::string_view what) const {
    return fail(ExitCode::kData, "{}: {} at byte {} of the compressed file", disk.path().string(),
                what, offset - static_cast<std::int64_t>(filled - used));
  }

  // Appends at least one byte to `pending`, or sets `ended`.
  void fill() {
    if (!gzip) {
      if (used == filled && !at_end) refill();
      pending.append(reinterpret_cast<const char*>(block.data()) + used, filled - used);
      used = filled;
      ended = at_end;
      return;
    }
    const auto size_before = pending.size();
    while (pending.size() == size_before && !ended) {
      if (used == filled && !at_end) refill();
      if (between_members) {
        if (used == filled) {
          ended = true;
        } else {  // a gzip file may be several, one after the other
          inflateReset(&stream);
          between_members = false;
        }
        continue;
      }
      if (used == filled) throw damaged("the gzip data is cut short");
      inflate_some();
    }
  }

  void inflate_some() {
    std::array<unsigned char, 1 << 16> out;
    stream.next_in = block.data() + used;
    stream.avail_in = static_cast<uInt>(filled - used);
    stream.next_out = out.data();
    stream.avail_out = static_cast<uInt>(out.size());
    const int status = inflate(&stream, Z_NO_FLUSH);
    used = filled - stream.avail_in;
    if (status != Z_OK && status != Z_STREAM_END) {
      throw damaged(fmt::format("damaged gzip data ({})", stream.msg ? stream.msg : "inflate"));
    }
    between_members = status == Z_STREAM_END;
    pending.append(reinterpret_cast<const char*>(out.data()), out.size() - stream.avail_out);
  }

  RawFile disk;
  bool repair;
  std::size_t piece_bytes;

  std::array<unsigned char, 1 << 16> block;
  std::size_t filled = 0, used = 0;  // of block
  std::int64_t offset = 0;           // on disk, after block
  bool at_end = false;               // nothing on disk after block

  bool gzip = false, between_members = false;
  z_stream stream{};

  std::string pending;  // text not yet handed out, from `start`
  std::size_t start = 0;
  bool ended = false;  // nothing after pending
  std::int64_t replaced = 0;
};

namespace {

int character_at(std::string_view s);

// Where to cut `text`, which goes on after its last byte: see TextReader. 0 < cut <= size - 1.
std::size_t cut_of(std::string_view text) {
  for (std::size_t i = text.size() - 1; i > 0; --i) {
    if (text[i - 1] == '\n' && text[i] != '\n') return i;
  }
  // A character that begins up to three bytes before the cut and goes on after it stays whole, and
  // so does the beginning of one, which is replaced as a whole.
  const auto cut = text.size() - 1;
  for (std::size_t back = 1; back <= 3 && back < cut; ++back) {
    const auto length = std::abs(character_at(text.substr(cut - back)));
    if (static_cast<std::size_t>(length) > back) return cut - back;
  }
  return cut;
}

}  // namespace

TextReader::TextReader(const TextFile& file, bool repair, std::size_t piece_bytes)
    : impl_(std::make_unique<Impl>(file, repair, piece_bytes)) {}
TextReader::TextReader(TextReader&&) noexcept = default;
TextReader::~TextReader() = default;

bool TextReader::next(std::string& piece) {
  auto& pending = impl_->pending;
  pending.erase(0, std::exchange(impl_->start, 0));
  // One byte more than a piece, so that the cut can see what follows it.
  while (!impl_->ended && pending.size() <= impl_->piece_bytes) impl_->fill();
  piece.clear();
  if (pending.empty()) return false;
  std::string_view text = pending;
  if (text.size() > impl_->piece_bytes) {
    text = text.substr(0, cut_of(text.substr(0, impl_->piece_bytes + 1)));
  }
  impl_->start = text.size();
  if (impl_->repair) {
    impl_->replaced += repair_utf8(text, piece);
  } else {
    piece = text;
  }
  return true;
}

std::int64_t TextReader::replaced() const {
  return impl_->replaced;
}
std::int64_t TextReader::disk_bytes() const {
  return impl_->offset - static_cast<std::int64_t>(impl_->filled - impl_->used);
}

namespace {

// Length of the well-formed character at the start of `s`, or minus the length of the ill-formed
// maximal subpart there (Unicode 15, table 3-7).
int character_at(std::string_view s) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(s[i]); };
  const unsigned lead = byte(0);
  if (lead < 0x80) return 1;
  if (lead < 0xC2 || lead > 0xF4) return -1;
  const int length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  // The second byte's range keeps out overlong forms, surrogates and what is past U+10FFFF.
  const unsigned low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const unsigned high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  for (int i = 1; i < length; ++i) {
    if (static_cast<std::size_t>(i) == s.size()) return -i;
    const unsigned next = byte(static_cast<std::size_t>(i));
    if (next < (i == 1 ? low : 0x80) || next > (i == 1 ? high : 0xBF)) return -i;
  }
  return length;
}

}  // namespace

std::int64_t repair_utf8(std::string_view text, std::string& out) {
  std::int64_t replaced = 0;
  std::size_t good = 0;  // text[good, i) is well-formed and not yet copied
  for (std::size_t i = 0; i < text.size();) {
    const int length = character_at(text.substr(i));
    if (length > 0) {
      i += static_cast<std::size_t>(length);
      continue;
    }
    out.append(text.substr(good, i - good)).append("\xEF\xBF\xBD");
    ++replaced;
    i += static_cast<std::size_t>(-length);
    good = i;
  }
  out.append(text.substr(good));
  return replaced;
}

}  // namespace pg::io

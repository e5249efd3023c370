#include "io/tokenizer.h"

#include <sentencepiece_processor.h>

#include <array>
#include <utility>

#include "comm/error.h"
#include "io/raw_file.h"
#include "io/tokenizer_guard.h"

namespace pg::io {

namespace {

constexpr std::string_view kSpaceMark = "\xE2\x96\x81";  // U+2581: a space inside a piece
constexpr std::string_view kReplacement = "\xEF\xBF\xBD";
constexpr std::int64_t kMaxModelBytes = std::int64_t{1} << 28;

// SentencePiece would add a space and drop others at the ends of every piece of text that it is
// given, so both are switched off and the space is added here, once a document. A protobuf message
// appended to a serialized one is merged into it: ModelProto.normalizer_spec (3) {
// add_dummy_prefix (3) = false, remove_extra_whitespaces (4) = false }.
constexpr std::string_view kNoTrimming("\x1A\x04\x18\x00\x20\x00", 6);

using Processor = sentencepiece::SentencePieceProcessor;

void load_model(Processor& processor, const std::string& model, const std::string& name) {
  std::string reason;
  try {
    const auto status = processor.LoadFromSerializedProto(model);
    if (status.ok() && processor.GetPieceSize() > 0) return;
    reason = status.ok() ? "it has no pieces" : status.ToString();
  } catch (const std::exception& error) {  // protobuf throws on some damage
    reason = error.what();
  }
  throw fail(ExitCode::kData, "{}: not a usable SentencePiece model: {}", name, reason);
}

}  // namespace

struct Tokenizer::Impl {
  std::string name;  // for messages
  std::string stored;
  bool bytes = false;
  bool lossless = true;
  bool dummy_prefix = false;
  std::int64_t vocab = 0;
  std::int32_t end = -1;
  Processor processor;
  std::vector<std::string> surface;       // by id: what decode gives
  std::array<std::int32_t, 256> byte_id;  // -1 without byte fallback

  void read_pieces() {
    byte_id.fill(-1);
    surface.resize(static_cast<std::size_t>(vocab));
    for (int id = 0; id < vocab; ++id) {
      auto& text = surface[static_cast<std::size_t>(id)];
      const std::string& piece = processor.IdToPiece(id);
      if (processor.IsByte(id)) {  // <0xAB>
        const auto value = piece.size() == 6 ? std::strtoul(piece.c_str() + 3, nullptr, 16) : 0;
        text.assign(1, static_cast<char>(value & 0xFF));
        byte_id[value & 0xFF] = id;
      } else if (processor.IsUnknown(id)) {
        text.assign(kReplacement);
      } else if (!processor.IsControl(id)) {
        text = piece;
        for (std::size_t at = 0; (at = text.find(kSpaceMark, at)) != std::string::npos; ++at) {
          text.replace(at, kSpaceMark.size(), 1, ' ');
        }
      }
    }
  }

  void encode_run(std::string_view text, std::vector<std::int32_t>& ids) const {
    if (text.empty()) return;
    thread_local std::vector<int> found;
    const auto status = processor.Encode(text, &found);
    // Pieces that contradict one another are found only here.
    if (!status.ok()) {
      throw fail(ExitCode::kData, "{}: its SentencePiece model cannot encode a text: {}", name,
                 status.ToString());
    }
    ids.insert(ids.end(), found.begin(), found.end());
  }

  // A space mark that stands in the text itself would come back as a space: its bytes go instead.
  void encode_line(std::string_view line, std::vector<std::int32_t>& ids) const {
    std::size_t at;
    while (byte_id[0xE2] >= 0 && (at = line.find(kSpaceMark)) != std::string_view::npos) {
      encode_run(line.substr(0, at), ids);
      for (const char c : kSpaceMark) ids.push_back(byte_id[static_cast<unsigned char>(c)]);
      line.remove_prefix(at + kSpaceMark.size());
    }
    encode_run(line, ids);
  }
};

Tokenizer::Tokenizer(const std::string& stored, const std::string& name)
    : impl_(std::make_unique<Impl>()) {
  auto& self = *impl_;
  self.name = name;
  self.stored = stored;
  self.bytes = stored == "bytes";
  if (self.bytes) {
    self.vocab = 256;
    return;
  }
  check_sentencepiece_model(stored, name);
  Processor as_made;
  load_model(as_made, stored, name);
  load_model(self.processor, stored + std::string(kNoTrimming), name);
  self.vocab = self.processor.GetPieceSize();
  self.end = self.processor.eos_id();
  self.read_pieces();
  std::vector<int> with, without;
  if (as_made.Encode("a", &with).ok() && self.processor.Encode("a", &without).ok()) {
    self.dummy_prefix = with != without;
  }
  const std::string probe = "  a b\n\n\tc  \xC3\xA9\xE2\x96\x81\xF0\x9F\x8C\x8D\x01\r\n ";
  std::vector<std::int32_t> ids;
  encode(probe, false, ids);
  self.lossless = decode(ids) == probe;
}

Tokenizer Tokenizer::load(const std::string& setting) {
  if (setting == "bytes") return Tokenizer("bytes", "bytes");
  return Tokenizer(read_file(setting, kMaxModelBytes), setting);
}

Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

std::int64_t Tokenizer::vocab() const {
  return impl_->vocab;
}
std::int32_t Tokenizer::end_of_document() const {
  return impl_->end;
}
const std::string& Tokenizer::stored() const {
  return impl_->stored;
}
bool Tokenizer::is_bytes() const {
  return impl_->bytes;
}
bool Tokenizer::lossless() const {
  return impl_->lossless;
}

void Tokenizer::encode(std::string_view text, bool starts_document,
                       std::vector<std::int32_t>& ids) const {
  if (impl_->bytes) {
    for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
    return;
  }
  bool prefix = starts_document && impl_->dummy_prefix;
  while (!text.empty()) {
    // A line with all line feeds that follow it: models may have pieces of several.
    auto end = text.find('\n');
    end = end == std::string_view::npos ? text.size() : text.find_first_not_of('\n', end);
    const auto line = text.substr(0, end);
    if (std::exchange(prefix, false)) {
      impl_->encode_line(std::string(1, ' ').append(line), ids);
    } else {
      impl_->encode_line(line, ids);
    }
    text.remove_prefix(line.size());
  }
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids) const {
  std::string text;
  for (const auto id : ids) {
    if (id < 0 || id >= impl_->vocab) {
      text += kReplacement;
    } else if (impl_->bytes) {
      text += static_cast<char>(id);
    } else {
      text += impl_->surface[static_cast<std::size_t>(id)];
    }
  }
  return text;
}

}  // namespace pg::io

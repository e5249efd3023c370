#include "io/manifest.h"

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

#include "comm/activity.h"
#include "io/files.h"
#include "io/raw_file.h"
#include "io/xxh3.h"

namespace pg::io {

namespace {

constexpr std::string_view kBegin = "{\n  \"format\": \"pentagrid checkpoint\",\n  \"version\": ";
constexpr std::int64_t kVersion = 2;
constexpr std::size_t kDigestDigits = 32;
// Memory of a rank that digests.
constexpr std::int64_t kBlock = std::int64_t{1} << 20;

// Walks the one legal text. Not a JSON parser: what it does not expect is damage, so that no text
// makes it build anything larger than itself.
class Scanner {
 public:
  Scanner(std::string_view text, const std::string& where) : text_(text), where_(where) {}

  bool at(std::string_view literal) const { return text_.substr(at_).starts_with(literal); }
  bool take(std::string_view literal) {
    if (!at(literal)) return false;
    at_ += literal.size();
    return true;
  }
  void expect(std::string_view literal) {
    if (!take(literal)) throw damaged();
  }

  std::int64_t number() {
    std::int64_t value = 0;
    const auto* begin = text_.data() + at_;
    const auto [end, error] = std::from_chars(begin, text_.data() + text_.size(), value);
    if (error != std::errc() || value < 0) throw damaged();
    at_ += static_cast<std::size_t>(end - begin);
    return value;
  }

  // Rendering escapes what would need more than a look for the closing quote, and then differs.
  std::string quoted() {
    expect("\"");
    const auto end = text_.find('"', at_);
    if (end == std::string_view::npos) throw damaged();
    const auto begin = std::exchange(at_, end + 1);
    return std::string(text_.substr(begin, end - begin));
  }

  std::string digest() {
    auto digest = quoted();
    if (digest.size() != kDigestDigits) throw damaged();
    return digest;
  }

  Error damaged() const {
    return fail(ExitCode::kCheckpoint,
                "{}: damaged, not a manifest: unexpected text at byte {} "
                "of {}",
                where_, at_, text_.size());
  }

 private:
  std::string_view text_;
  const std::string& where_;
  std::size_t at_ = 0;
};

// `["..."]`, `[]`, or one digest a line.
std::vector<std::string> scan_chunks(Scanner& scan) {
  std::vector<std::string> chunks;
  scan.expect("[");
  if (scan.take("]")) return chunks;
  while (true) {
    scan.take("\n      ");
    chunks.push_back(scan.digest());
    if (!scan.take(",")) break;
  }
  scan.expect("]");
  return chunks;
}

Manifest scan_manifest(Scanner scan, const std::string& where) {
  scan.expect(kBegin);
  const auto version = scan.number();
  if (version != kVersion) {
    throw fail(ExitCode::kCheckpoint,
               "{}: is a manifest of version {}; this program reads version {} only{}", where,
               version, kVersion,
               version < kVersion ? " (no release wrote an older one)" : " (a newer program's)");
  }
  Manifest manifest;
  scan.expect(",\n  \"step\": ");
  manifest.step = scan.number();
  scan.expect(fmt::format(",\n  \"chunk_bytes\": {},\n  \"files\": [", kChunkBytes));
  do {
    ManifestFile file;
    scan.expect("\n    {\"name\": ");
    file.name = scan.quoted();
    scan.expect(", \"bytes\": ");
    file.bytes = scan.number();
    scan.expect(", \"xxh3_128\": ");
    file.chunks = scan_chunks(scan);
    scan.expect("}");
    manifest.files.push_back(std::move(file));
  } while (scan.take(","));
  return manifest;
}

void append_chunks(std::string& text, const std::vector<std::string>& chunks) {
  text += '[';
  for (const auto& chunk : chunks) {
    if (&chunk != &chunks.front()) text += ',';
    if (chunks.size() > 1) text += "\n      ";
    text.append("\"").append(chunk).append("\"");
  }
  text += ']';
}

}  // namespace

std::int64_t Manifest::bytes() const {
  std::int64_t sum = 0;
  for (const auto& file : files) sum += file.bytes;
  return sum;
}

std::int64_t chunk_count(std::int64_t bytes) {
  return bytes / kChunkBytes + (bytes % kChunkBytes != 0 ? 1 : 0);
}

std::string render_manifest(const Manifest& manifest) {
  const auto quoted = [](const std::string& text) {
    return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  };
  auto text = fmt::format("{}{},\n  \"step\": {},\n  \"chunk_bytes\": {},\n  \"files\": [", kBegin,
                          kVersion, manifest.step, kChunkBytes);
  const char* separator = "\n";
  for (const auto& file : manifest.files) {
    text += fmt::format("{}    {{\"name\": {}, \"bytes\": {}, \"xxh3_128\": ", separator,
                        quoted(file.name), file.bytes);
    append_chunks(text, file.chunks);
    text += '}';
    separator = ",\n";
  }
  text += "\n  ],\n";
  text += fmt::format("  \"xxh3_128_of_the_bytes_above\": \"{}\"\n}}\n", digest_of_text(text));
  return text;
}

Manifest parse_manifest(std::string_view text, const std::string& where) {
  if (text.empty()) throw fail(ExitCode::kCheckpoint, "{}: empty", where);
  auto manifest = scan_manifest(Scanner(text, where), where);
  for (const auto& file : manifest.files) {
    if (file.name.empty() || file.name.front() == '.' || file.name.find('/') != std::string::npos ||
        file.name.find('\0') != std::string::npos) {
      throw fail(ExitCode::kCheckpoint, "{}: names a file outside the entry", where);
    }
    if (std::ssize(file.chunks) != chunk_count(file.bytes)) {
      throw fail(ExitCode::kCheckpoint,
                 "{}: damaged: {} of {} bytes has {} chunks of {} bytes, not {}", where, file.name,
                 file.bytes, chunk_count(file.bytes), kChunkBytes, file.chunks.size());
    }
  }
  const auto canonical = render_manifest(manifest);
  if (canonical != text) {
    std::size_t at = 0;
    while (at < text.size() && at < canonical.size() && text[at] == canonical[at]) ++at;
    throw fail(ExitCode::kCheckpoint,
               "{}: damaged: does not match its own digest (first difference at byte {} of {})",
               where, at, text.size());
  }
  return manifest;
}

std::vector<std::string> chunk_digests(const std::filesystem::path& path, std::int64_t first,
                                       std::int64_t count, ExitCode code) {
  PG_ASSERT(first >= 0 && count >= 0, "{} chunks from {} on", count, first);
  const auto file = RawFile::open_unfollowed(path, code);
  const auto size = file.size();
  if (count > chunk_count(size) - first) {
    throw fail(code, "{}: ends at byte {}, before its chunks {} to {} of {} bytes", path.string(),
               size, first, first + count - 1, kChunkBytes);
  }
  std::vector<char> block(static_cast<std::size_t>(std::clamp<std::int64_t>(size, 1, kBlock)));
  std::vector<std::string> digests;
  for (auto chunk = first; chunk < first + count; ++chunk) {
    Xxh3 digest;
    const auto end = std::min(size, (chunk + 1) * kChunkBytes);
    for (auto at = chunk * kChunkBytes; at < end;) {
      const auto wanted = std::min<std::int64_t>(std::ssize(block), end - at);
      const auto got = file.read_at(at, block.data(), static_cast<std::size_t>(wanted));
      if (got == 0) throw fail(code, "{}: shrank to {} bytes while read", path.string(), at);
      digest.update(block.data(), got);
      at += static_cast<std::int64_t>(got);
    }
    digests.push_back(digest.hex());
    comm::note_progress();
  }
  return digests;
}

Manifest measure_files(const std::filesystem::path& entry, std::int64_t step,
                       const std::vector<std::string>& names, ExitCode code) {
  Manifest manifest{.step = step, .files = {}};
  for (const auto& name : names) {
    const auto path = entry / name;
    const auto bytes = regular_file_size(path, code);
    manifest.files.push_back({name, bytes, chunk_digests(path, 0, chunk_count(bytes), code)});
  }
  return manifest;
}

}  // namespace pg::io

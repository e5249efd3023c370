#include "io/manifest.h"

#include <nlohmann/json.hpp>

#include "io/files.h"

namespace pg::io {

namespace {

constexpr const char* kFormat = "pentagrid checkpoint";
constexpr int kVersion = 1;

Manifest values_of(const nlohmann::json& json) {
  Manifest manifest;
  manifest.step = json.at("step").get<std::int64_t>();
  for (const auto& file : json.at("files")) {
    manifest.files.push_back({file.at("name").get<std::string>(),
                              file.at("bytes").get<std::int64_t>(),
                              file.at("xxh3_128").get<std::string>()});
  }
  return manifest;
}

}  // namespace

std::int64_t Manifest::bytes() const {
  std::int64_t sum = 0;
  for (const auto& file : files) sum += file.bytes;
  return sum;
}

std::string render_manifest(const Manifest& manifest) {
  const auto quoted = [](const std::string& text) { return nlohmann::json(text).dump(); };
  std::string text = fmt::format("{{\n  \"format\": \"{}\",\n  \"version\": {},\n  \"step\": {},\n",
                                 kFormat, kVersion, manifest.step);
  text += "  \"files\": [";
  const char* separator = "\n";
  for (const auto& file : manifest.files) {
    text += fmt::format("{}    {{\"name\": {}, \"bytes\": {}, \"xxh3_128\": {}}}", separator,
                        quoted(file.name), file.bytes, quoted(file.digest));
    separator = ",\n";
  }
  text += "\n  ],\n";
  text += fmt::format("  \"xxh3_128_of_the_bytes_above\": \"{}\"\n}}\n", digest_of_text(text));
  return text;
}

Manifest parse_manifest(std::string_view text, const std::string& where) {
  if (text.empty()) throw fail(ExitCode::kCheckpoint, "{}: empty", where);
  Manifest manifest;
  try {
    manifest = values_of(nlohmann::json::parse(text));
  } catch (const nlohmann::json::exception& error) {
    throw fail(ExitCode::kCheckpoint, "{}: damaged, not a manifest: {}", where, error.what());
  }
  for (const auto& file : manifest.files) {
    if (file.name.empty() || file.name.front() == '.' || file.name.find('/') != std::string::npos ||
        file.name.find('\0') != std::string::npos) {
      throw fail(ExitCode::kCheckpoint, "{}: names a file outside the entry", where);
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

Manifest measure_files(const std::filesystem::path& entry, std::int64_t step,
                       const std::vector<std::string>& names, ExitCode code) {
  Manifest manifest{.step = step, .files = {}};
  for (const auto& name : names) {
    const auto path = entry / name;
    manifest.files.push_back({name, regular_file_size(path, code), digest_of_file(path, code)});
  }
  return manifest;
}

}  // namespace pg::io

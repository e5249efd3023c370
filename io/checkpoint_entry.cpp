// Entries of a checkpoint directory: their names, their verification, their small files.
#include "io/checkpoint_entry.h"

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

#include "io/checkpoint.h"
#include "io/checkpoint_state.h"
#include "io/files.h"
#include "io/json_nesting.h"
#include "io/manifest.h"

namespace pg::io {

namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr std::string_view kPrefix = "step-";
constexpr const char* kRunFormat = "pentagrid run";
constexpr int kRunVersion = 1;
// A hostile small file may not fill memory: parsed JSON takes up to fifty times its text.
constexpr std::int64_t kSmallLimit = std::int64_t{8} << 20;
constexpr int kDeepestJson = 64;

// What a manifest may have: a line of 41 bytes for each chunk of the files that are there, and at
// least what any small file may.
std::int64_t manifest_limit(const fs::path& entry) {
  regular_file_size(entry / kManifestName, ExitCode::kCheckpoint);  // the first to miss
  constexpr std::int64_t kChunkLine = 48;
  std::int64_t limit = kSmallLimit;
  for (const auto& name : entry_files()) {
    limit += kChunkLine * chunk_count(regular_file_size(entry / name, ExitCode::kCheckpoint));
  }
  return limit;
}

// The last name of a path, with or without a slash behind it.
std::string last_name(const fs::path& path) {
  const auto normal = path.lexically_normal();
  return normal.has_filename() ? normal.filename().string()
                               : normal.parent_path().filename().string();
}

}  // namespace

std::vector<std::string> entry_files() {
  return {kDeckName, kRunName, kStateName};
}

std::string checkpoint_name(std::int64_t step) {
  return fmt::format("{}{:09}", kPrefix, step);
}

std::optional<std::int64_t> checkpoint_step(const std::string& name) {
  if (!name.starts_with(kPrefix)) return std::nullopt;
  std::int64_t step = -1;
  const char* end = name.data() + name.size();
  const auto [stop, error] = std::from_chars(name.data() + kPrefix.size(), end, step);
  // One name a step: no other spelling of the same number.
  if (error != std::errc() || stop != end || step < 0 || checkpoint_name(step) != name) {
    return std::nullopt;
  }
  return step;
}

Manifest read_manifest(const fs::path& entry) {
  std::error_code error;
  if (!fs::is_directory(entry, error)) {
    throw fail(ExitCode::kCheckpoint, "{}: {}", entry.string(),
               error || !fs::exists(entry, error) ? "no such checkpoint" : "not a directory");
  }
  const auto path = entry / kManifestName;
  auto manifest =
      parse_manifest(read_small(path, manifest_limit(entry), ExitCode::kCheckpoint), path.string());
  std::vector<std::string> names;
  for (const auto& file : manifest.files) names.push_back(file.name);
  if (names != entry_files()) {
    throw fail(ExitCode::kCheckpoint, "{}: lists the files {}, not {}", path.string(),
               joined(names), joined(entry_files()));
  }
  const auto named = checkpoint_step(last_name(entry));
  if (named && *named != manifest.step) {
    throw fail(ExitCode::kCheckpoint, "{}: is of step {}: the entry was renamed", path.string(),
               manifest.step);
  }
  return manifest;
}

void compare_sizes(const fs::path& entry, const Manifest& manifest) {
  for (const auto& file : manifest.files) {
    const auto path = entry / file.name;
    const auto size = regular_file_size(path, ExitCode::kCheckpoint);
    if (size != file.bytes) {
      throw fail(ExitCode::kCheckpoint, "{}: damaged: has {}, the manifest says {}", path.string(),
                 readable_bytes(size), readable_bytes(file.bytes));
    }
  }
}

void compare_chunks(const fs::path& entry, const ManifestFile& file, std::int64_t first,
                    std::int64_t count) {
  const auto path = entry / file.name;
  const auto digests = chunk_digests(path, first, count, ExitCode::kCheckpoint);
  for (std::int64_t c = 0; c < count; ++c) {
    const auto chunk = first + c;
    const auto& wanted = file.chunks[static_cast<std::size_t>(chunk)];
    const auto& found = digests[static_cast<std::size_t>(c)];
    if (found == wanted) continue;
    throw fail(ExitCode::kCheckpoint,
               "{}: damaged: the XXH3-128 of chunk {} of {} (bytes {} to {}) is {}, the manifest "
               "says {}",
               path.string(), chunk + 1, file.chunks.size(), chunk * kChunkBytes,
               std::min(file.bytes, (chunk + 1) * kChunkBytes) - 1, found, wanted);
  }
}

std::vector<std::string> foreign_files(const fs::path& entry) {
  std::vector<std::string> strays;
  const auto known = entry_files();
  std::error_code error;
  for (const auto& item : fs::directory_iterator(entry, error)) {
    const auto name = item.path().filename().string();
    if (name != kManifestName && std::find(known.begin(), known.end(), name) == known.end()) {
      strays.push_back(name);
    }
  }
  std::sort(strays.begin(), strays.end());
  return strays;
}

std::vector<CheckpointEntry> list_checkpoints(const fs::path& directory) {
  std::vector<CheckpointEntry> entries;
  try {
    if (!fs::exists(directory)) return entries;
    for (const auto& item : fs::directory_iterator(directory)) {
      const auto step = checkpoint_step(item.path().filename().string());
      if (step) entries.push_back({*step, item.path()});
    }
  } catch (const fs::filesystem_error& error) {
    throw fail(ExitCode::kCheckpoint, "{}: cannot be listed: {}", directory.string(),
               error.code().message());
  }
  std::sort(entries.begin(), entries.end(),
            [](const auto& a, const auto& b) { return a.step > b.step; });
  return entries;
}

std::vector<std::string> verify_checkpoint(const fs::path& entry) {
  const auto manifest = read_manifest(entry);
  compare_sizes(entry, manifest);
  for (const auto& file : manifest.files) compare_chunks(entry, file, 0, std::ssize(file.chunks));
  return foreign_files(entry);
}

std::string render_run(const CheckpointInfo& info) {
  Json provenance = Json::object();
  if (!info.provenance.empty()) {
    provenance = Json::parse(info.provenance, nullptr, /*allow_exceptions=*/false);
  }
  PG_ASSERT(provenance.is_object(), "provenance {}", info.provenance);
  const auto guard = Json::parse(info.guard.empty() ? "{}" : info.guard, nullptr, false);
  PG_ASSERT(guard.is_object(), "guard {}", info.guard);
  Json run = {{"format", kRunFormat},
              {"version", kRunVersion},
              {"step", info.step},
              {"next_sample", info.next_sample},
              {"data_fingerprint", info.data_fingerprint},
              {"provenance", provenance}};
  if (!guard.empty()) run["guard"] = guard;
  return run.dump(2) + "\n";
}

CheckpointInfo read_checkpoint_info(const fs::path& entry) {
  const auto path = entry / kRunName;
  CheckpointInfo info;
  try {
    const auto text = read_small(path, kSmallLimit, ExitCode::kCheckpoint);
    if (nested_deeper_than(text, kDeepestJson)) {
      throw fail(ExitCode::kCheckpoint, "{}: nested more than {} deep", path.string(),
                 kDeepestJson);
    }
    const auto run = Json::parse(text);
    if (run.at("format") != kRunFormat || run.at("version") != kRunVersion) {
      throw fail(ExitCode::kCheckpoint, "{}: its format is not {} {}", path.string(), kRunFormat,
                 kRunVersion);
    }
    if (!run.at("step").is_number_integer() || !run.at("next_sample").is_number_integer() ||
        !run.at("provenance").is_object()) {
      throw fail(ExitCode::kCheckpoint, "{}: a value is of another type", path.string());
    }
    info.step = run.at("step").get<std::int64_t>();
    info.next_sample = run.at("next_sample").get<std::int64_t>();
    info.data_fingerprint = run.at("data_fingerprint").get<std::string>();
    info.provenance = run.at("provenance").dump();
    if (run.contains("guard")) info.guard = run.at("guard").dump();  // older ones have none
  } catch (const Json::exception& error) {
    throw fail(ExitCode::kCheckpoint, "{}: {}", path.string(), error.what());
  }
  if (info.step < 0 || info.next_sample < 0) {
    throw fail(ExitCode::kCheckpoint, "{}: step {} and next_sample {} must not be negative",
               path.string(), info.step, info.next_sample);
  }
  info.deck = read_small(entry / kDeckName, kSmallLimit, ExitCode::kCheckpoint);
  return info;
}

std::vector<comm::TensorRecord> read_checkpoint_tensors(const fs::path& entry) {
  return list_state(entry / kStateName);
}

}  // namespace pg::io

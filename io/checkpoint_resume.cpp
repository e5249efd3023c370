// Which checkpoint a run goes on from: see io/checkpoint.h.
#include <algorithm>
#include <chrono>

#include "comm/agree.h"
#include "io/checkpoint.h"
#include "io/checkpoint_entry.h"
#include "io/files.h"
#include "io/manifest.h"

namespace pg::io {

namespace {

namespace fs = std::filesystem;

std::int64_t unfinished_saves(const fs::path& directory) {
  std::int64_t count = 0;
  std::error_code error;
  for (const auto& item : fs::directory_iterator(directory, error)) {
    count += item.path().filename().string().starts_with(".step-");
  }
  return count;
}

// Names and paths are bytes without a NUL.
std::string joined_by_nul(const std::vector<std::string>& items) {
  std::string text;
  for (const auto& item : items) (text += item) += '\0';
  return text;
}
std::vector<std::string> split_at_nul(const std::string& text) {
  std::vector<std::string> items;
  for (std::size_t at = 0; at < text.size();) {
    const auto end = text.find('\0', at);
    items.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return items;
}
// Rank 0's, for all.
void share(comm::Group& group, std::vector<std::string>& items) {
  items = split_at_nul(comm::broadcast(group, joined_by_nul(items), 0));
}

// This rank's share of all chunks of all files, a contiguous run of them.
void compare_share(comm::Group& group, const fs::path& entry, const Manifest& manifest) {
  std::int64_t total = 0;
  for (const auto& file : manifest.files) total += std::ssize(file.chunks);
  const auto begin = total * group.rank() / group.size();
  const auto end = total * (group.rank() + 1) / group.size();
  std::int64_t before = 0;  // chunks of the files before
  for (const auto& file : manifest.files) {
    const auto chunks = std::ssize(file.chunks);
    const auto first = std::clamp<std::int64_t>(begin - before, 0, chunks);
    const auto last = std::clamp<std::int64_t>(end - before, 0, chunks);
    if (first < last) compare_chunks(entry, file, first, last - first);
    before += chunks;
  }
}

std::optional<VerifiedEntry> newest_checkpoint(comm::Group& group, const fs::path& directory,
                                               bool fresh_start_allowed,
                                               std::vector<std::string>& notes) {
  std::vector<std::string> entries;
  std::int64_t unfinished = 0;
  comm::together(group, [&] {
    if (group.rank() != 0) return;
    unfinished = unfinished_saves(directory);
    for (const auto& entry : list_checkpoints(directory)) entries.push_back(entry.path.string());
  });
  share(group, entries);
  unfinished = comm::all_reduce(group, unfinished, comm::ReduceOp::kMax);
  if (unfinished > 0) {
    notes.push_back(
        fmt::format("{}: {} unfinished saves (.step-*), ignored", directory.string(), unfinished));
  }
  std::vector<std::string> damages;
  for (const fs::path entry : entries) {
    try {
      return verify_together(group, entry, notes);
    } catch (const Error& error) {
      if (error.code() != ExitCode::kCheckpoint) throw;
      damages.push_back(error.what());
      notes.push_back(fmt::format("{} passed over: {}", entry.filename().string(), error.what()));
    }
  }
  if (!entries.empty()) {
    throw Error(ExitCode::kCheckpoint,
                fmt::format("{}: none of its {} checkpoints is intact: {}", directory.string(),
                            entries.size(), joined(damages, "; ")),
                group.size());
  }
  if (!fresh_start_allowed) {
    throw Error(ExitCode::kCheckpoint,
                fmt::format("{}: holds no checkpoint to resume from (checkpoint.resume = \"auto\" "
                            "would start afresh)",
                            directory.string()),
                group.size());
  }
  return std::nullopt;
}

}  // namespace

VerifiedEntry verify_together(comm::Group& group, const fs::path& entry,
                              std::vector<std::string>& notes) {
  const auto begin = std::chrono::steady_clock::now();
  std::string text;
  std::vector<std::string> strays;
  comm::together(group, [&] {
    if (group.rank() != 0) return;
    const auto manifest = read_manifest(entry);
    compare_sizes(entry, manifest);
    strays = foreign_files(entry);
    text = render_manifest(manifest);
  });
  share(group, strays);
  const auto manifest = parse_manifest(comm::broadcast(group, text, 0), entry / kManifestName);
  comm::together(group, [&] { compare_share(group, entry, manifest); });
  for (const auto& stray : strays) {
    notes.push_back(fmt::format("{}: foreign file, ignored", (entry / stray).string()));
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  return {entry, manifest.bytes(), comm::all_reduce(group, seconds.count(), comm::ReduceOp::kMax)};
}

std::optional<VerifiedEntry> find_checkpoint(comm::Group& group, const fs::path& directory,
                                             const std::string& resume,
                                             std::vector<std::string>& notes) {
  if (resume == "none") return std::nullopt;
  if (resume == "auto") return newest_checkpoint(group, directory, true, notes);
  if (resume == "latest") return newest_checkpoint(group, directory, false, notes);
  return verify_together(group, resume, notes);
}

}  // namespace pg::io

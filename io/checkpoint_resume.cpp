// Which checkpoint a run goes on from: see io/checkpoint.h.
#include "io/checkpoint.h"
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

void verify_with_notes(const fs::path& entry, std::vector<std::string>& notes) {
  for (const auto& stray : verify_checkpoint(entry)) {
    notes.push_back(fmt::format("{}: foreign file, ignored", (entry / stray).string()));
  }
}

std::optional<fs::path> newest_checkpoint(const fs::path& directory, bool fresh_start_allowed,
                                          std::vector<std::string>& notes) {
  const auto unfinished = unfinished_saves(directory);
  if (unfinished > 0) {
    notes.push_back(
        fmt::format("{}: {} unfinished saves (.step-*), ignored", directory.string(), unfinished));
  }
  const auto entries = list_checkpoints(directory);
  std::vector<std::string> damages;
  for (const auto& entry : entries) {
    try {
      verify_with_notes(entry.path, notes);
      return entry.path;
    } catch (const Error& error) {
      if (error.code() != ExitCode::kCheckpoint) throw;
      damages.push_back(error.what());
      notes.push_back(
          fmt::format("{} passed over: {}", entry.path.filename().string(), error.what()));
    }
  }
  if (!entries.empty()) {
    throw fail(ExitCode::kCheckpoint, "{}: none of its {} checkpoints is intact: {}",
               directory.string(), entries.size(), joined(damages, "; "));
  }
  if (!fresh_start_allowed) {
    throw fail(ExitCode::kCheckpoint,
               "{}: holds no checkpoint to resume from (checkpoint.resume = \"auto\" would start "
               "afresh)",
               directory.string());
  }
  return std::nullopt;
}

}  // namespace

std::optional<fs::path> find_checkpoint(const fs::path& directory, const std::string& resume,
                                        std::vector<std::string>& notes) {
  if (resume == "none") return std::nullopt;
  if (resume == "auto") return newest_checkpoint(directory, true, notes);
  if (resume == "latest") return newest_checkpoint(directory, false, notes);
  verify_with_notes(resume, notes);
  return resume;
}

}  // namespace pg::io

// Which checkpoints a run drops: see io/checkpoint.h.
#include <unistd.h>

#include "io/checkpoint.h"
#include "io/checkpoint_commit.h"
#include "io/checkpoint_entry.h"
#include "io/manifest.h"

namespace pg::io {

namespace fs = std::filesystem;

namespace {

// Why a resume would pass this entry over, without reading what its files hold; empty: sound.
std::string unsound(const fs::path& entry) {
  try {
    compare_sizes(entry, read_manifest(entry));
    return "";
  } catch (const Error& error) {
    return error.what();
  }
}

}  // namespace

std::vector<std::string> prune_checkpoints(const fs::path& directory, const PruneRule& rule,
                                           const SaveObserver& observer) {
  std::vector<std::string> warnings;
  if (rule.keep <= 0) return warnings;
  std::int64_t kept = 0;
  for (const auto& entry : list_checkpoints(directory)) {
    if (entry.step > rule.last_saved) continue;
    if (kept < rule.keep) {
      const auto why = unsound(entry.path);
      if (kept == 0 && !why.empty()) {
        throw fail(ExitCode::kSave, "nothing older was removed: {}", why);
      }
      if (why.empty()) ++kept;
      continue;
    }
    if (rule.keep_every > 0 && entry.step % rule.keep_every == 0) continue;
    if (observer) observer("prune");
    // Out of sight first: a crash half-way leaves no half-empty entry behind.
    const auto hidden =
        directory / fmt::format(".{}.{}.pruned", checkpoint_name(entry.step), ::getpid());
    if (const auto error = move_tree(entry.path, hidden)) {
      warnings.push_back(
          fmt::format("{}: cannot be removed: {}", entry.path.string(), error.message()));
      continue;
    }
    if (observer) observer("pruned");
    if (const auto error = remove_tree(hidden)) {
      warnings.push_back(
          fmt::format("{}: what was pruned cannot be removed, the next save tries again: {}",
                      hidden.string(), error.message()));
    }
  }
  return warnings;
}

}  // namespace pg::io

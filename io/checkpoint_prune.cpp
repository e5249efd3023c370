// Which checkpoints a run drops: see io/checkpoint.h.
#include <unistd.h>

#include "io/checkpoint.h"
#include "io/checkpoint_entry.h"
#include "io/manifest.h"

namespace pg::io {

namespace fs = std::filesystem;

void prune_checkpoints(const fs::path& directory, const PruneRule& rule,
                       const SaveObserver& observer) {
  if (rule.keep <= 0) return;
  std::int64_t kept = 0;
  for (const auto& entry : list_checkpoints(directory)) {
    if (entry.step > rule.last_saved) continue;
    if (kept == 0) {
      try {
        compare_sizes(entry.path, read_manifest(entry.path));
      } catch (const Error& error) {
        throw fail(ExitCode::kSave, "nothing older was removed: {}", error.what());
      }
    }
    if (kept < rule.keep) {
      ++kept;
      continue;
    }
    if (rule.keep_every > 0 && entry.step % rule.keep_every == 0) continue;
    if (observer) observer("prune");
    // Out of sight first: a crash half-way leaves no half-empty entry behind.
    const auto hidden =
        directory / fmt::format(".{}.{}.pruned", checkpoint_name(entry.step), ::getpid());
    std::error_code error;
    fs::rename(entry.path, hidden, error);
    if (!error && observer) observer("pruned");
    if (!error) fs::remove_all(hidden, error);
    if (error) {
      throw fail(ExitCode::kSave, "{}: cannot be removed: {}", entry.path.string(),
                 error.message());
    }
  }
}

}  // namespace pg::io

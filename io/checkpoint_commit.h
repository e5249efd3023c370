// What rank 0 does around the data of a save: directories, small files and manifest, the rename
// that makes an entry count, and what killed processes left behind. No MPI, no HDF5, any thread.
#pragma once

#include <filesystem>
#include <string>
#include <system_error>
#include <vector>

#include "io/checkpoint.h"

namespace pg::io {

// Makes `directory` and lasting entries for it in its parents. Error(kSave).
void make_lasting_directory(const std::filesystem::path& directory);

// An entry that was moved aside for another that never came gets its name back, so that a resume
// finds it. The caller is the only process that writes here.
void give_names_back(const std::filesystem::path& directory);
// Does that, and removes what else saves and prunings of other processes left under names of ours
// (`.step-...`). What cannot be removed is left.
void remove_leftovers(const std::filesystem::path& directory);

// Renames it, or removes it with all that is in it. Marked for the watchdog: storage may be slow to
// forget what is large. The system's reason on failure.
std::error_code move_tree(const std::filesystem::path& from, const std::filesystem::path& to);
std::error_code remove_tree(const std::filesystem::path& path);

// Writes the small files of the entry that is being made in `temporary`, and its manifest: of
// state.h5 these digests, of the others what storage returns. Synced. Error(kSave).
void describe_entry(const std::filesystem::path& temporary, const CheckpointInfo& info,
                    std::int64_t state_bytes, std::vector<std::string> state_chunks);

// Moves a complete temporary directory to its final name. An entry already there is out of the way
// without a moment in which neither exists, where the file system can exchange names; else it gets
// a dot-name for the moment. `undo` restores what was; `finish` removes the replaced entry.
class Publication {
 public:
  Publication(std::filesystem::path temporary, std::filesystem::path final);
  void undo() noexcept;
  void finish() noexcept;

 private:
  std::filesystem::path temporary_, final_, replaced_, old_;
};

}  // namespace pg::io

// Checkpoints: the logical state of a run in a directory entry `step-NNNNNNNNN` that any grid can
// load.
//
//   state.h5        HDF5 (libver latest), one contiguous dataset a tensor (global, unfused): laid
//                   out by rank 0, then each rank writes its bytes at their offsets (pwrite)
//   run.json        step, cursor, dataset fingerprint, provenance
//   deck.toml       the resolved deck
//   manifest.json   sizes and XXH3-128 (of each 16 MiB) of the files above, and its own digest
//
// Commit: everything is written under `.step-NNNNNNNNN.PID`, fsynced by each rank that wrote, read
// once for the digests (from the page cache mostly; SaveOptions::verify reads storage), renamed to
// its final name, and the parent directory is fsynced. What has the final name is complete; whether
// storage still returns it is what verify tells.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "comm/mpi_session.h"
#include "comm/tensor_record.h"
#include "io/files.h"  // require_space goes with checkpoint_bytes

namespace pg::io {

struct CheckpointInfo {
  std::int64_t step = 0;         // completed updates
  std::int64_t next_sample = 0;  // the data cursor: index of the next sample for io::Sampler
  std::string data_fingerprint;  // of the training token file
  std::string guard = {};        // JSON object: which steps got no update; empty: none is known of
  std::string deck;              // resolved deck, TOML
  std::string provenance;        // JSON object: program version, grid, hosts, date, seed, ...
                                 // (comes back as compact JSON, keys in their order)
};

struct CheckpointEntry {
  std::int64_t step = 0;
  std::filesystem::path path;
};

// Called on every rank as a save reaches each phase; a throw there is a failure of the save.
//   "layout" "data" (before each tensor) "sync" "verify" (before reading back) "digest"
//   "publish" (before the rename) "published" (after it, before the directory's fsync)
//   "prune" and "pruned" (before and after an older entry is renamed; rank 0)
// What is thrown from "prune" on leaves the new entry where it is.
using SaveObserver = std::function<void(std::string_view phase)>;

struct SaveOptions {
  bool async = false;   // for CheckpointSaver
  bool stable = false;  // asynchronous: the tensors stay as they are till the end, so no copy
  bool verify = false;  // read everything back from storage before it counts
  std::vector<std::string> hints = {};    // "NAME=VALUE" for MPI-IO, where the file is made
  std::int64_t alignment = 4096;          // bytes; of tensors of a MiB or more in the file
  std::int64_t keep = 0, keep_every = 0;  // pruning after the commit, as prune_checkpoints
};

// `step-000000900`; more digits from step 10^9 on.
std::string checkpoint_name(std::int64_t step);
// The step that a name is of; nothing for any other name.
std::optional<std::int64_t> checkpoint_step(const std::string& name);
// Entries that carry a final name, whatever they are, newest (highest number) first. Foreign and
// unfinished ones are skipped. A missing directory is an empty list; an unreadable one is
// Error(kCheckpoint).
std::vector<CheckpointEntry> list_checkpoints(const std::filesystem::path& directory);

// Collective. Writes `<directory>/step-<info.step>`; each slab by its owner. Every rank passes all
// tensors, in one order. Returns its path. Error(kSave) on all ranks when any part failed on any
// rank, Error(kNumerical) when a tensor holds a value that is not finite; then no new entry with
// the final name exists and older ones are untouched. An existing entry of the same step is
// replaced once the new one is complete. What killed saves left behind is removed.
std::filesystem::path save_checkpoint(const comm::Communicator& world,
                                      const std::filesystem::path& directory,
                                      const CheckpointInfo& info,
                                      std::span<const comm::TensorRecord> tensors,
                                      const SaveObserver& observer = {},
                                      const SaveOptions& options = {});

// Serial. Reads every byte and compares it with the manifest: Error(kCheckpoint) naming the file
// and what is wrong. Returns the names of files in the entry that the manifest does not know; they
// do no harm.
std::vector<std::string> verify_checkpoint(const std::filesystem::path& entry);
// Serial. Small files only; verify first.
CheckpointInfo read_checkpoint_info(const std::filesystem::path& entry);
// Serial. The tensors an entry holds, by name, without slabs. Error(kCheckpoint).
std::vector<comm::TensorRecord> read_checkpoint_tensors(const std::filesystem::path& entry);

// What a load read. Bytes include those between narrow slabs that were cheaper to read than to
// skip.
struct LoadReport {
  double seconds = 0;            // of the slowest rank, from the first collective call on
  std::int64_t bytes = 0;        // this rank
  std::int64_t reads = 0;        // this rank; each consecutive bytes
  std::int64_t most_bytes = 0;   // of one rank
  std::int64_t total_bytes = 0;  // of all ranks
};

// Collective; verify first. Every rank passes all tensors, in one order. Fills each slab of each
// record from the file: rank 0 alone opens it with HDF5, then each rank reads what it holds by
// offset. Error(kCheckpoint) listing every tensor that is missing, superfluous, or of another shape
// or type; kBug when a rank has another list.
LoadReport load_checkpoint(const comm::Communicator& world, const std::filesystem::path& entry,
                           std::span<const comm::TensorRecord> tensors);

// An entry of which every byte was compared with its manifest.
struct VerifiedEntry {
  std::filesystem::path path;
  std::int64_t bytes = 0;  // of the files that the manifest lists
  double seconds = 0;      // that verifying this one took
};

// Collective. verify_checkpoint with the work shared out: each byte is read by one rank of `group`.
// The same result and the same Error on every rank; foreign files are added to `notes`.
VerifiedEntry verify_together(comm::Group& group, const std::filesystem::path& entry,
                              std::vector<std::string>& notes);

// Collective. The verified entry that `resume` ("none", "auto", "latest" or the path of an entry)
// means for this directory; nothing: a fresh start. The same on every rank; what rank 0 sees in the
// directory counts. "auto" and "latest" take the newest entry that verifies; `notes` then gets, for
// the banner, which ones were passed over and why. Error(kCheckpoint) when entries exist and none
// verifies, when none exists (except for "auto"), and when a given path does not verify.
std::optional<VerifiedEntry> find_checkpoint(comm::Group& group,
                                             const std::filesystem::path& directory,
                                             const std::string& resume,
                                             std::vector<std::string>& notes);

// At least the bytes that save_checkpoint writes for these tensors (global shapes), at most 100 KiB
// and 1 KiB a tensor (and the alignment for those of a MiB or more) above.
std::int64_t checkpoint_bytes(std::span<const comm::TensorRecord> tensors,
                              std::int64_t alignment = 4096);

struct PruneRule {
  std::int64_t keep = 0;        // the newest so many that are sound; 0: all
  std::int64_t keep_every = 0;  // and those of steps that this divides; 0: no others
  // The step just saved: newer entries are damaged ones that a resume passed over, and counting
  // them would remove good ones in their favour.
  std::int64_t last_saved = std::numeric_limits<std::int64_t>::max();
};
// Removes the other entries of step `last_saved` or below, each renamed out of sight first. Sound
// is one with a sound manifest and files of its sizes; among the newest, one that is not takes
// nobody's place and stays. Only when the newest of all is sound; else Error(kSave) and all stay.
// Returns a warning for each one that could not be removed, naming its path: nothing is lost by
// that. Collective callers: rank 0 only. `observer`: "prune" and "pruned".
std::vector<std::string> prune_checkpoints(const std::filesystem::path& directory,
                                           const PruneRule& rule,
                                           const SaveObserver& observer = {});

}  // namespace pg::io

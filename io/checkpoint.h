// Checkpoints: the logical state of a run in a directory entry `step-NNNNNNNNN` that any grid can
// load.
//
//   state.h5        parallel HDF5 (libver latest), one dataset a tensor (global, unfused), written
//                   collectively; contiguous layout only
//   run.json        step, cursor, dataset fingerprint, provenance
//   deck.toml       the resolved deck
//   manifest.json   size and XXH3-128 of every byte of the files above, and its own digest
//
// Commit: everything is written under `.step-NNNNNNNNN.PID`, flushed, closed, fsynced (H5Fclose
// does not), renamed to its final name, and the parent directory is fsynced. What has the final
// name is complete; whether storage still returns it is what verify tells.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "comm/mpi_session.h"
#include "comm/tensor_record.h"

namespace pg::io {

struct CheckpointInfo {
  std::int64_t step = 0;         // completed updates
  std::int64_t next_sample = 0;  // the data cursor: index of the next sample for io::Sampler
  std::string data_fingerprint;  // of the training token file
  std::string deck;              // resolved deck, TOML
  std::string provenance;        // JSON object: program version, grid, hosts, date, seed, ...
};

struct CheckpointEntry {
  std::int64_t step = 0;
  std::filesystem::path path;
};

// Entries that carry a final name, newest (highest number) first. Foreign and unfinished ones are
// skipped. A missing directory is an empty list.
std::vector<CheckpointEntry> list_checkpoints(const std::filesystem::path& directory);

// Collective. Writes `<directory>/step-<info.step>`; each slab by its owner. Returns its path.
// Error(kSave) on all ranks when any part failed on any rank; then no entry with the final name
// exists and older ones are untouched. An existing entry of the same step is replaced.
std::filesystem::path save_checkpoint(const comm::Communicator& world,
                                      const std::filesystem::path& directory,
                                      const CheckpointInfo& info,
                                      std::span<const comm::TensorRecord> tensors);

// Serial. Reads every byte and compares it with the manifest: Error(kCheckpoint) naming the file
// and what is wrong.
void verify_checkpoint(const std::filesystem::path& entry);
// Serial. Small files only; verify first.
CheckpointInfo read_checkpoint_info(const std::filesystem::path& entry);

// Collective; verify first. Fills each slab of each record from the file. Error(kCheckpoint)
// listing every tensor that is missing, superfluous, or of another shape or type.
void load_checkpoint(const comm::Communicator& world, const std::filesystem::path& entry,
                     std::span<const comm::TensorRecord> tensors);

// Bytes that save_checkpoint will write for these tensors (global shapes), within a few KiB.
std::int64_t checkpoint_bytes(std::span<const comm::TensorRecord> tensors);
// Removes all but the newest `keep` entries (0: none removed). Collective callers: rank 0 only.
void prune_checkpoints(const std::filesystem::path& directory, std::int64_t keep);

}  // namespace pg::io

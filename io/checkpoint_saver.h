// Saves of a run, one after the other, by one engine: blocking, or written by a background thread
// while training goes on. The thread calls neither MPI nor HDF5.
//
// A save: the state is copied (asynchronous ones only) -> rank 0 lays the file out -> all write
// what they own, look for values that are not finite, sync, read back if asked -> the file's chunks
// are digested, shared out over the ranks -> rank 0 writes the small files and renames (commit) ->
// it prunes. Ranks agree after each: what failed anywhere ends the save on all of them, with the
// same Error at the same call, and nothing of it stays.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "comm/mpi_session.h"
#include "io/checkpoint.h"

namespace pg::io {

struct SaveReport {
  std::filesystem::path path;
  std::int64_t step = 0;
  std::int64_t bytes = 0;     // of the tensors' file
  double stall_seconds = 0;   // in which the caller did nothing else; the slowest rank's
  double seconds = 0;         // from start() to the commit; likewise
  double work_seconds = 0;    // of the copy and each phase on its slowest rank, without the time
                              // between phases in which nothing was saved
  double waited_seconds = 0;  // of the stall: for an earlier save, before this one began
  std::vector<std::string> warnings = {};  // rank 0: older entries that could not be removed
};

// Methods are collective; all ranks pass the same but for the slabs. One saver at a time writes to
// a directory. After an Error nothing is pending, and the next start() begins afresh.
class CheckpointSaver {
 public:
  // `observer`: as in save_checkpoint, but "layout" to "pruned" of an asynchronous save come from
  // its thread.
  CheckpointSaver(const comm::Communicator& world, std::filesystem::path directory,
                  SaveOptions options, SaveObserver observer = {});
  // Abandons a pending save: waits for its thread, not for other ranks; removes its files.
  ~CheckpointSaver();
  CheckpointSaver(const CheckpointSaver&) = delete;
  CheckpointSaver& operator=(const CheckpointSaver&) = delete;

  // Plans the file and takes the memory that a save of these tensors needs, so that the first one
  // stalls no longer than later ones. start() does what is missing. Error(kSave).
  void prepare(std::span<const comm::TensorRecord> tensors);

  // Begins a save: waits for a pending one, whose report it returns. Asynchronous: the tensors may
  // change as soon as it returns (options.stable: once a report came). Blocking: all else happens
  // in finish(), and they may not change before. Errors as save_checkpoint.
  // `prune` false: no older one is removed for it.
  std::optional<SaveReport> start(const CheckpointInfo& info,
                                  std::span<const comm::TensorRecord> tensors, bool prune = true);
  // Moves a pending asynchronous save along without waiting for its thread: between steps. The
  // third call begins the commit when storage keeps up with the steps; slower storage costs one
  // more in each phase. (The first call after a phase began agrees with the other ranks at once,
  // which come from the same step.) A report once the save has ended. Errors as save_checkpoint, on
  // all ranks in the same call.
  std::optional<SaveReport> poll();
  // Waits for the end of a pending save.
  std::optional<SaveReport> finish();
  bool pending() const;

 private:
  class Engine;
  std::unique_ptr<Engine> engine_;
};

}  // namespace pg::io

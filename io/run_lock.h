// One job at a time in an output folder: run.output/.lock, taken before anything else there is read
// or written. It says who has it; a thread counts up in it every few seconds, so that hosts that
// cannot see each other's processes can tell a living owner from one that was killed, without
// comparing clocks.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>

namespace pg::io {

struct RunLockOptions {
  double beat_s = 5;       // the owner's; one that does not beat for 3 of them, plus one, is gone
  bool hard_links = true;  // false: as on a file system that has none
  // Said while it takes long, and of a lock that was taken over.
  std::function<void(const std::string& note)> note;
};

class RunLock {
 public:
  // Of one rank of the job. Makes the folder where it is missing. A lock whose owner is gone is
  // taken over: its process has ended (same boot, same process namespace), it was an earlier start
  // of this Slurm job, or it does not beat. Error(kDeck) naming run.output and the owner when
  // another job has it; Error(kSave) when the file cannot be made.
  RunLock(const std::filesystem::path& folder, RunLockOptions options);
  // Removes the file, and a folder that was made for it and is empty still.
  ~RunLock();
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;

  // Error(kSave) when another job took the lock over meanwhile, as it may from a process that was
  // stopped for long: what is written now would be in its way.
  void require_held() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace pg::io

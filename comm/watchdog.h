// Notices that a job hangs, says where each rank is, and ends it with exit code 6: a collective
// that a rank never reaches, a file operation that never returns, an endless loop.
//
// A thread of each rank, which calls neither MPI nor HDF5, writes what the rank does to a file of
// its own in a folder on shared storage (comm/heartbeat.h). When no rank of the job has made
// progress (comm/activity.h) for the limit, the first rank to claim the report prints it on
// standard error, and all end. So a rank that works for long and notes progress raises no alarm
// while others wait for it; nor does a process that was itself stopped for a while and goes on.
//
// Storage that does not answer holds up that thread too: a second one, which touches no file, then
// prints its own rank's record and ends it, when the rank makes no progress either.
//
// Not covered: MPI_Init and MPI_Finalize and what else lies outside its life, and a job all of
// whose processes are stopped.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>

#include "comm/group.h"

namespace pg::comm {

struct WatchdogOptions {
  std::filesystem::path run_output;  // its folder is run_output/.watchdog
  double limit_s = 0;                // above 0
  // On the rank that reports, from its watching thread, before the job ends: what stays behind
  // (exit.json). The headline of the report.
  std::function<void(const std::string& headline)> report;
};

class Watchdog {
 public:
  // Collective over `world`, whose ranks in the job are `job_ranks`; all alike on all ranks but
  // `report`. Empties the folder of what an earlier job left there. Error(kSave) naming run.output
  // when the folder cannot be made or written, on all ranks.
  Watchdog(Group& world, std::vector<int> job_ranks, WatchdogOptions options);
  // The rank is no longer watched; its file goes, and the folder with the last one.
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

 private:
  class Monitor;
  std::unique_ptr<Monitor> monitor_;
};

}  // namespace pg::comm

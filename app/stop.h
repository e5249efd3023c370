// Why a run stops before its end: a signal on any rank, the file run.output/stop, the wall limit
// (the deck's or the batch system's), run.stop_after. All of them lead to the same end: the ranks
// agree, after a step or between the batches of an evaluation, save, and exit with 75.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <string>

#include "app/deck.h"
#include "app/resume.h"
#include "app/time_left.h"
#include "comm/group.h"

namespace pg::app {

// What the run would have to do before it could stop after the next step, in seconds.
struct Ahead {
  double save = 0;        // one save
  bool save_due = false;  // after this step, whether the run stops or not
  double step = 0;        // what the last step took, with its records; 0: there was none
  double evaluation = 0;  // what the next step's evaluation will take; 0: it has none
};

class Stop {
 public:
  // Collective, once run.output is known to be this run's. `started`: when the program did, from
  // which run.wall_limit counts. A stop file that lies there already is removed, which rank 0 says:
  // a start is a newer wish than the file. One made from here on is obeyed, and one that a requeued
  // Slurm job finds: its script has looked for older ones.
  Stop(const Deck& deck, comm::Group& world, const std::filesystem::path& output,
       std::chrono::steady_clock::time_point started, Say say);

  // Collective, before the first step and after each one. Empty: go on; else why not, the same on
  // every rank: "SIGUSR1 on rank 1 (host)". The wall limit stops no run that has nothing to go by,
  // `ahead.step` of this slice: each slice makes progress.
  std::string agreed(std::int64_t step, const Ahead& ahead);
  // Collective, between the batches of an evaluation, which only what cannot wait cuts short:
  // signals, the stop file, and a wall limit that leaves no room for a batch of so many seconds and
  // a save.
  std::string agreed_in_evaluation(double save_seconds, double batch_seconds);

 private:
  // What this rank alone has to say; no kind: nothing.
  struct Wish {
    int kind = 0;
    std::string why;
  };
  Wish asked_wish();
  Wish wall_limit_wish(double seconds, const char* what);
  std::string agree(const Wish& mine);
  bool take_stop_file();

  std::int64_t stop_after_;
  comm::Group& world_;
  std::filesystem::path file_;
  Say say_;
  TimeLeft time_;              // rank 0's
  std::deque<double> recent_;  // steps, in seconds
};

}  // namespace pg::app

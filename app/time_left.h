// How long the run may still go on: run.wall_limit, or what the batch system leaves the job.
//
// Under Slurm `squeue -h -j JOB -o %L` is asked at the start and every minute while the run goes
// on, since limits get extended; without an answer SLURM_JOB_END_TIME counts, and without that a
// warning says that no limit is known. Nothing here waits longer than a few seconds, once.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "app/background_command.h"
#include "app/resume.h"

namespace pg::app {

// What `squeue -o %L` prints, in seconds: [days-][[hours:]minutes:]seconds. UNLIMITED is infinity;
// nothing for NOT_SET, INVALID and everything else.
std::optional<double> parse_time_left(std::string_view text);

// Of one rank.
class TimeLeft {
 public:
  using Clock = std::chrono::steady_clock;

  TimeLeft() = default;  // no limit
  // `wall_limit` seconds from `started`; 0: what the batch system says, if this is a job of one,
  // asked again after each `ask_every`.
  TimeLeft(std::int64_t wall_limit, Clock::time_point started, const Say& say,
           Clock::duration ask_every = std::chrono::minutes(1));

  // Nothing: no limit, or none that is known. Asks again now and then.
  std::optional<double> seconds();
  // "run.wall_limit = 3600", "the time limit of Slurm job 12"
  const std::string& source() const { return source_; }
  // What it takes from the end of the last save to the end of the program: records, MPI's end. A
  // second for a limit of the deck; ten under Slurm, whose clock has begun before the program did
  // and shows whole seconds.
  double leave_seconds() const { return job_.empty() ? 1.0 : 10.0; }

 private:
  void ask();
  void take(const std::string& answer);

  Clock::time_point end_ = Clock::time_point::max();  // max: no limit
  std::string source_, job_;
  std::unique_ptr<BackgroundCommand> question_;
  Clock::time_point asked_;
  Clock::duration ask_every_{};
};

}  // namespace pg::app

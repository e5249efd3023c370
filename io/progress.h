// A progress bar with the remaining time, for people: drawn over itself on a terminal, silent
// anywhere else, gone when the work is done.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>

namespace pg::io {

// Whether a person sees `out` as a terminal. Open MPI's mpirun gives rank 0 a terminal of its own
// even when its own output goes to a file: then what mpirun's output is decides.
bool watched_terminal(std::FILE* out);

class Progress {
 public:
  // `total` in any unit; 0 or less: unknown, only the label is shown.
  Progress(std::string label, std::int64_t total, std::FILE* out = stdout);
  ~Progress();  // clears the line
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // Redraws at most ten times a second. One thread only.
  void update(std::int64_t done);

  // The line itself: `label [#####.....]  50%  12 s left`, of at most `width` columns.
  static std::string line(const std::string& label, double fraction, double elapsed_s, int width);

 private:
  using Clock = std::chrono::steady_clock;
  std::string label_;
  std::int64_t total_;
  std::FILE* out_;
  bool terminal_;
  bool drawn_ = false;
  Clock::time_point start_ = Clock::now(), last_ = start_;
};

}  // namespace pg::io

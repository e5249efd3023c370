// A short command of the system, asked without waiting for it: a batch system's controller may be
// slow or gone, and training must not hang with it.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

namespace pg::app {

class BackgroundCommand {
 public:
  // Starts argv[0] from PATH, without a shell, in a process group of its own, with /dev/null for
  // its input and errors. What cannot be started ends at once with empty output.
  explicit BackgroundCommand(const std::vector<std::string>& argv);
  ~BackgroundCommand();  // ends it, with what it started
  BackgroundCommand(const BackgroundCommand&) = delete;
  BackgroundCommand& operator=(const BackgroundCommand&) = delete;

  // Its standard output (of the first 4 KiB) once it has ended with status 0, empty for any other
  // status; nothing while it runs. Waits for at most `patience`.
  std::optional<std::string> output(std::chrono::milliseconds patience);

 private:
  void read_some();

  int pid_ = -1;  // -1: none, or ended
  int pipe_ = -1;
  std::string text_;
};

}  // namespace pg::app

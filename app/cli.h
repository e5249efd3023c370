// The command line: which command, with which arguments. Commands are rows of a table that main
// holds; misuse is Error(kDeck).
#pragma once

#include <chrono>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "comm/group.h"

namespace pg::app {

struct Invocation {
  std::string deck;                    // commands that take a deck
  std::vector<std::string> overrides;  // section.key=value
  int ranks = 0;                       // --ranks; 0: not given
  std::string operand;                 // PATH of inspect, SECTION of help (may be empty)
  std::chrono::steady_clock::time_point started = std::chrono::steady_clock::now();
};

struct Command {
  enum class Takes { kDeck, kDeckAndRanks, kPath, kSection };

  std::string name, summary;
  Takes takes = Takes::kDeck;
  bool parallel = false;  // runs under a launcher: MPI is initialised and `world` is not null
  // Returns the exit code. A parallel command returns, or throws the same Error, on all ranks.
  std::function<int(const Invocation&, comm::Group* world)> run;
  bool stops_on_signals = false;  // SIGTERM and SIGUSR1 are caught: see app/stop_signals.h
};

struct CommandLine {
  const Command* command = nullptr;  // none: print `text` and exit 0 (--help, --version)
  Invocation call;
  std::string text;
};

CommandLine parse_command_line(std::span<const Command> commands, int argc,
                               const char* const* argv);

// This process's rank as its launcher's environment tells it, without MPI; 0 when none does.
int launcher_rank();

}  // namespace pg::app

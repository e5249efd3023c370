// The executable: command, MPI, run, exit code.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <new>
#include <optional>
#include <string_view>

#include "app/check.h"
#include "app/cli.h"
#include "app/help.h"
#include "app/inspect.h"
#include "app/prepare.h"
#include "app/ranks_in_use.h"
#include "app/schema.h"
#include "app/stop_signals.h"
#include "app/train_on_ranks.h"
#include "app/verify.h"
#include "comm/error.h"
#include "comm/mpi_session.h"

namespace {

using namespace pg;
using app::Command;
using app::Invocation;
using app::Purpose;

int train(const Invocation& call, comm::Group* world) {
  const auto deck =
      app::read_deck(world, call.deck, call.overrides, Purpose::kTrain, world->size());
  return static_cast<int>(
      app::train_on_ranks(deck, comm::Communicator::world(), {.started = call.started}));
}

int verify(const Invocation& call, comm::Group* world) {
  const auto deck =
      app::read_deck(world, call.deck, call.overrides, Purpose::kTrain, world->size());
  if (const int used = app::ranks_in_use(deck, world->size()); used != world->size()) {
    throw Error(ExitCode::kDeck,
                fmt::format("grid.dp: verify leaves no rank idle: this deck takes {} of {} ranks",
                            used, world->size()),
                world->size());
  }
  return static_cast<int>(app::run_verify(deck, comm::Communicator::world()));
}

int check(const Invocation& call, comm::Group*) {
  const auto deck = app::read_deck(nullptr, call.deck, call.overrides, Purpose::kCheck, call.ranks);
  const int ranks = call.ranks > 0 ? call.ranks : app::least_ranks(deck);
  fmt::print("{}", app::check_report(deck, ranks));
  for (const auto& sentence : app::missing_files(deck)) {
    fmt::print(stderr, "pentagrid: warning: {}\n", sentence);
  }
  return 0;
}

int inspect(const Invocation& call, comm::Group*) {
  return app::run_inspect(call.operand);
}

int help(const Invocation& call, comm::Group*) {
  fmt::print("{}", app::help_text(call.operand));
  return 0;
}

int prepare(const Invocation& call, comm::Group*) {
  return app::run_prepare(app::read_deck(nullptr, call.deck, call.overrides, Purpose::kPrepare, 0));
}

const Command kCommands[] = {
    {"train", "train a model; under mpirun or srun", Command::Takes::kDeck, true, train,
     /*stops_on_signals=*/true},
    {"prepare", "text files to a tokenizer and HDF5 token files", Command::Takes::kDeck, false,
     prepare},
    {"check", "validate a deck; print it resolved, the grid and bytes per rank",
     Command::Takes::kDeckAndRanks, false, check},
    {"verify", "a few steps on this grid against one rank in fp64; under mpirun or srun",
     Command::Takes::kDeck, true, verify},
    {"inspect", "what a checkpoint, run or token file holds; verifies its digests",
     Command::Takes::kPath, false, inspect},
    {"help", "the deck's keys with types, defaults, units and meaning", Command::Takes::kSection,
     false, help},
};

// Each line of a message is one of possibly many things that are wrong.
void print_error(std::string_view message) {
  while (!message.empty()) {
    const auto line = message.substr(0, message.find('\n'));
    fmt::print(stderr, "pentagrid: error: {}\n", line);
    message.remove_prefix(std::min(line.size() + 1, message.size()));
  }
}

// A failure that all ranks agreed on is rank 0's to print, and every rank returns its code. Any
// other may be this rank's alone: it speaks for itself and ends the job.
int report(const Error& error, comm::Group* world) {
  const int code = static_cast<int>(error.code());
  if (world && error.ranks() != world->size()) {
    print_error(fmt::format("rank {} ({}): {}", world->rank(), comm::host_name(), error.what()));
    comm::abort_job(code);
  }
  if (world ? world->rank() == 0 : app::launcher_rank() == 0) print_error(error.what());
  return code;
}

}  // namespace

int main(int argc, char** argv) {
  std::optional<comm::MpiSession> mpi;
  std::unique_ptr<comm::Group> world;
  try {
    // 1. The command. What is wrong with it is wrong on every rank: one of them says so.
    const auto line = app::parse_command_line(kCommands, argc, argv);

    // 2. A run stops between steps, not wherever a signal finds it: from now on.
    const bool stops = line.command && line.command->stops_on_signals;
    if (stops) app::catch_stop_signals();

    // 3. MPI, for the commands that run on many ranks. The others do the work once, whatever
    //    number of them a launcher starts.
    if (line.command && line.command->parallel) {
      mpi.emplace(argc, argv);
      if (stops) app::catch_stop_signals();
      world = comm::make_mpi_group(comm::Communicator::world(), "world");
    } else if (app::launcher_rank() > 0) {
      return 0;
    }
    if (!line.command) {
      fmt::print("{}", line.text);
      return 0;
    }

    // 4. Run it; 5. its exit code is ours.
    return line.command->run(line.call, world.get());
  } catch (const Error& error) {
    return report(error, world.get());
  } catch (const std::bad_alloc&) {
    return report(Error(ExitCode::kBug, "out of memory"), world.get());
  } catch (const std::exception& error) {
    return report(Error(ExitCode::kBug, fmt::format("bug: {}", error.what())), world.get());
  }
}

#include "app/train_on_ranks.h"

#include <fmt/ranges.h>

#include <chrono>
#include <cstdio>

#include "app/ranks_in_use.h"

namespace pg::app {

namespace {

// How often an idle rank looks whether the run has ended.
constexpr std::chrono::milliseconds kPause(20);

std::vector<std::string> idle_ranks(comm::Group& world, int in_use) {
  const auto hosts = comm::all_gather(world, comm::host_name());
  std::vector<std::string> idle;
  for (int rank = in_use; rank < world.size(); ++rank) {
    idle.push_back(fmt::format("rank {} ({})", rank, hosts[static_cast<std::size_t>(rank)]));
  }
  return idle;
}

// Every rank of the world gets here when the run has ended, and gets the code it ended with.
ExitCode leave(const comm::Communicator& world, comm::Group& group, ExitCode code) {
  world.barrier_asleep(kPause);
  return static_cast<ExitCode>(
      comm::all_reduce(group, static_cast<std::int64_t>(code), comm::ReduceOp::kMax));
}

}  // namespace

ExitCode train_on_ranks(const Deck& deck, const comm::Communicator& world, Launch launch) {
  const int ranks = world.size(), in_use = ranks_in_use(deck, ranks);
  if (in_use == ranks) return run_train(deck, world, launch);

  const auto group = comm::make_mpi_group(world, "world");
  launch.idle = idle_ranks(*group, in_use);
  const auto part = world.split(world.rank() < in_use ? 0 : -1, world.rank());
  if (!part) return leave(world, *group, ExitCode::kDone);
  if (world.rank() == 0) {
    fmt::print(stderr, "pentagrid: warning: grid.dp: {} of {} ranks are used, idle: {}\n", in_use,
               ranks, fmt::join(launch.idle, ", "));
  }
  try {
    return leave(world, *group, run_train(deck, part, launch));
  } catch (const Error& error) {
    // Not agreed on: main() ends the job, idle ranks included.
    if (error.ranks() != in_use) throw;
    leave(world, *group, error.code());
    throw Error(error.code(), error.what(), ranks);
  }
}

}  // namespace pg::app

// Jobs that end badly, each in its own launch: session_probe CASE. The expected exit codes and
// texts stand in CMakeLists.txt. main has the shape that comm/mpi_session.h prescribes.
#include <array>
#include <cstdio>
#include <stdexcept>
#include <string_view>

#include "comm/agree.h"
#include "comm/error.h"
#include "comm/mpi_session.h"

namespace {

using namespace pg;
using comm::Communicator;

// What the other ranks do meanwhile: they wait for one that never comes.
void wait_for_all() {
  comm::make_mpi_group(Communicator::world(), "world")->barrier();
}

void misbehave(std::string_view what) {
  const auto world = comm::make_mpi_group(Communicator::world(), "world");
  const bool last = world->rank() == world->size() - 1;
  if (what == "agreed") {
    comm::together(*world, [&] {
      if (last) throw fail(ExitCode::kData, "no such file");
    });
  } else if (what == "alone") {
    if (last) throw fail(ExitCode::kNumerical, "not a number");
    wait_for_all();
  } else if (what == "abort") {
    if (last) comm::abort_job(75);
    wait_for_all();
  } else if (what == "unheard") {
    // A receive that fails after everybody stopped listening to it.
    std::array<double, 4> values{};
    if (world->rank() == 0) world->send({values.data(), 4, DType::kF64}, 1, 7).wait();
    if (world->rank() == 1) {
      const auto dropped = world->recv({values.data(), 2, DType::kF64}, 0, 7);
    }
    wait_for_all();
  }
}

int ordered_main(std::string_view what) {
  try {
    misbehave(what);
    return 0;
  } catch (const Error& error) {
    const auto world = Communicator::world();
    const bool everyone = error.ranks() == world.size();
    if (!everyone || world.rank() == 0) std::fprintf(stderr, "%s\n", error.what());
    if (!everyone) comm::abort_job(static_cast<int>(error.code()));
    return static_cast<int>(error.code());
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::string_view what = argc > 1 ? argv[1] : "";
  try {
    const comm::MpiSession mpi(argc, argv);
    if (what != "through") return ordered_main(what);
    if (Communicator::world().rank() == 0) throw fail(ExitCode::kBug, "nobody catches this inside");
    wait_for_all();
    return 0;
  } catch (const std::exception&) {
    return 0;  // not reached: the session ends the job first
  }
}

// Jobs that the watchdog is to end, or not, each in its own launch: watchdog_probe CASE FOLDER.
// The expected exit codes and texts stand in watchdog.cmake.
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <string_view>
#include <thread>

#include "comm/activity.h"
#include "comm/error.h"
#include "comm/later_min.h"
#include "comm/mpi_session.h"
#include "comm/watchdog.h"

namespace {

using namespace pg;
using comm::Communicator;

constexpr double kLimit = 1;  // s
constexpr double kLong = 4;   // s: the limit, the least silence, and time to be sure

void note_progress_for(double seconds) {
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + std::chrono::duration<double>(seconds);
  while (Clock::now() < end) {
    comm::note_progress();
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

[[noreturn]] void loop_for_ever() {
  for (;;) std::this_thread::sleep_for(std::chrono::seconds(1));
}

std::atomic<int> synced{0};
std::atomic<bool> storage_hangs{false};

}  // namespace

// In the C library's place: storage that counts, and that may stop to answer.
extern "C" int fdatasync(int fd) {
  ++synced;
  while (storage_hangs) std::this_thread::sleep_for(std::chrono::milliseconds(20));
  return static_cast<int>(::syscall(SYS_fdatasync, fd));
}

namespace {

void act(std::string_view what, comm::Group& world) {
  const bool second = world.rank() == 1;
  comm::note_step(7);
  if (what == "loop" && second) {
    const comm::Place outer("work");
    const comm::Place place("an endless loop", 5);
    loop_for_ever();
  }
  if (what == "file") {
    const comm::Place place("loading");
    const comm::FileOperation file("reading", "a/file/on/a/dead/server.h5");
    loop_for_ever();
  }
  if (what == "message") {
    if (!second) loop_for_ever();
    double value = 0;
    world.recv({&value, 1, DType::kF64}, 0, 3).wait();
  }
  if (what == "storage") {
    storage_hangs = true;
    const comm::Place place("saving");
    loop_for_ever();
  }
  if (what == "slow_storage") {  // comes on nevertheless
    storage_hangs = true;
    note_progress_for(kLong);
    storage_hangs = false;
  }
  if (what == "minimum") {
    comm::LaterMin least(Communicator::world());
    if (second) loop_for_ever();
    least.give(0);
    least.take();
  }
  if (what == "slow" && second) note_progress_for(kLong);
  world.barrier();
}

int run(std::string_view what, const char* folder) {
  const auto world = comm::make_mpi_group(Communicator::world(), "world");
  try {
    const comm::Watchdog watchdog(
        *world, Communicator::world().world_ranks(),
        {folder, kLimit, [](const std::string&) { std::fputs("reported\n", stdout); }});
    act(what, *world);
    world->barrier();
    return synced > 0 ? 0 : 98;  // beats that are not synced come too late on NFS
  } catch (const Error& error) {
    if (world->rank() == 0) std::fprintf(stderr, "%s\n", error.what());
    return static_cast<int>(error.code());
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 1;
  const comm::MpiSession mpi(argc, argv);
  return run(argv[1], argv[2]);
}

#include "app/threads.h"

#include <sched.h>

#include <algorithm>
#include <cstdlib>
#include <thread>

namespace pg::app {

std::int64_t threads_of(const Deck& deck, const comm::ProcessGrid& grid) {
  if (deck.run.threads > 0) return deck.run.threads;
  if (const char* set = std::getenv("OMP_NUM_THREADS"); set != nullptr && std::atoi(set) > 0) {
    return std::atoi(set);
  }
  cpu_set_t mask;
  const int bound = sched_getaffinity(0, sizeof mask, &mask) == 0 ? CPU_COUNT(&mask) : 1;
  const int cores = static_cast<int>(std::thread::hardware_concurrency());
  return bound < cores ? bound : std::max(1, cores / grid.local_size());
}

}  // namespace pg::app

#include "comm/activity.h"

#include <atomic>

namespace pg::comm {

namespace {
std::atomic<std::uint64_t> count{0};
}

void note_progress() noexcept {
  count.fetch_add(1, std::memory_order_relaxed);
}

std::uint64_t progress_count() noexcept {
  return count.load(std::memory_order_relaxed);
}

}  // namespace pg::comm

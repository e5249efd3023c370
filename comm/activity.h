// What this process does at the moment, for the watchdog (which ranks arrived, which did not, and
// where they are) and for the count of how long a rank waits for others. Marks cost a few
// nanoseconds: no lock, no allocation.
#pragma once

#include <cstdint>

namespace pg::comm {

// Something came along: a piece of a file was written or read, a product was tuned. Any thread.
// Work that takes long without a collective call says so now and then, so that a watchdog does not
// take it for a hang.
void note_progress() noexcept;
// How often progress was noted so far, marks included.
std::uint64_t progress_count() noexcept;

}  // namespace pg::comm

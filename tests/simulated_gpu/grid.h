// Runs a CUDA kernel, compiled as plain C++, on the host: one block after another, each thread a
// fiber. A fiber runs until it meets a barrier or a warp operation; the order in which the threads
// of a block run changes from phase to phase, so that a missing barrier shows. Shared memory holds
// NaNs before each block.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

namespace pg::simulated {

struct Thread {
  uint3 thread{}, block{};
  dim3 block_dim, grid_dim;
  unsigned rank = 0;  // in the block
  unsigned char* shared = nullptr;
};

// Of the fiber that runs now.
Thread& this_thread();

// Error naming `name` on a bug that real hardware would hang on: threads that wait for others which
// have ended or wait elsewhere.
void run_grid(const char* name, dim3 grid, dim3 block, std::size_t shared_bytes,
              const std::function<void()>& body);

void block_barrier();
void warp_barrier(unsigned mask);
// One 8-byte slot for each lane of this thread's warp.
std::uint64_t* warp_slots();

// The value of lane `from(lane)` of the warp, among the lanes of `mask`; own value where that lane
// is not in the mask or the warp.
template <class T, class From>
T exchange(unsigned mask, T value, const From& from) {
  static_assert(sizeof(T) <= 8);
  auto* const slots = warp_slots();
  const int lane = static_cast<int>(this_thread().rank % 32);
  std::memcpy(&slots[lane], &value, sizeof(T));
  warp_barrier(mask);
  const int source = from(lane);
  T got = value;
  if (source >= 0 && source < 32 && (mask >> source & 1u) != 0) {
    std::memcpy(&got, &slots[source], sizeof(T));
  }
  warp_barrier(mask);
  return got;
}

}  // namespace pg::simulated

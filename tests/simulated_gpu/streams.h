// Streams and events of the simulated GPU.
//
// Work is only queued when it is issued. It runs while the host waits (for an event, a stream, the
// device, a copy), asks about an event, and now and then when more is issued: each time the head of
// one of the streams that can go on, drawn from a seed (PG_SIMULATED_ORDER, read whenever a device
// is chosen; by default 1). So work that lacks the wait for what it needs runs too early sooner or
// later, and finds the NaNs that memory was filled with.
#pragma once

#include <cuda_runtime.h>

#include <functional>

namespace pg::simulated {

// Work on a stream: runs when the simulated GPU comes to it.
cudaError_t enqueue(cudaStream_t stream, std::function<void()> work);
cudaError_t enqueue_kernel(const cudaLaunchConfig_t& config, const void* kernel,
                           std::function<void()> body);
// Work that takes its time: called again and again, between work of other streams, until it says
// that it is done.
cudaError_t enqueue_polled(cudaStream_t stream, std::function<bool()> work);

// Another order for what comes.
void choose_order(unsigned seed);
// Runs some of what is queued, perhaps nothing. What waits for other processes polls it.
void run_some();
// Keeps `status` for cudaGetLastError and returns it.
cudaError_t result(cudaError_t status);

// Moves the clock that events read on by this much: kernels themselves take no time.
void spend(double milliseconds);

// While one lives, the host's code may touch the GPU's memory, as work on the GPU does. Otherwise
// touching it ends the process, as on a real one.
class MemoryAccess {
 public:
  MemoryAccess();
  ~MemoryAccess();
  MemoryAccess(const MemoryAccess&) = delete;
  MemoryAccess& operator=(const MemoryAccess&) = delete;
};

}  // namespace pg::simulated

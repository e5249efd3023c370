// Streams and events of the simulated GPU.
#pragma once

#include <cuda_runtime.h>

#include <functional>

namespace pg::simulated {

// Work on a stream: runs when the simulated GPU comes to it.
cudaError_t enqueue(cudaStream_t stream, std::function<void()> work);
cudaError_t enqueue_kernel(const cudaLaunchConfig_t& config, const void* kernel,
                           std::function<void()> body);

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

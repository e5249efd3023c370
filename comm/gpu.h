// The GPU of this rank: its memory, its compute stream and copies. comm/cuda implements it; a build
// without CUDA links comm/no_gpu, whose gpu_missing() says so. A rank uses one GPU at a time.
//
// What layers compute is issued in order on compute(); the host runs ahead of it. Failures of CUDA
// throw Error(kComm) with operation, host and GPU.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

struct CUstream_st;

namespace pg::comm {

using GpuStream = CUstream_st*;

// Why this program can use no GPU here: built without CUDA, no driver, none visible. Empty: it can.
std::string gpu_missing();
int gpu_count();  // visible ones; 0 when gpu_missing()

struct GpuInfo {
  int ordinal = 0;     // among the visible ones
  std::string name;    // "NVIDIA H200"
  std::string id;      // its UUID: the same for all processes that share it
  std::string driver;  // the driver's CUDA version, "13.0"
  int major = 0, minor = 0;
  int processors = 0;  // streaming multiprocessors
  std::int64_t bytes = 0;
};

class Gpu {
 public:
  explicit Gpu(int ordinal);  // of the visible ones; makes it the process's current one
  ~Gpu();
  Gpu(const Gpu&) = delete;
  Gpu& operator=(const Gpu&) = delete;

  const GpuInfo& info() const { return info_; }
  GpuStream compute() const { return compute_; }
  // The host waits until all that was issued is done. Error(kComm) when some of it failed, that of
  // groups on this GPU included.
  void synchronize() const;

 private:
  GpuInfo info_;
  GpuStream compute_ = nullptr;
};

// Memory of the current GPU, zeroed, 256-byte aligned; Error(kBug) naming the size when there is no
// more. Both functions wait for the GPU: not for use inside a step.
void* gpu_allocate(std::size_t bytes);
void gpu_free(void* data) noexcept;
// The same in the order of `stream`, not zeroed: neither waits for anything.
void* gpu_allocate_on(GpuStream stream, std::size_t bytes);
void gpu_free_on(GpuStream stream, void* data) noexcept;
std::int64_t gpu_allocated_bytes();  // by this process, now
std::int64_t gpu_peak_bytes();       // the most at any time
// Page-locked host memory: what copies from and to the GPU run fastest and asynchronously with.
void* pinned_allocate(std::size_t bytes);
void pinned_free(void* data) noexcept;

// Between any two places, host or GPU: after all that was issued before, and complete on return.
void gpu_copy(void* to, const void* from, std::size_t bytes);
// In the order of `stream`, from one place on the GPU, or in pinned memory, to another; at once.
void gpu_copy_on(GpuStream stream, void* to, const void* from, std::size_t bytes);

}  // namespace pg::comm

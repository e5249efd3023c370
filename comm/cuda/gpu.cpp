#include "comm/gpu.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <unordered_map>

#include "comm/cuda/cuda_check.h"
#include "comm/cuda/gpu_watch.h"

namespace pg::comm {

namespace {

std::string host_name() {
  std::array<char, 256> name{};
  gethostname(name.data(), name.size() - 1);
  return name.data();
}

// Sizes of what is allocated: CUDA itself does not tell them.
struct Ledger {
  std::mutex mutex;
  std::unordered_map<void*, std::size_t> sizes;
  std::int64_t now = 0, peak = 0;

  void enter(void* data, std::size_t bytes) {
    const std::lock_guard lock(mutex);
    sizes[data] = bytes;
    now += static_cast<std::int64_t>(bytes);
    peak = std::max(peak, now);
  }
  void leave(void* data) {
    const std::lock_guard lock(mutex);
    const auto found = sizes.find(data);
    if (found == sizes.end()) return;
    now -= static_cast<std::int64_t>(found->second);
    sizes.erase(found);
  }
};

Ledger& ledger() {
  static Ledger instance;
  return instance;
}

void require_memory(cudaError_t status, std::size_t bytes) {
  if (status == cudaSuccess) return;
  cudaGetLastError();
  std::size_t free = 0, total = 0;
  cudaMemGetInfo(&free, &total);
  throw fail(ExitCode::kBug, "out of GPU memory on {}: {} bytes refused, {} of {} are free ({})",
             host_name(), bytes, free, total, cudaGetErrorString(status));
}

std::string version_text(int version) {
  return fmt::format("{}.{}", version / 1000, version % 1000 / 10);
}

std::string uuid_text(const cudaUUID_t& uuid) {
  std::string text = "GPU-";
  for (const char byte : uuid.bytes)
    text += fmt::format("{:02x}", static_cast<unsigned char>(byte));
  return text;
}

// Before the first use of the device: the driver reads it then. By default streams share 8 queues
// to the GPU, and one stream's work can be stuck behind another's that waits for a peer. What the
// user has set stays.
void more_queues() {
  setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", /*overwrite=*/0);
  // Loading a kernel at its first launch may wait for all that runs, NCCL's kernels among it, which
  // wait for other ranks; so may NCCL's connections, made at the first use.
  setenv("CUDA_MODULE_LOADING", "EAGER", /*overwrite=*/0);
  setenv("NCCL_RUNTIME_CONNECT", "0", /*overwrite=*/0);
}

// "80,90,100": binaries run on GPUs of the same generation, and each brings code that later ones
// translate.
int least_architecture() {
  int least = 1000;
  for (const char* at = PG_CUDA_ARCHITECTURES; *at != 0;) {
    char* end = nullptr;
    const long one = std::strtol(at, &end, 10);
    if (end == at) {
      ++at;
      continue;
    }
    least = std::min(least, static_cast<int>(one));
    at = end;
  }
  return least;
}

}  // namespace

void cuda_check(cudaError_t status, const char* operation) {
  if (status == cudaSuccess) return;
  int device = -1;
  cudaGetDevice(&device);
  cudaGetLastError();  // a sticky one stays; others must not be found by the next check
  throw fail(ExitCode::kComm, "CUDA: {} ({}) in {} on GPU {} of {}", cudaGetErrorString(status),
             cudaGetErrorName(status), operation, device, host_name());
}

std::string gpu_missing() {
  more_queues();
  int driver = 0;
  if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) {
    return "this machine has no NVIDIA driver";
  }
  int count = 0;
  const auto status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess) {
    cudaGetLastError();
    return fmt::format("CUDA finds no GPU it can use: {} (driver for CUDA {}, built with {})",
                       cudaGetErrorString(status), version_text(driver),
                       version_text(CUDART_VERSION));
  }
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp properties{};
    PG_CUDA(cudaGetDeviceProperties(&properties, i));
    if (10 * properties.major + properties.minor < least_architecture()) {
      return fmt::format(
          "GPU {} ({}, sm_{}{}) is older than those this program was built for "
          "(PG_CUDA_ARCHITECTURES = {})",
          i, properties.name, properties.major, properties.minor, PG_CUDA_ARCHITECTURES);
    }
  }
  return count == 0 ? "no GPU is visible (CUDA_VISIBLE_DEVICES?)" : "";
}

int gpu_count() {
  more_queues();
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    cudaGetLastError();
    return 0;
  }
  return count;
}

Gpu::Gpu(int ordinal) {
  more_queues();
  PG_CUDA(cudaSetDevice(ordinal));
  cudaDeviceProp properties{};
  PG_CUDA(cudaGetDeviceProperties(&properties, ordinal));
  int driver = 0;
  PG_CUDA(cudaDriverGetVersion(&driver));
  info_.ordinal = ordinal;
  info_.name = properties.name;
  info_.id = uuid_text(properties.uuid);
  info_.driver = version_text(driver);
  info_.major = properties.major;
  info_.minor = properties.minor;
  info_.processors = properties.multiProcessorCount;
  info_.bytes = static_cast<std::int64_t>(properties.totalGlobalMem);
  PG_CUDA(cudaStreamCreateWithFlags(&compute_, cudaStreamNonBlocking));
}

Gpu::~Gpu() {
  // The process may be on its way out because CUDA failed: nobody is left to tell.
  if (std::uncaught_exceptions() > 0) {
    abort_watched();
    return;
  }
  cudaStreamSynchronize(compute_);
  cudaStreamDestroy(compute_);
}

void Gpu::synchronize() const {
  wait_for_gpu();
}

void* gpu_allocate(std::size_t bytes) {
  void* data = nullptr;
  require_memory(cudaMalloc(&data, bytes), bytes);
  PG_CUDA(cudaMemset(data, 0, bytes));
  PG_CUDA(cudaDeviceSynchronize());
  ledger().enter(data, bytes);
  return data;
}

void* gpu_allocate_on(GpuStream stream, std::size_t bytes) {
  void* data = nullptr;
  require_memory(cudaMallocAsync(&data, bytes, stream), bytes);
  ledger().enter(data, bytes);
  return data;
}

void gpu_free_on(GpuStream stream, void* data) noexcept {
  if (data == nullptr) return;
  ledger().leave(data);
  cudaFreeAsync(data, stream);
}

void gpu_free(void* data) noexcept {
  if (data == nullptr) return;
  ledger().leave(data);
  // While a failure is on its way out, peers that the GPU waits for may never come: then nothing is
  // waited for, the process ends.
  if (std::uncaught_exceptions() > 0 && abort_watched()) return;
  // It waits for the GPU; an error of earlier work shows in the next check.
  try {
    wait_for_gpu();
  } catch (const Error&) {
  }
  cudaFree(data);
}

std::int64_t gpu_allocated_bytes() {
  auto& l = ledger();
  const std::lock_guard lock(l.mutex);
  return l.now;
}

std::int64_t gpu_peak_bytes() {
  auto& l = ledger();
  const std::lock_guard lock(l.mutex);
  return l.peak;
}

void* pinned_allocate(std::size_t bytes) {
  void* data = nullptr;
  PG_CUDA(cudaMallocHost(&data, bytes));
  return data;
}

void pinned_free(void* data) noexcept {
  if (data != nullptr) cudaFreeHost(data);
}

void gpu_copy(void* to, const void* from, std::size_t bytes) {
  wait_for_gpu();
  PG_CUDA(cudaMemcpy(to, from, bytes, cudaMemcpyDefault));
  PG_CUDA(cudaDeviceSynchronize());  // between two places on the GPU a copy returns early
}

void gpu_copy_on(GpuStream stream, void* to, const void* from, std::size_t bytes) {
  PG_CUDA(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream));
}

}  // namespace pg::comm

// The part of CUDA's runtime that the product calls, over the simulated GPU: one device of a
// Hopper's limits. Work on streams runs as it is issued.
#include <cuda_runtime.h>

#include <cstdlib>
#include <cstring>
#include <exception>
#include <map>
#include <set>
#include <string>

#include "tests/simulated_gpu/grid.h"
#include "tests/simulated_gpu/memory.h"
#include "tests/simulated_gpu/streams.h"

struct CUstream_st {
  int number = 0;
};
struct CUevent_st {
  double milliseconds = 0.0;
};

namespace pg::simulated {

namespace {

constexpr std::size_t kStaticShared = 48 * 1024, kMostShared = 227 * 1024;

std::map<const void*, int>& shared_limits() {
  static std::map<const void*, int> limits;
  return limits;
}

double clock_milliseconds = 0.0;

thread_local cudaError_t last_error = cudaSuccess;

cudaError_t result(cudaError_t status) {
  if (status != cudaSuccess) last_error = status;
  return status;
}

}  // namespace

void spend(double milliseconds) {
  clock_milliseconds += milliseconds;
}

cudaError_t enqueue(cudaStream_t /*stream*/, std::function<void()> work) {
  const MemoryAccess access;
  work();
  return cudaSuccess;
}

cudaError_t enqueue_kernel(const cudaLaunchConfig_t& config, const void* kernel,
                           std::function<void()> body) {
  const auto threads = config.blockDim.x * config.blockDim.y * config.blockDim.z;
  const auto blocks = std::uint64_t{config.gridDim.x} * config.gridDim.y * config.gridDim.z;
  const auto found = shared_limits().find(kernel);
  const auto shared_limit =
      found == shared_limits().end() ? kStaticShared : static_cast<std::size_t>(found->second);
  if (threads == 0 || threads > 1024 || config.blockDim.z > 64 || blocks == 0 ||
      config.gridDim.x > 0x7FFFFFFFu || config.gridDim.y > 65535 || config.gridDim.z > 65535 ||
      config.dynamicSmemBytes > shared_limit) {
    return result(cudaErrorInvalidConfiguration);
  }
  return enqueue(config.stream, [config, body = std::move(body)] {
    run_grid("a kernel", config.gridDim, config.blockDim, config.dynamicSmemBytes, body);
  });
}

}  // namespace pg::simulated

using namespace pg::simulated;

extern "C" {

cudaError_t cudaGetLastError() {
  const auto error = last_error;
  last_error = cudaSuccess;
  return error;
}
cudaError_t cudaPeekAtLastError() {
  return last_error;
}
const char* cudaGetErrorName(cudaError_t error) {
  return error == cudaSuccess ? "cudaSuccess" : "cudaErrorSimulated";
}
const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorInvalidValue:
      return "invalid argument";
    default:
      return "an error of the simulated GPU";
  }
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int* count) {
  const char* wanted = std::getenv("PG_SIMULATED_GPUS");
  *count = wanted == nullptr ? 1 : std::atoi(wanted);
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  int count = 0;
  cudaGetDeviceCount(&count);
  return result(device >= 0 && device < count ? cudaSuccess : cudaErrorInvalidDevice);
}
cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  std::memset(properties, 0, sizeof(*properties));
  std::strncpy(properties->name, "simulated GPU", sizeof(properties->name) - 1);
  properties->uuid.bytes[0] = static_cast<char>(device);
  properties->major = 9;
  properties->multiProcessorCount = 2;
  properties->totalGlobalMem = std::size_t{16} << 30;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int /*device*/) {
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = 2;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(kMostShared);
      return cudaSuccess;
    default:
      return result(cudaErrorInvalidValue);
  }
}
cudaError_t cudaDeviceSynchronize() {
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  *free = *total = std::size_t{16} << 30;
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** data, std::size_t bytes) {
  *data = device_allocate(bytes);
  return result(*data == nullptr ? cudaErrorMemoryAllocation : cudaSuccess);
}
cudaError_t cudaFree(void* data) {
  if (data == nullptr) return cudaSuccess;
  return result(device_free(data) ? cudaSuccess : cudaErrorInvalidValue);
}
cudaError_t cudaMallocHost(void** data, std::size_t bytes) {
  *data = std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
  if (*data != nullptr) std::memset(*data, 0xFF, bytes);
  return result(*data == nullptr ? cudaErrorMemoryAllocation : cudaSuccess);
}
cudaError_t cudaFreeHost(void* data) {
  std::free(data);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind /*kind*/,
                            cudaStream_t stream) {
  return enqueue(stream, [=] { std::memmove(to, from, bytes); });
}
cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  cudaMemcpyAsync(to, from, bytes, kind, nullptr);
  return cudaDeviceSynchronize();
}
cudaError_t cudaMemcpy2DAsync(void* to, std::size_t to_pitch, const void* from,
                              std::size_t from_pitch, std::size_t width, std::size_t height,
                              cudaMemcpyKind /*kind*/, cudaStream_t stream) {
  return enqueue(stream, [=] {
    for (std::size_t row = 0; row < height; ++row) {
      std::memmove(static_cast<char*>(to) + row * to_pitch,
                   static_cast<const char*>(from) + row * from_pitch, width);
    }
  });
}
cudaError_t cudaMemsetAsync(void* data, int value, std::size_t bytes, cudaStream_t stream) {
  return enqueue(stream, [=] { std::memset(data, value, bytes); });
}
cudaError_t cudaMemset(void* data, int value, std::size_t bytes) {
  cudaMemsetAsync(data, value, bytes, nullptr);
  return cudaDeviceSynchronize();
}
cudaError_t cudaMemset2DAsync(void* data, std::size_t pitch, int value, std::size_t width,
                              std::size_t height, cudaStream_t stream) {
  return enqueue(stream, [=] {
    for (std::size_t row = 0; row < height; ++row) {
      std::memset(static_cast<char*>(data) + row * pitch, value, width);
    }
  });
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned /*flags*/) {
  *stream = new CUstream_st;
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t /*stream*/) {
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t /*stream*/, cudaEvent_t /*event*/,
                                unsigned /*flags*/) {
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned /*flags*/) {
  *event = new CUevent_st;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t /*stream*/) {
  event->milliseconds = clock_milliseconds;
  return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  *milliseconds = static_cast<float>(end->milliseconds - begin->milliseconds);
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t /*event*/) {
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t /*event*/) {
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  if (attribute == cudaFuncAttributeMaxDynamicSharedMemorySize) {
    if (value < 0 || static_cast<std::size_t>(value) > kMostShared) {
      return result(cudaErrorInvalidValue);
    }
    shared_limits()[kernel] = value;
  }
  return cudaSuccess;
}

}  // extern "C"

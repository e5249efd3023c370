// The part of CUDA's runtime that the product calls, over the simulated GPU: devices
// (PG_SIMULATED_GPUS of them, by default one) of a Hopper's limits. A process uses one of them.
#include <cuda_runtime.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <string>

#include "tests/simulated_gpu/grid.h"
#include "tests/simulated_gpu/memory.h"
#include "tests/simulated_gpu/streams.h"

namespace pg::simulated {

namespace {

constexpr std::size_t kStaticShared = 48 * 1024, kMostShared = 227 * 1024;

std::map<const void*, int>& shared_limits() {
  static std::map<const void*, int> limits;
  return limits;
}

thread_local cudaError_t last_error = cudaSuccess;
int current_device = 0;

}  // namespace

cudaError_t result(cudaError_t status) {
  if (status != cudaSuccess) last_error = status;
  return status;
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
  if (device < 0 || device >= count) return result(cudaErrorInvalidDevice);
  current_device = device;
  const char* order = std::getenv("PG_SIMULATED_ORDER");
  choose_order(order == nullptr ? 1 : static_cast<unsigned>(std::atoi(order)));
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = current_device;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  std::memset(properties, 0, sizeof(*properties));
  std::strncpy(properties->name, "simulated GPU", sizeof(properties->name) - 1);
  // The same for all processes of a host: they share its GPUs.
  char host[256] = "";
  gethostname(host, sizeof(host) - 1);
  const auto hash = std::hash<std::string>()(host);
  std::memcpy(properties->uuid.bytes, &hash, sizeof(hash));
  properties->uuid.bytes[sizeof(hash)] = static_cast<char>(device);
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
cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  *total = device_bytes();
  *free = *total - device_bytes_used();
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** data, std::size_t bytes) {
  *data = device_allocate(bytes);
  return result(*data == nullptr ? cudaErrorMemoryAllocation : cudaSuccess);
}
cudaError_t cudaMallocAsync(void** data, std::size_t bytes, cudaStream_t /*stream*/) {
  return cudaMalloc(data, bytes);
}
cudaError_t cudaFreeAsync(void* data, cudaStream_t stream) {
  return enqueue(stream, [data] { device_free(data); });
}
cudaError_t cudaFree(void* data) {
  if (data == nullptr) return cudaSuccess;
  cudaDeviceSynchronize();
  return result(device_free(data) ? cudaSuccess : cudaErrorInvalidValue);
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

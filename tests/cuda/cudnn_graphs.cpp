// Which attention cuDNN takes on an H100, asked without one: cuDNN says for a GPU that is described
// to it which of its engines take a graph. What they compute is compared where there is a GPU, by
// attention_test.cpp.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>

#include "model/kernels/cuda/attention.h"
#include "model/kernels/cuda/cudnn_attention.h"

namespace pg::model::cuda {
namespace {

// As cuDNN describes the SXM one of 80 GB.
constexpr const char* kH100 = R"({
  "deviceName": "NVIDIA H100 80GB HBM3", "cudaDeviceId": 0, "deviceVer": 900, "driverVer": 13000,
  "totalGlobalMem": 84935507968, "multiProcessorCount": 132, "warpSize": 32,
  "maxGridSize": [2147483647, 65535, 65535], "maxBlockSize": [1024, 1024, 64],
  "regsPerBlock": 65536, "maxRegistersPerSM": 65536, "maxSharedMemoryPerBlock": 49152,
  "maxSharedMemoryPerBlockOptin": 232448, "reservedSharedMemoryPerBlock": 1024,
  "maxCtasPerSM": 32, "maxThreadsPerBlock": 1024, "maxThreadsPerSM": 2048, "pciDeviceId": 0,
  "isTccDriver": 0, "supportCoopLaunch": 1, "smClockRateKHz": 1980000,
  "memClockRateKHz": 2619000, "l2CacheSize": 52428800})";

struct Shape {
  std::int64_t sequences, positions, heads, kv_heads, size, window;
};

// Separate tensors, or q, k and v as parts of one packed activation and their gradients likewise.
void expect_taken(CudnnAttention& cudnn, const Shape& s, bool packed) {
  SCOPED_TRACE(fmt::format("B{} T{} H{} K{} D{} window {}{}", s.sequences, s.positions, s.heads,
                           s.kv_heads, s.size, s.window, packed ? " packed" : ""));
  const auto of = [&](std::int64_t heads) {
    return TensorView(nullptr, DType::kBF16, {s.sequences, s.positions, heads, s.size},
                      Device::kCuda);
  };
  const TensorView whole(nullptr, DType::kBF16,
                         {s.sequences, s.positions, (s.heads + 2 * s.kv_heads) * s.size},
                         Device::kCuda);
  const auto part = [&](std::int64_t first, std::int64_t heads) {
    return packed ? whole.slice(2, first * s.size, heads * s.size).split_last(s.size) : of(heads);
  };
  const auto q = part(0, s.heads), k = part(s.heads, s.kv_heads),
             v = part(s.heads + s.kv_heads, s.kv_heads), o = of(s.heads);
  const TensorView lse(nullptr, DType::kF32, {s.sequences, s.heads, s.positions}, Device::kCuda);
  AttentionShape shape;
  shape.scale = 1.0 / std::sqrt(static_cast<double>(s.size));
  shape.window = s.window;
  const Dropout none;
  EXPECT_TRUE(CudaAttention::takes(o, q, k, v, shape, none));
  EXPECT_EQ(cudnn.refuses(ForwardOperands{o, lse, q, k, v, shape, none}), "");
  EXPECT_EQ(cudnn.refuses(BackwardOperands{q, k, v, o, q, k, v, o, lse, shape, none, false}), "");
}

TEST(CudnnGraphs, take_the_shapes_of_the_benchmarks_on_an_h100) {
  const auto cudnn = CudnnAttention::for_gpu_of(kH100, 90);
  for (const bool packed : {false, true}) {
    expect_taken(*cudnn, {1, 8192, 32, 8, 128, 0}, packed);
    expect_taken(*cudnn, {8, 1024, 12, 12, 64, 0}, packed);
    expect_taken(*cudnn, {4, 1024, 25, 25, 64, 0}, packed);
  }
}

TEST(CudnnGraphs, take_windows_and_odd_lengths) {
  const auto cudnn = CudnnAttention::for_gpu_of(kH100, 90);
  expect_taken(*cudnn, {1, 8192, 32, 8, 128, 1024}, true);
  expect_taken(*cudnn, {2, 1001, 8, 2, 96, 0}, true);
}

// The question can be answered with no.
TEST(CudnnGraphs, are_refused_on_a_gpu_without_bf16) {
  std::string v100 = kH100;
  v100.replace(v100.find("\"deviceVer\": 900"), 16, "\"deviceVer\": 700");
  const auto cudnn = CudnnAttention::for_gpu_of(v100, 70);
  const TensorView q(nullptr, DType::kBF16, {1, 1024, 8, 64}, Device::kCuda);
  const TensorView lse(nullptr, DType::kF32, {1, 8, 1024}, Device::kCuda);
  const AttentionShape shape;
  const Dropout none;
  EXPECT_NE(cudnn->refuses(ForwardOperands{q, lse, q, q, q, shape, none}), "");
}

}  // namespace
}  // namespace pg::model::cuda

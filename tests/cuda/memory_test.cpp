#include <cuda_runtime.h>

#include "model/buffer.h"
#include "tests/cuda/mirror.h"

namespace pg::model::testing {
namespace {

TEST(CudaMemory, copies_and_conversions_are_those_of_the_cpu) {
  Backends both;
  for (const auto to : kComputeTypes) {
    for (const auto from : kComputeTypes) {
      for (const std::int64_t n : {1, 3, 8, 1000, 4099}) {
        Mirror x(from, {n}), y(to, {n});
        x.normal("x");
        both.cpu->copy(y.host(), x.host());
        both.cuda->copy(y.device(), x.device());
        EXPECT_TRUE(same(y)) << dtype_name(from) << " to " << dtype_name(to) << " " << n;
      }
    }
  }
}

TEST(CudaMemory, strided_views) {
  Backends both;
  for (const auto type : kComputeTypes) {
    for (const std::int64_t width : {1, 8, 13, 32}) {
      Mirror x(type, {5, 7, 40}), y(type, {5, 7, 48});
      x.normal("x"), y.normal("y");
      const auto part = [&](TensorView v, std::int64_t at) { return v.slice(2, at, width); };
      for (const std::int64_t at : {0, 8, 3}) {
        both.cpu->copy(part(y.host(), at), part(x.host(), at));
        both.cuda->copy(part(y.device(), at), part(x.device(), at));
        both.cpu->add(part(y.host(), at), part(x.host(), 8));
        both.cuda->add(part(y.device(), at), part(x.device(), 8));
        EXPECT_TRUE(same(y)) << dtype_name(type) << " width " << width << " at " << at;
      }
    }
  }
}

TEST(CudaMemory, to_the_host_and_back) {
  Backends both;
  Mirror x(DType::kF32, {100});
  x.normal("x");
  std::vector<float> there(100);
  both.cuda->copy(TensorView(there.data(), DType::kF32, {100}), x.device());
  for (std::int64_t i = 0; i < 100; ++i)
    EXPECT_EQ(there[static_cast<std::size_t>(i)], x.at_host(i));
  both.cuda->fill_zero(x.device());
  both.cpu->fill_zero(x.host());
  EXPECT_TRUE(same(x));
}

// Without others to wait for: a program may catch what a model that is too large throws, and try a
// smaller one.
TEST(CudaMemory, is_free_again_after_a_failure) {
  constexpr std::size_t kBytes = std::size_t{1} << 30;
  comm::Gpu gpu(0);
  const auto free_bytes = [] {
    std::size_t free = 0, total = 0;
    EXPECT_EQ(cudaMemGetInfo(&free, &total), cudaSuccess);
    return free;
  };
  const auto before = free_bytes();
  std::size_t during = before;
  try {
    const Buffer buffer(kBytes, Buffer::Kind::kReal, Device::kCuda);
    during = free_bytes();
    throw fail(ExitCode::kBug, "too large");
  } catch (const Error&) {
  }
  EXPECT_LE(during, before - kBytes);
  EXPECT_GE(free_bytes(), before - kBytes / 2);
}

}  // namespace
}  // namespace pg::model::testing

#include "app/matmul_rate.h"

#include <algorithm>
#include <chrono>
#include <optional>
#include <vector>

#include "comm/random.h"
#include "model/arena.h"

namespace pg::app {

namespace {

using Clock = std::chrono::steady_clock;

double rate_of(std::int64_t m, std::int64_t k, std::int64_t n, double seconds) {
  return 2.0 * static_cast<double>(m) * static_cast<double>(k) * static_cast<double>(n) / seconds;
}

double cpu_rate(model::Kernels& kernels, DType type) {
  constexpr std::int64_t kM = 1024, kK = 768, kN = 3072;
  model::Arena arena((kM * kK + kN * kK + kM * kN) * dtype_size(type) + 1024);
  const auto x = arena.push(type, {kM, kK});
  const auto w = arena.push(type, {kN, kK});
  const auto y = arena.push(type, {kM, kN});
  for (const auto& view : {x, w}) kernels.fill_zero(view);

  double best = 0.0;
  const auto begin = Clock::now();
  for (int i = 0; i < 6 && Clock::now() - begin < std::chrono::milliseconds(200); ++i) {
    const auto start = Clock::now();
    kernels.linear_forward(y, x, w, {});
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    best = std::max(best, rate_of(kM, kK, kN, seconds));
  }
  return best;
}

// Square products of a size that takes a GPU about a millisecond: 8192 on a large one. The operands
// are random, since a GPU is faster on zeros.
double gpu_rate(model::Kernels& kernels, DType type) {
  constexpr std::int64_t kLeast = 256, kMost = 8192;
  constexpr int kTimes = 5;
  const auto key = comm::random_key(0, "matmul_rate");
  std::vector<float> drawn(kLeast * kLeast);
  for (std::size_t i = 0; i < drawn.size(); ++i) {
    drawn[i] = static_cast<float>(comm::random_normal(key, i));
  }
  double best = 0.0;
  for (auto n = kLeast; n <= kMost; n *= 2) {
    const auto matrix = static_cast<std::size_t>(n * n) * dtype_size(type);
    std::optional<model::Arena> room;
    try {
      room.emplace(3 * matrix + drawn.size() * sizeof(float) + 4096, model::Buffer::Kind::kReal,
                   kernels.device());
    } catch (const Error&) {
      break;  // the model leaves no more room: the rate of a smaller size will do
    }
    auto& arena = *room;
    const auto noise = arena.push(DType::kF32, {kLeast, kLeast});
    kernels.copy(noise, model::TensorView(drawn.data(), DType::kF32, {kLeast, kLeast}));
    const auto x = arena.push(type, {n, n}), w = arena.push(type, {n, n});
    const auto y = arena.push(type, {n, n});
    for (const auto& view : {x, w}) {
      for (std::int64_t row = 0; row < n; row += kLeast) {
        for (std::int64_t col = 0; col < n; col += kLeast) {
          kernels.copy(view.slice(0, row, kLeast).slice(1, col, kLeast), noise);
        }
      }
    }
    const auto finish = [&] {
      float read = 0;
      kernels.copy(model::TensorView(&read, DType::kF32, {1}),
                   noise.reshape({kLeast * kLeast}).slice(0, 0, 1));
    };
    kernels.linear_forward(y, x, w, {});  // chooses its algorithm
    finish();
    const auto start = Clock::now();
    for (int i = 0; i < kTimes; ++i) kernels.linear_forward(y, x, w, {});
    finish();
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count() / kTimes;
    best = std::max(best, rate_of(n, n, n, seconds));
    if (seconds > 1e-3) break;
  }
  return best;
}

}  // namespace

double measure_matmul_rate(model::Kernels& kernels, DType type) {
  if (type == DType::kF64) return 0.0;
  const bool gpu = kernels.device() == Device::kCuda;
  const double rate = gpu ? gpu_rate(kernels, type) : cpu_rate(kernels, type);
  kernels.weights_changed();
  return rate;
}

}  // namespace pg::app

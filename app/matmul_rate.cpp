#include "app/matmul_rate.h"

#include <algorithm>
#include <chrono>

#include "model/arena.h"

namespace pg::app {

double measure_matmul_rate(model::Kernels& kernels, DType type) {
  if (type == DType::kF64) return 0.0;
  using Clock = std::chrono::steady_clock;
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
    best = std::max(best, 2.0 * kM * kK * kN / seconds);
  }
  kernels.weights_changed();
  return best;
}

}  // namespace pg::app

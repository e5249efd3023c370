// Rotary embedding. The angle p f of position p is split into (p - p mod 32) f and (p mod 32) f,
// and their sines and cosines are combined in double by the addition theorem: neighbouring tokens
// share all calls of sin and cos, whose cost would otherwise exceed that of the rotation. The
// combination adds two roundings of 1.1e-16 to values in [-1, 1], in every storage type.
#include <cmath>
#include <vector>

#include "model/kernels/cpu/cpu_kernels.h"
#include "model/kernels/cpu/dispatch.h"

namespace pg::model {
namespace {

constexpr std::int64_t kNear = 32;

// Cosines and sines of one multiple of all frequencies.
struct Turn {
  explicit Turn(std::size_t pairs) : cosine(pairs), sine(pairs) {}
  void set(double multiple, const std::vector<double>& frequencies) {
    for (std::size_t d = 0; d < frequencies.size(); ++d) {
      cosine[d] = std::cos(multiple * frequencies[d]);
      sine[d] = std::sin(multiple * frequencies[d]);
    }
  }
  std::vector<double> cosine, sine;
};

template <class T>
void turn_tokens(TensorView x, const std::int32_t* positions, double theta, bool inverse,
                 int threads) {
  using A = cpu::acc_t<T>;
  const std::int64_t tokens = x.dim(0), heads = x.dim(1), half = x.dim(2) / 2;
  const auto pairs = static_cast<std::size_t>(half);
  std::vector<double> frequencies(pairs);
  for (std::int64_t d = 0; d < half; ++d) {
    frequencies[static_cast<std::size_t>(d)] =
        std::pow(theta, -2.0 * static_cast<double>(d) / static_cast<double>(x.dim(2)));
  }
  std::vector<Turn> near(kNear, Turn(pairs));
  for (std::int64_t p = 0; p < kNear; ++p) {
    near[static_cast<std::size_t>(p)].set(static_cast<double>(p), frequencies);
  }
  const double direction = inverse ? -1.0 : 1.0;
  T* const first_row = x.data<T>();

#pragma omp parallel num_threads(threads)
  {
    Turn far(pairs);
    std::int64_t far_position = 0;
    far.set(0.0, frequencies);
    std::vector<A> cosine(pairs), sine(pairs);
#pragma omp for schedule(static)
    for (std::int64_t n = 0; n < tokens; ++n) {
      const std::int64_t offset = positions[n] & (kNear - 1);
      if (positions[n] - offset != far_position) {
        far_position = positions[n] - offset;
        far.set(static_cast<double>(far_position), frequencies);
      }
      const Turn& close = near[static_cast<std::size_t>(offset)];
#pragma omp simd
      for (std::size_t d = 0; d < pairs; ++d) {
        cosine[d] = static_cast<A>(far.cosine[d] * close.cosine[d] - far.sine[d] * close.sine[d]);
        sine[d] = static_cast<A>(direction *
                                 (far.sine[d] * close.cosine[d] + far.cosine[d] * close.sine[d]));
      }
      for (std::int64_t h = 0; h < heads; ++h) {
        T* low = first_row + n * x.stride(0) + h * x.stride(1);
        T* high = low + half;
#pragma omp simd
        for (std::size_t d = 0; d < pairs; ++d) {
          const A a = cpu::load(low[d]), b = cpu::load(high[d]);
          low[d] = cpu::store<T>(a * cosine[d] - b * sine[d]);
          high[d] = cpu::store<T>(b * cosine[d] + a * sine[d]);
        }
      }
    }
  }
}

}  // namespace

void CpuKernels::rope(TensorView x, TensorView positions, double theta, bool inverse) {
  PG_ASSERT(x.rank() == 3 && x.dim(2) % 2 == 0, "x {}: an even head size is needed", x.text());
  PG_ASSERT(positions.rank() == 1 && positions.dim(0) == x.dim(0) && positions.contiguous(),
            "positions {} x {}", positions.text(), x.text());
  PG_ASSERT(theta > 0.0, "theta {}", theta);
  cpu::dispatch(x.dtype(), [&]<class T>() {
    turn_tokens<T>(x, positions.data<std::int32_t>(), theta, inverse, threads_);
  });
}

}  // namespace pg::model

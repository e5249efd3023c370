// SwiGLU (Shazeer 2020) and GELU by tanh (Hendrycks & Gimpel 2016), row by row: the operands may be
// views into a packed activation.
#include <numbers>

#include "model/kernels/cpu/cpu_kernels.h"
#include "model/kernels/cpu/elements.h"
#include "model/kernels/cpu/simd_math.h"

namespace pg::model {

namespace {

using cpu::load;
using cpu::put;

void check(const TensorView& a, const TensorView& b) {
  PG_ASSERT(cpu::same_shape(a, b) && a.dtype() == b.dtype() && a.rank() == 2, "{} and {}", a.text(),
            b.text());
}

// gelu(x) = x/2 (1 + tanh u) = x sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3): one exponential,
// and no cancellation in 1 + tanh u for negative x.
constexpr double kCubic = 0.044715;
constexpr double kTwoRoots = 2.0 * std::numbers::sqrt2 * std::numbers::inv_sqrtpi;  // 2 sqrt(2/pi)

}  // namespace

void CpuKernels::swiglu_forward(TensorView y, TensorView gate, TensorView up) {
  check(y, gate);
  check(y, up);
  cpu::dispatch(y.dtype(), [&]<class T>() {
    const cpu::Rows<T> out(y), gates(gate), ups(up);
    cpu::for_rows(out.n, out.width, [&](std::int64_t n) {
      T* const to = out[n];
      const T *const g = gates[n], *const u = ups[n];
#pragma omp simd
      for (std::int64_t f = 0; f < out.width; ++f) {
        put(to[f], cpu::simd_silu(load(g[f])) * load(u[f]));
      }
    });
  });
}

void CpuKernels::swiglu_backward(TensorView dgate, TensorView dup, TensorView dy, TensorView gate,
                                 TensorView up) {
  for (const TensorView& x : {dgate, dup, gate, up}) check(dy, x);
  cpu::dispatch(dy.dtype(), [&]<class T>() {
    using A = cpu::acc_t<T>;
    const cpu::Rows<T> dgates(dgate), dups(dup), dout(dy), gates(gate), ups(up);
    cpu::for_rows(dout.n, dout.width, [&](std::int64_t n) {
      T *const dg = dgates[n], *const du = dups[n];
      const T *const d = dout[n], *const g = gates[n], *const u = ups[n];
#pragma omp simd
      for (std::int64_t f = 0; f < dout.width; ++f) {
        const A x = load(g[f]), dx = load(d[f]);
        const A s = cpu::simd_sigmoid(x);
        const A to_gate = dx * load(u[f]) * (s * (A{1} + x * (A{1} - s)));
        const A to_up = dx * (x * s);
        put(dg[f], to_gate);
        put(du[f], to_up);
      }
    });
  });
}

void CpuKernels::gelu_forward(TensorView y, TensorView x) {
  check(y, x);
  cpu::dispatch(y.dtype(), [&]<class T>() {
    using A = cpu::acc_t<T>;
    const cpu::Rows<T> out(y), in(x);
    cpu::for_rows(out.n, out.width, [&](std::int64_t n) {
      T* const to = out[n];
      const T* const from = in[n];
#pragma omp simd
      for (std::int64_t f = 0; f < out.width; ++f) {
        const A v = load(from[f]);
        const A twice_u = A{kTwoRoots} * (v + A{kCubic} * (v * v * v));
        put(to[f], v * cpu::simd_sigmoid(twice_u));
      }
    });
  });
}

void CpuKernels::gelu_backward(TensorView dx, TensorView dy, TensorView x) {
  check(dx, dy);
  check(dx, x);
  cpu::dispatch(dx.dtype(), [&]<class T>() {
    using A = cpu::acc_t<T>;
    const cpu::Rows<T> to_input(dx), dout(dy), in(x);
    cpu::for_rows(dout.n, dout.width, [&](std::int64_t n) {
      T* const to = to_input[n];
      const T *const d = dout[n], *const from = in[n];
#pragma omp simd
      for (std::int64_t f = 0; f < dout.width; ++f) {
        const A v = load(from[f]), square = v * v;
        const A s = cpu::simd_sigmoid(A{kTwoRoots} * (v + A{kCubic} * (square * v)));
        const A slope = A{kTwoRoots} * (A{1} + A{3 * kCubic} * square);  // of 2u
        put(to[f], load(d[f]) * (s + v * s * (A{1} - s) * slope));
      }
    });
  });
}

}  // namespace pg::model

// AdamW (Loshchilov & Hutter 2019) as torch.optim.AdamW computes it, in one pass over memory:
//   w *= 1 - lr wd;  m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;
//   w -= lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps).
// The factors are computed in double once; the elements in the accumulator type.
#include <cmath>

#include "model/kernels/cpu/cpu_kernels.h"
#include "model/kernels/cpu/elements.h"

namespace pg::model {

namespace {

template <class A>
struct Factors {
  A grad_scale, beta1, rest1, beta2, rest2, keep, rate, inverse_root2, eps;

  Factors(const AdamWStep& s, double weight_decay)
      : grad_scale(static_cast<A>(s.grad_scale)),
        beta1(static_cast<A>(s.beta1)),
        rest1(static_cast<A>(1.0 - s.beta1)),
        beta2(static_cast<A>(s.beta2)),
        rest2(static_cast<A>(1.0 - s.beta2)),
        keep(static_cast<A>(1.0 - s.lr * weight_decay)),
        rate(static_cast<A>(s.lr / (1.0 - std::pow(s.beta1, static_cast<double>(s.step))))),
        inverse_root2(
            static_cast<A>(1.0 / std::sqrt(1.0 - std::pow(s.beta2, static_cast<double>(s.step))))),
        eps(static_cast<A>(s.eps)) {}
};

// `master` holds the exact weights; W rounds them into `weight` unless that is the same array.
template <class W, class A>
void update(W* weight, A* master, A* m, A* v, const A* grad, std::int64_t n, const Factors<A>& f) {
  cpu::for_pieces(n, [=](std::int64_t begin, std::int64_t end) {
#pragma omp simd
    for (std::int64_t i = begin; i < end; ++i) {
      const A g = grad[i] * f.grad_scale;
      const A first = f.beta1 * m[i] + f.rest1 * g;
      const A second = f.beta2 * v[i] + f.rest2 * (g * g);
      const A w =
          master[i] * f.keep - f.rate * (first / (std::sqrt(second) * f.inverse_root2 + f.eps));
      m[i] = first;
      v[i] = second;
      master[i] = w;
      if constexpr (!std::is_same_v<W, A>) cpu::convert(weight[i], w);
    }
  });
}

void update(const AdamWTensors& t, const AdamWStep& step) {
  const std::int64_t n = t.weight.elements();
  const DType type = accumulator_of(t.weight.dtype());
  PG_ASSERT(
      t.weight.contiguous() && step.step >= 1 && t.master.empty() == (t.weight.dtype() == type),
      "weight {} master {} step {}", t.weight.text(), t.master.text(), step.step);
  const TensorView exact = t.master.empty() ? t.weight : t.master;
  for (const TensorView& x : {t.m, t.v, t.grad, exact}) {
    PG_ASSERT(x.elements() == n && x.contiguous() && x.dtype() == type, "weight {} and {}",
              t.weight.text(), x.text());
  }
  if (n == 0) return;
  cpu::dispatch(t.weight.dtype(), [&]<class W>() {
    using A = cpu::acc_t<W>;
    update(t.weight.data<W>(), exact.data<A>(), t.m.data<A>(), t.v.data<A>(), t.grad.data<A>(), n,
           Factors<A>(step, t.weight_decay));
  });
}

}  // namespace

void CpuKernels::adamw(std::span<const AdamWTensors> tensors, const AdamWStep& step) {
  for (const auto& tensor : tensors) update(tensor, step);
}

}  // namespace pg::model

// Causal attention: the checks; the work is in attention_forward.cpp and attention_backward.cpp.
#include "model/kernels/cpu/attention_block.h"
#include "model/kernels/cpu/cpu_kernels.h"

namespace pg::model {
namespace {

bool has_shape(const TensorView& x, DType type, std::initializer_list<std::int64_t> shape) {
  if (x.dtype() != type || x.rank() != static_cast<int>(shape.size())) return false;
  int axis = 0;
  for (const auto extent : shape) {
    if (x.dim(axis++) != extent) return false;
  }
  return x.elements() == 0 || x.dim(x.rank() - 1) == 1 || x.stride(x.rank() - 1) == 1;
}

void check(TensorView o, TensorView lse, TensorView q, TensorView k, TensorView v,
           const AttentionShape& shape, const Dropout& dropout) {
  PG_ASSERT(q.rank() == 4 && k.rank() == 4, "q {} k {}", q.text(), k.text());
  const auto type = q.dtype();
  const auto sequences = q.dim(0), length = q.dim(1), heads = q.dim(2), size = q.dim(3);
  const auto kv_heads = k.dim(2);
  PG_ASSERT(kv_heads > 0 && heads % kv_heads == 0, "q {} k {}", q.text(), k.text());
  for (const auto& x : {k, v}) {
    PG_ASSERT(has_shape(x, type, {sequences, length, kv_heads, size}), "{} for q {}", x.text(),
              q.text());
  }
  PG_ASSERT(has_shape(q, type, {sequences, length, heads, size}) &&
                has_shape(o, type, {sequences, length, heads, size}),
            "q {} o {}", q.text(), o.text());
  PG_ASSERT(has_shape(lse, accumulator_of(type), {sequences, heads, length}), "lse {} for q {}",
            lse.text(), q.text());
  PG_ASSERT(shape.window >= 0, "window {}", shape.window);
  PG_ASSERT(dropout.rate >= 0.0 && dropout.rate < 1.0, "dropout {}", dropout.rate);
  PG_ASSERT(dropout.first_head >= 0, "first head {}", dropout.first_head);
  PG_ASSERT(dropout.rate == 0.0 || static_cast<std::int64_t>(dropout.samples.size()) == sequences,
            "{} samples for q {}", dropout.samples.size(), q.text());
}

}  // namespace

void CpuKernels::attention_forward(TensorView o, TensorView lse, TensorView q, TensorView k,
                                   TensorView v, const AttentionShape& shape,
                                   const Dropout& dropout) {
  check(o, lse, q, k, v, shape, dropout);
  cpu::dispatch(q.dtype(), [&]<class T>() {
    cpu::attention_forward<T>(o, lse, q, k, v, shape, dropout, threads_);
  });
}

void CpuKernels::attention_backward(TensorView dq, TensorView dk, TensorView dv, TensorView d_o,
                                    TensorView q, TensorView k, TensorView v, TensorView o,
                                    TensorView lse, const AttentionShape& shape,
                                    const Dropout& dropout, bool accumulate) {
  PG_ASSERT(!accumulate, "comes");
  check(o, lse, q, k, v, shape, dropout);
  check(d_o, lse, dq, dk, dv, shape, dropout);
  PG_ASSERT(dq.dim(0) == q.dim(0) && dq.dim(1) == q.dim(1) && dq.dim(2) == q.dim(2) &&
                dq.dim(3) == q.dim(3) && dk.dim(2) == k.dim(2) && dq.dtype() == q.dtype(),
            "dq {} q {} dk {} k {}", dq.text(), q.text(), dk.text(), k.text());
  cpu::dispatch(q.dtype(), [&]<class T>() {
    cpu::attention_backward<T>(dq, dk, dv, d_o, q, k, v, o, lse, shape, dropout, threads_);
  });
}

void CpuKernels::attention_merge(TensorView, TensorView, TensorView, TensorView) {
  PG_ASSERT(false, "comes");
}

}  // namespace pg::model

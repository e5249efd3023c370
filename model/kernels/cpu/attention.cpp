// Causal attention: the work is in attention_forward.cpp and attention_backward.cpp.
#include "model/kernels/attention_checks.h"
#include "model/kernels/cpu/attention_block.h"
#include "model/kernels/cpu/cpu_kernels.h"

namespace pg::model {

void CpuKernels::attention_forward(TensorView o, TensorView lse, TensorView q, TensorView k,
                                   TensorView v, const AttentionShape& shape,
                                   const Dropout& dropout) {
  check_attention(o, lse, q, k, v, shape, dropout);
  cpu::dispatch(q.dtype(), [&]<class T>() {
    cpu::attention_forward<T>(o, lse, q, k, v, shape, dropout, threads_);
  });
}

void CpuKernels::attention_backward(TensorView dq, TensorView dk, TensorView dv, TensorView d_o,
                                    TensorView q, TensorView k, TensorView v, TensorView o,
                                    TensorView lse, const AttentionShape& shape,
                                    const Dropout& dropout, bool accumulate) {
  check_attention_backward(dq, dk, dv, d_o, q, k, v, o, lse, shape, dropout);
  cpu::dispatch(q.dtype(), [&]<class T>() {
    cpu::attention_backward<T>(dq, dk, dv, d_o, q, k, v, o, lse, shape, dropout, accumulate,
                               threads_);
  });
}

void CpuKernels::attention_merge(TensorView o, TensorView lse, TensorView other_o,
                                 TensorView other_lse) {
  check_attention_merge(o, lse, other_o, other_lse);
  cpu::dispatch(o.dtype(), [&]<class T>() {
    if constexpr (std::is_same_v<T, cpu::acc_t<T>>) {
      cpu::attention_merge<T>(o, lse, other_o, other_lse, threads_);
    }
  });
}

}  // namespace pg::model

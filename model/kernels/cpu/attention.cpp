#include "model/kernels/cpu/cpu_kernels.h"

namespace pg::model {

void CpuKernels::attention_forward(TensorView, TensorView, TensorView, TensorView, TensorView,
                                   const AttentionShape&, const Dropout&) {}

void CpuKernels::attention_backward(TensorView, TensorView, TensorView, TensorView, TensorView,
                                    TensorView, TensorView, TensorView, TensorView,
                                    const AttentionShape&, const Dropout&) {}

}  // namespace pg::model

#include "model/kernels/cpu/cpu_kernels.h"
#include "model/kernels/cpu/matmul.h"

namespace pg::model {

CpuKernels::CpuKernels(int threads) : threads_(threads) {}
CpuKernels::~CpuKernels() = default;
std::unique_ptr<Kernels> make_cpu_kernels(int threads) {
  return std::make_unique<CpuKernels>(threads);
}
void CpuKernels::linear_forward(TensorView, TensorView, TensorView, TensorView) {}
void CpuKernels::linear_backward_input(TensorView, TensorView, TensorView, bool) {}
void CpuKernels::linear_backward_weight(TensorView, TensorView, TensorView, TensorView) {}
void CpuKernels::weights_changed() {}

}  // namespace pg::model

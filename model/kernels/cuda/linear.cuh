// What linear and grouped_linear share: products with a bias of another type than the result, and
// bias gradients.
#pragma once

#include <cuda_runtime.h>

#include <span>

#include "model/kernels/cuda/matmul.h"
#include "model/kernels/cuda/workspace.h"
#include "model/tensor.h"

namespace pg::model::cuda {

// Some linear layer's y[N,O] = x[N,I] w[O,I]^T.
void check_linear(const TensorView& y, const TensorView& x, const TensorView& w);

// The product, which has no bias yet, plus bias[N] of any compute type, or empty. False, and
// nothing done: cuBLASLt does not take its GELU.
[[nodiscard]] bool multiply_with_bias(CudaMatmul& matmul, Workspace& workspace, cudaStream_t stream,
                                      Product product, TensorView bias);

// sum[columns] += over the rows of x[rows, columns], for each of several: of one type and width,
// rows equally far apart. Empty ones of no rows are allowed.
struct ColumnSum {
  TensorView sum, x;
};
void add_column_sums(Workspace& workspace, cudaStream_t stream, std::span<const ColumnSum> all);

}  // namespace pg::model::cuda

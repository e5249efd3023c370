// Products of groups of rows with one weight each: one product for each group that has rows, by an
// algorithm chosen for the weight alone (Varies), so that a row's result is the same in any group
// of any size. A weight's gradient adds over its group's rows, whose number differs at every call:
// an algorithm for any number of them, too.
#include <vector>

#include "model/kernels/cuda/cuda_kernels.h"
#include "model/kernels/cuda/linear.cuh"
#include "model/kernels/cuda/matmul.h"
#include "model/kernels/cuda/views.cuh"

namespace pg::model {

namespace {

void check_groups(const TensorView& y, const TensorView& x, std::span<const TensorView> w,
                  std::span<const TensorView> bias, std::span<const std::int64_t> begin) {
  PG_ASSERT(y.rank() == 2 && x.rank() == 2 && y.dim(0) == x.dim(0), "y {} x {}", y.text(),
            x.text());
  PG_ASSERT(begin.size() == w.size() + 1 && begin.front() == 0 && begin.back() == x.dim(0),
            "{} entries up to {} for {} weights and x {}", begin.size(),
            begin.empty() ? -1 : begin.back(), w.size(), x.text());
  for (std::size_t g = 0; g < w.size(); ++g) {
    cuda::check_linear(y, x, w[g]);
    PG_ASSERT(begin[g] <= begin[g + 1], "group {} is [{}, {})", g, begin[g], begin[g + 1]);
  }
  PG_ASSERT(bias.empty() || bias.size() == w.size(), "{} biases, {} weights", bias.size(),
            w.size());
}

}  // namespace

void CudaKernels::grouped_linear_forward(TensorView y, TensorView x, std::span<const TensorView> w,
                                         std::span<const TensorView> bias,
                                         std::span<const std::int64_t> begin) {
  check_groups(y, x, w, bias, begin);
  for (std::size_t g = 0; g < w.size(); ++g) {
    const auto rows = begin[g + 1] - begin[g];
    if (rows == 0) continue;
    const bool done = cuda::multiply_with_bias(*matmul_, workspace_, stream_,
                                               {.c = y.slice(0, begin[g], rows),
                                                .a = x.slice(0, begin[g], rows),
                                                .b = w[g],
                                                .transpose_b = true,
                                                .varies = cuda::Varies::kRows},
                                               bias.empty() ? TensorView() : bias[g]);
    PG_ASSERT(done, "y {} x {} w {}", y.text(), x.text(), w[g].text());
  }
}

void CudaKernels::grouped_linear_backward_input(TensorView dx, TensorView dy,
                                                std::span<const TensorView> w,
                                                std::span<const std::int64_t> begin) {
  check_groups(dy, dx, w, {}, begin);
  for (std::size_t g = 0; g < w.size(); ++g) {
    const auto rows = begin[g + 1] - begin[g];
    if (rows == 0) continue;
    const bool done = cuda::multiply_with_bias(*matmul_, workspace_, stream_,
                                               {.c = dx.slice(0, begin[g], rows),
                                                .a = dy.slice(0, begin[g], rows),
                                                .b = w[g],
                                                .varies = cuda::Varies::kRows},
                                               {});
    PG_ASSERT(done, "dx {} dy {} w {}", dx.text(), dy.text(), w[g].text());
  }
}

void CudaKernels::grouped_linear_backward_weight(std::span<const TensorView> dw,
                                                 std::span<const TensorView> dbias, TensorView dy,
                                                 TensorView x,
                                                 std::span<const std::int64_t> begin) {
  check_groups(dy, x, dw, dbias, begin);
  std::vector<cuda::ColumnSum> sums;
  for (std::size_t g = 0; g < dw.size(); ++g) {
    const auto rows = begin[g + 1] - begin[g];
    if (rows == 0) continue;
    PG_ASSERT(dw[g].dtype() == accumulator_of(x.dtype()), "dw {} of x {}", dw[g].text(), x.text());
    const auto given = dy.slice(0, begin[g], rows);
    const bool done = cuda::multiply_with_bias(*matmul_, workspace_, stream_,
                                               {.c = dw[g],
                                                .a = given,
                                                .b = x.slice(0, begin[g], rows),
                                                .transpose_a = true,
                                                .accumulate = true,
                                                .varies = cuda::Varies::kTerms},
                                               {});
    PG_ASSERT(done, "dw {} dy {} x {}", dw[g].text(), dy.text(), x.text());
    if (!dbias.empty()) sums.push_back({dbias[g], given});
  }
  cuda::add_column_sums(workspace_, stream_, sums);
}

}  // namespace pg::model

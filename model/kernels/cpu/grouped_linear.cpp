// Products of groups of rows with one weight each. Groups have another size at every call, but the
// products see few shapes: rows meet their weight in blocks of one size, the last block of a group
// filled up with zeros. So each shape's primitive is made once, and a row's result is that of the
// same product wherever the row stands.
#include <array>
#include <cstring>
#include <vector>

#include "model/kernels/cpu/cpu_kernels.h"
#include "model/kernels/cpu/dispatch.h"
#include "model/kernels/cpu/matmul.h"

namespace pg::model {

namespace {

constexpr std::int64_t kRowBlock = 64;

void check_shapes(const TensorView& y, const TensorView& x, std::span<const TensorView> w,
                  std::span<const std::int64_t> begin) {
  PG_ASSERT(y.rank() == 2 && x.rank() == 2 && y.dim(0) == x.dim(0), "y {} x {}", y.text(),
            x.text());
  PG_ASSERT(begin.size() == w.size() + 1 && begin.front() == 0 && begin.back() == x.dim(0),
            "{} entries up to {} for {} weights and x {}", begin.size(),
            begin.empty() ? -1 : begin.back(), w.size(), x.text());
  for (std::size_t g = 0; g < w.size(); ++g) {
    PG_ASSERT(w[g].rank() == 2 && w[g].dim(0) == y.dim(1) && w[g].dim(1) == x.dim(1),
              "y {} x {} w[{}] {}", y.text(), x.text(), g, w[g].text());
    PG_ASSERT(begin[g] <= begin[g + 1], "group {} is [{}, {})", g, begin[g], begin[g + 1]);
  }
}

// Rows [first, first + rows) of x, filled up with zeros to a block, in `memory`; rows lie as far
// apart as in x, as another stride may take another algorithm.
TensorView padded(std::vector<char>& memory, const TensorView& x, std::int64_t first,
                  std::int64_t rows, std::int64_t block) {
  const std::size_t size = dtype_size(x.dtype());
  const auto stride = static_cast<std::size_t>(x.stride(0)) * size;
  memory.assign(static_cast<std::size_t>(block) * stride, 0);
  for (std::int64_t i = 0; i < rows; ++i) {
    std::memcpy(memory.data() + static_cast<std::size_t>(i) * stride,
                static_cast<const char*>(x.raw()) + static_cast<std::size_t>(first + i) * stride,
                static_cast<std::size_t>(x.dim(1)) * size);
  }
  const TensorView whole(memory.data(), x.dtype(), {block, x.stride(0)});
  return whole.slice(1, 0, x.dim(1));
}

// product(y rows, x rows) over the rows of one group.
template <class Product>
void for_blocks(const TensorView& y, const TensorView& x, std::int64_t begin, std::int64_t end,
                const Product& product) {
  PG_ASSERT(y.contiguous(), "strided result {}", y.text());
  if (begin == end) return;
  // The fp64 product works row by row.
  if (x.dtype() == DType::kF64) {
    return product(y.slice(0, begin, end - begin), x.slice(0, begin, end - begin));
  }
  std::int64_t first = begin;
  for (; first + kRowBlock <= end; first += kRowBlock) {
    product(y.slice(0, first, kRowBlock), x.slice(0, first, kRowBlock));
  }
  if (first == end) return;
  std::vector<char> x_memory, y_memory(kRowBlock * y.dim(1) * dtype_size(y.dtype()));
  const TensorView result(y_memory.data(), y.dtype(), {kRowBlock, y.dim(1)});
  product(result, padded(x_memory, x, first, end - first, kRowBlock));
  const TensorView rest = y.slice(0, first, end - first);
  std::memcpy(rest.raw(), y_memory.data(), rest.bytes());
}

}  // namespace

void CpuKernels::grouped_linear_forward(TensorView y, TensorView x, std::span<const TensorView> w,
                                        std::span<const TensorView> bias,
                                        std::span<const std::int64_t> begin) {
  check_shapes(y, x, w, begin);
  PG_ASSERT(bias.empty() || bias.size() == w.size(), "{} biases, {} weights", bias.size(),
            w.size());
  for (std::size_t g = 0; g < w.size(); ++g) {
    const TensorView b = bias.empty() ? TensorView() : bias[g];
    for_blocks(y, x, begin[g], begin[g + 1], [&](TensorView out, TensorView in) {
      matmul_->run(
          {.c = out, .a = in, .b = w[g], .bias = b, .transpose_b = true, .keep_packed = true});
    });
  }
}

void CpuKernels::grouped_linear_backward_input(TensorView dx, TensorView dy,
                                               std::span<const TensorView> w,
                                               std::span<const std::int64_t> begin) {
  check_shapes(dy, dx, w, begin);
  for (std::size_t g = 0; g < w.size(); ++g) {
    for_blocks(dx, dy, begin[g], begin[g + 1], [&](TensorView out, TensorView in) {
      matmul_->run({.c = out, .a = in, .b = w[g], .bias = {}, .keep_packed = true});
    });
  }
}

void CpuKernels::grouped_linear_backward_weight(std::span<const TensorView> dw,
                                                std::span<const TensorView> dbias, TensorView dy,
                                                TensorView x, std::span<const std::int64_t> begin) {
  check_shapes(dy, x, dw, begin);
  PG_ASSERT(dbias.empty() || dbias.size() == dw.size(), "{} biases, {} weights", dbias.size(),
            dw.size());
  std::vector<char> x_memory, dy_memory;
  for (std::size_t g = 0; g < dw.size(); ++g) {
    const TensorView db = dbias.empty() ? TensorView() : dbias[g];
    for (std::int64_t first = begin[g]; first < begin[g + 1];) {
      const std::int64_t rows = std::min(kRowBlock, begin[g + 1] - first);
      if (rows == kRowBlock || x.dtype() == DType::kF64) {
        linear_backward_weight(dw[g], db, dy.slice(0, first, rows), x.slice(0, first, rows));
      } else {
        linear_backward_weight(dw[g], db, padded(dy_memory, dy, first, rows, kRowBlock),
                               padded(x_memory, x, first, rows, kRowBlock));
      }
      first += rows;
    }
  }
}

}  // namespace pg::model

// Products of groups of rows with one weight each. Groups have another size at every call, but
// oneDNN must see few shapes: making a primitive takes up to a millisecond, and nothing promises
// that other shapes add in the same order. So rows meet their weight in blocks of one size, the
// last block of a group filled up with zeros, and each block is one thread's: a row's result is
// that of the same product wherever the row stands, with any number of threads. (Which of a block's
// rows it is must not matter either: tests/model/kernels/grouped_linear_test.cpp holds oneDNN to
// that.)
#include <algorithm>
#include <bit>
#include <cstring>
#include <vector>

#include "model/kernels/cpu/cpu_kernels.h"
#include "model/kernels/cpu/matmul.h"

namespace pg::model {

namespace {

// Measured on one thread with AVX-512: products of 32 rows reach 0.92 to 0.99 of the rate of long
// ones. A group wastes 16 rows on average.
constexpr std::int64_t kRowBlock = 32;

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

// x's rows as its first ones, zeros behind, in `memory`. Rows lie as far apart as in x: another
// stride could take another algorithm.
TensorView padded(char* memory, const TensorView& x, std::int64_t block) {
  const std::size_t size = dtype_size(x.dtype());
  const auto stride = static_cast<std::size_t>(x.stride(0)) * size;
  std::memset(memory, 0, static_cast<std::size_t>(block) * stride);
  for (std::int64_t i = 0; i < x.dim(0); ++i) {
    const auto offset = static_cast<std::size_t>(i) * stride;
    std::memcpy(memory + offset, static_cast<const char*>(x.raw()) + offset,
                static_cast<std::size_t>(x.dim(1)) * size);
  }
  return TensorView(memory, x.dtype(), {block, x.stride(0)}).slice(1, 0, x.dim(1));
}

std::size_t padded_bytes(const TensorView& x, std::int64_t block) {
  return static_cast<std::size_t>(block * x.stride(0)) * dtype_size(x.dtype());
}

// Room for the blocks that are filled up; grows to the largest request and stays.
char* scratch(std::size_t bytes) {
  thread_local std::vector<char> memory;
  if (memory.size() < bytes) memory.resize(bytes);
  return memory.data();
}

// out rows = in rows times the weight of their group; `of_group(g)` has the other arguments.
template <class OfGroup>
void multiply_rows(MatmulEngine& engine, const TensorView& out, const TensorView& in,
                   std::span<const std::int64_t> begin, const OfGroup& of_group) {
  PG_ASSERT(out.contiguous(), "strided result {}", out.text());
  const std::size_t groups = begin.size() - 1;
  const bool whole = in.dtype() == DType::kF64;  // that product works row by row
  const std::size_t in_bytes = padded_bytes(in, kRowBlock),
                    out_bytes = padded_bytes(out, kRowBlock);
  char* memory = whole ? nullptr : scratch(groups * (in_bytes + out_bytes));
  std::vector<MatmulArgs> products;
  std::vector<std::pair<TensorView, TensorView>> rests;  // of out, and where it is computed
  for (std::size_t g = 0; g < groups; ++g) {
    MatmulArgs args = of_group(g);
    const std::int64_t block =
        whole ? std::max<std::int64_t>(1, begin[g + 1] - begin[g]) : kRowBlock;
    for (std::int64_t first = begin[g]; first < begin[g + 1]; first += block) {
      const std::int64_t rows = std::min(block, begin[g + 1] - first);
      args.c = out.slice(0, first, rows);
      args.a = in.slice(0, first, rows);
      if (rows < block) {
        const TensorView full(memory, out.dtype(), {block, out.dim(1)});
        rests.emplace_back(args.c, full.slice(0, 0, rows));
        args.c = full;
        args.a = padded(memory + out_bytes, args.a, block);
        memory += out_bytes + in_bytes;
      }
      products.push_back(args);
    }
  }
  engine.run_each(products);
  for (const auto& [to, from] : rests) std::memcpy(to.raw(), from.raw(), to.bytes());
}

// A weight gradient adds over its group's rows, many at once, as each product reads and writes the
// whole of it. The last rows are filled up to one of few sizes, four between a power of two and the
// next.
constexpr std::int64_t kMostTerms = 1024, kFewestTerms = 32;

std::int64_t filled_up(std::int64_t rows) {
  const auto power = static_cast<std::int64_t>(std::bit_floor(static_cast<std::uint64_t>(rows)));
  const std::int64_t step = std::max(kFewestTerms, power / 4);
  return (rows + step - 1) / step * step;
}

}  // namespace

void CpuKernels::grouped_linear_forward(TensorView y, TensorView x, std::span<const TensorView> w,
                                        std::span<const TensorView> bias,
                                        std::span<const std::int64_t> begin) {
  check_shapes(y, x, w, begin);
  PG_ASSERT(bias.empty() || bias.size() == w.size(), "{} biases, {} weights", bias.size(),
            w.size());
  multiply_rows(*matmul_, y, x, begin, [&](std::size_t g) {
    return MatmulArgs{.c = {},
                      .a = {},
                      .b = w[g],
                      .bias = bias.empty() ? TensorView() : bias[g],
                      .transpose_b = true,
                      .keep_packed = true};
  });
}

void CpuKernels::grouped_linear_backward_input(TensorView dx, TensorView dy,
                                               std::span<const TensorView> w,
                                               std::span<const std::int64_t> begin) {
  check_shapes(dy, dx, w, begin);
  multiply_rows(*matmul_, dx, dy, begin, [&](std::size_t g) {
    return MatmulArgs{.c = {}, .a = {}, .b = w[g], .bias = {}, .keep_packed = true};
  });
}

// These products are large enough for all threads, like those of linear_backward_weight; the order
// of a sum may then depend on how many threads there are.
void CpuKernels::grouped_linear_backward_weight(std::span<const TensorView> dw,
                                                std::span<const TensorView> dbias, TensorView dy,
                                                TensorView x, std::span<const std::int64_t> begin) {
  check_shapes(dy, x, dw, begin);
  PG_ASSERT(dbias.empty() || dbias.size() == dw.size(), "{} biases, {} weights", dbias.size(),
            dw.size());
  const std::size_t x_bytes = padded_bytes(x, kMostTerms);
  const bool whole = x.dtype() == DType::kF64;
  char* const memory = whole ? nullptr : scratch(x_bytes + padded_bytes(dy, kMostTerms));
  for (std::size_t g = 0; g < dw.size(); ++g) {
    const TensorView db = dbias.empty() ? TensorView() : dbias[g];
    const std::int64_t most = whole ? begin[g + 1] - begin[g] : kMostTerms;
    for (std::int64_t first = begin[g]; first < begin[g + 1]; first += most) {
      const std::int64_t rows = std::min(most, begin[g + 1] - first);
      TensorView from = x.slice(0, first, rows), given = dy.slice(0, first, rows);
      const std::int64_t terms = whole ? rows : filled_up(rows);
      if (rows < terms) {
        from = padded(memory, from, terms);
        given = padded(memory + x_bytes, given, terms);
      }
      linear_backward_weight(dw[g], db, given, from);
    }
  }
}

}  // namespace pg::model

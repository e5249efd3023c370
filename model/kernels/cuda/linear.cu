// Linear layers as matrix products, and the bias gradient.
//
// The bias gradient is a kernel of its own and not the epilogue that cuBLASLt has for it: that one
// assigns, in the result's type, narrows the choice of the product's algorithm, and adds in that
// algorithm's order. Ours reads dy once more, which is little beside the product.
#include "model/kernels/cuda/linear.cuh"

#include <algorithm>

#include "model/kernels/cuda/cuda_kernels.h"
#include "model/kernels/cuda/elements.cuh"
#include "model/kernels/cuda/launch.cuh"
#include "model/kernels/cuda/views.cuh"

namespace pg::model {

namespace cuda {

namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarp;

template <class To, class From>
__global__ void __launch_bounds__(kThreads)
    convert_bias(To* __restrict__ to, const From* __restrict__ from, std::int64_t n) {
  const auto i = blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x;
  if (i < n) to[i] = convert<To>(from[i]);
}

// Each row of y becomes the bias.
template <class To, class From>
__global__ void __launch_bounds__(kThreads)
    spread_bias(To* __restrict__ y, const From* __restrict__ bias, std::int64_t rows,
                std::int64_t columns, std::int64_t stride) {
  for (auto i = blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x; i < rows * columns;
       i += std::int64_t{gridDim.x} * blockDim.x) {
    y[i / columns * stride + i % columns] = convert<To>(bias[i % columns]);
  }
}

// Of at most kMost matrices at once, as one kernel's argument.
template <class T>
struct ColumnSums {
  static constexpr int kMost = 64;
  const T* x[kMost];
  acc_t<T>* sum[kMost];
  std::int64_t rows[kMost];
  std::int64_t columns = 0, stride = 0;
  std::int64_t rows_per_split = 0;  // a multiple of kWarps
  acc_t<T>* partial = nullptr;      // [matrix, split, columns], when there are several splits
  std::int64_t splits = 0;
};

// Columns of one block: each lane has one pack of them, each warp every kWarps-th row.
template <class T>
constexpr int kTile = kWarp* Pack<T>::kSize;

template <class T, bool kAligned>
__global__ void __launch_bounds__(kThreads) sum_columns(const ColumnSums<T> all) {
  using A = acc_t<T>;
  constexpr int kPer = Pack<T>::kSize;
  __shared__ A sums[kWarps][kTile<T>];
  const auto matrix = blockIdx.z;
  const std::int64_t rows = all.rows[matrix], begin = blockIdx.y * all.rows_per_split;
  if (begin >= rows) return;
  const std::int64_t end = begin + all.rows_per_split < rows ? begin + all.rows_per_split : rows;
  const unsigned lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const std::int64_t tile = blockIdx.x * std::int64_t{kTile<T>}, column = tile + lane * kPer;
  const T* const x = all.x[matrix] + column;
  A total[kPer] = {};
  if (kAligned && column + kPer <= all.columns) {
#pragma unroll 4
    for (std::int64_t row = begin + warp; row < end; row += kWarps) {
      const auto pack = load_pack(x + row * all.stride);
#pragma unroll
      for (int i = 0; i < kPer; ++i) total[i] += load(pack.at[i]);
    }
  } else {
    for (std::int64_t row = begin + warp; row < end; row += kWarps) {
#pragma unroll
      for (int i = 0; i < kPer; ++i) {
        if (column + i < all.columns) total[i] += load(x[row * all.stride + i]);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kPer; ++i) sums[warp][lane * kPer + i] = total[i];
  __syncthreads();
  const unsigned mine = threadIdx.x;
  if (mine >= kTile<T> || tile + mine >= all.columns) return;
  A sum{};
  for (int w = 0; w < kWarps; ++w) sum += sums[w][mine];
  if (all.partial == nullptr) {
    all.sum[matrix][tile + mine] += sum;
  } else {
    const auto split = std::int64_t{matrix} * all.splits + blockIdx.y;
    all.partial[split * all.columns + tile + mine] = sum;
  }
}
static_assert(kTile<bf16> <= kThreads);

// The partial sums of 32 columns: each warp adds every kWarps-th split.
template <class T>
__global__ void __launch_bounds__(kThreads) add_splits(const ColumnSums<T> all) {
  using A = acc_t<T>;
  __shared__ A sums[kWarps][kWarp];
  const auto matrix = blockIdx.z;
  const std::int64_t rows = all.rows[matrix];
  const std::int64_t splits = (rows + all.rows_per_split - 1) / all.rows_per_split;
  if (splits == 0) return;
  const unsigned lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const std::int64_t column = blockIdx.x * std::int64_t{kWarp} + lane;
  A sum{};
  if (column < all.columns) {
    const A* const partial = all.partial + matrix * all.splits * all.columns + column;
#pragma unroll 4
    for (std::int64_t split = warp; split < splits; split += kWarps) {
      sum += partial[split * all.columns];
    }
  }
  sums[warp][lane] = sum;
  __syncthreads();
  if (warp > 0 || column >= all.columns) return;
  for (int w = 1; w < kWarps; ++w) sum += sums[w][lane];
  all.sum[matrix][column] += sum;
}

template <class T>
void run_column_sums(Workspace& workspace, cudaStream_t stream, std::span<const ColumnSum> some) {
  ColumnSums<T> all{};
  std::int64_t most = 0;
  bool aligned = true;
  for (std::size_t i = 0; i < some.size(); ++i) {
    all.x[i] = some[i].x.template data<T>();
    all.sum[i] = some[i].sum.template data<acc_t<T>>();
    all.rows[i] = some[i].x.dim(0);
    most = std::max(most, all.rows[i]);
    aligned = aligned && aligned16(all.x[i]);
  }
  if (most == 0) return;
  all.columns = some[0].x.dim(1);
  all.stride = some[0].x.stride(0);
  aligned = aligned && all.stride % Pack<T>::kSize == 0;
  // By sizes alone: about eight blocks for each of a large GPU's processors, but at least four rows
  // for each warp.
  const auto tiles = ceil_div(all.columns, kTile<T>);
  const auto matrices = static_cast<std::int64_t>(some.size());
  const auto wanted = std::clamp<std::int64_t>(1056 / (tiles * matrices), 1, 128);
  all.rows_per_split =
      std::max<std::int64_t>(4 * kWarps, ceil_div(ceil_div(most, wanted), kWarps) * kWarps);
  all.splits = ceil_div(most, all.rows_per_split);
  if (all.splits > 1) {
    const auto elements = static_cast<std::size_t>(matrices * all.splits * all.columns);
    all.partial = static_cast<acc_t<T>*>(workspace.take(elements * sizeof(acc_t<T>)));
  }
  const auto z = static_cast<unsigned>(matrices);
  launch("sum_columns", aligned ? sum_columns<T, true> : sum_columns<T, false>,
         dim3(blocks_of(tiles), static_cast<unsigned>(all.splits), z), dim3(kThreads), 0, stream,
         all);
  if (all.splits == 1) return;
  launch("add_splits", add_splits<T>, dim3(blocks_of(ceil_div(all.columns, kWarp)), 1, z),
         dim3(kThreads), 0, stream, all);
}

template <class Work>
void dispatch2(DType to, DType from, const Work& work) {
  dispatch(to, [&]<class To>() {
    dispatch(from, [&]<class From>() { work.template operator()<To, From>(); });
  });
}

}  // namespace

void check_linear(const TensorView& y, const TensorView& x, const TensorView& w) {
  require_cuda(y);
  require_cuda(x);
  require_cuda(w);
  PG_ASSERT(y.rank() == 2 && x.rank() == 2 && w.rank() == 2 && y.dim(0) == x.dim(0) &&
                y.dim(1) == w.dim(0) && x.dim(1) == w.dim(1),
            "y {} x {} w {}", y.text(), x.text(), w.text());
}

bool multiply_with_bias(CudaMatmul& matmul, Workspace& workspace, cudaStream_t stream,
                        Product product, TensorView bias) {
  const auto& c = product.c;
  require_cuda(bias);
  PG_ASSERT(bias.empty() || (bias.rank() == 1 && bias.dim(0) == c.dim(1) && !product.accumulate),
            "bias {} of {}", bias.text(), c.text());
  const auto columns = c.dim(1);
  // (In steps of 64 KiB: one allocation does for all widths.)
  const auto bias_bytes = static_cast<std::size_t>(columns) * dtype_size(c.dtype());
  auto* const scratch = static_cast<char*>(
      workspace.take(matmul.workspace_bytes() + (bias_bytes + 0xFFFF) / 0x10000 * 0x10000));
  product.bias = bias;
  if (!bias.empty() && (bias.dtype() != c.dtype() || !aligned16(bias.raw()))) {
    // The epilogue wants the result's type, and 16-byte alignment.
    product.bias =
        TensorView(scratch + matmul.workspace_bytes(), c.dtype(), {columns}, Device::kCuda);
    dispatch2(c.dtype(), bias.dtype(), [&]<class To, class From>() {
      launch("convert_bias", convert_bias<To, From>, dim3(blocks_of(ceil_div(columns, kThreads))),
             dim3(kThreads), 0, stream, product.bias.data<To>(), bias.data<From>(), columns);
    });
  }
  if (matmul.run(product, scratch)) return true;
  if (product.gelu != Gelu::kNone) return false;
  // Without the epilogue the product is added to the bias: rounded once, like the epilogue's.
  dispatch2(c.dtype(), bias.dtype(), [&]<class To, class From>() {
    const auto blocks = std::min<std::int64_t>(ceil_div(c.elements(), kThreads), 1 << 16);
    launch("spread_bias", spread_bias<To, From>, dim3(blocks_of(blocks)), dim3(kThreads), 0, stream,
           c.data<To>(), bias.data<From>(), c.dim(0), columns, c.stride(0));
  });
  product.bias = {};
  product.accumulate = true;
  return matmul.run(product, scratch);
}

void add_column_sums(Workspace& workspace, cudaStream_t stream, std::span<const ColumnSum> all) {
  if (all.empty()) return;
  for (const auto& [sum, x] : all) {
    require_cuda(sum);
    PG_ASSERT(sum.rank() == 1 && sum.contiguous() && sum.dim(0) == x.dim(1) &&
                  x.dim(1) == all[0].x.dim(1) && x.stride(0) == all[0].x.stride(0),
              "sum {} of {}", sum.text(), x.text());
  }
  dispatch(all[0].x.dtype(), [&]<class T>() {
    for (std::size_t first = 0; first < all.size(); first += ColumnSums<T>::kMost) {
      const auto n = std::min<std::size_t>(ColumnSums<T>::kMost, all.size() - first);
      run_column_sums<T>(workspace, stream, all.subspan(first, n));
    }
  });
}

}  // namespace cuda

namespace {

// Of O rows of w[O,I], how many products are to take at once. When O is no multiple of 8 cuBLASLt
// 13 falls back to kernels of another generation, in bf16 seven times slower on an H100, even where
// all rows begin at multiples of 16 bytes: as with a vocabulary of 50,257. Then the last few rows
// of w are products of their own.
std::int64_t taken_at_once(const TensorView& y, const TensorView& x, const TensorView& w) {
  constexpr std::int64_t kPack = 8, kWorthwhile = 1024;
  const auto rows = w.dim(0);
  const auto aligned = [](const TensorView& view) {
    return cuda::aligned16(view.raw()) &&
           view.stride(0) * static_cast<std::int64_t>(dtype_size(view.dtype())) % 16 == 0;
  };
  const bool split = rows % kPack != 0 && rows >= kWorthwhile && x.dtype() == DType::kBF16 &&
                     aligned(y) && aligned(x) && aligned(w);
  return split ? rows / kPack * kPack : rows;
}

}  // namespace

void CudaKernels::linear_forward(TensorView y, TensorView x, TensorView w, TensorView bias) {
  cuda::check_linear(y, x, w);
  if (y.elements() == 0) return;
  const auto most = taken_at_once(y, x, w), rest = w.dim(0) - most;
  if (rest > 0) {
    const auto part = [&](std::int64_t first, std::int64_t count) {
      linear_forward(y.slice(1, first, count), x, w.slice(0, first, count),
                     bias.empty() ? bias : bias.slice(0, first, count));
    };
    part(0, most);
    part(most, rest);
    return;
  }
  const bool done = cuda::multiply_with_bias(*matmul_, workspace_, stream_,
                                             {.c = y, .a = x, .b = w, .transpose_b = true}, bias);
  PG_ASSERT(done, "y {} x {} w {}", y.text(), x.text(), w.text());
}

void CudaKernels::linear_backward_input(TensorView dx, TensorView dy, TensorView w,
                                        bool accumulate) {
  cuda::check_linear(dy, dx, w);
  if (dx.elements() == 0) return;
  const auto most = taken_at_once(dy, dx, w), rest = w.dim(0) - most;
  if (rest > 0) {
    // The few first: what is rounded once more is their small sum, not the large one (unless the
    // caller adds to what was there).
    linear_backward_input(dx, dy.slice(1, most, rest), w.slice(0, most, rest), accumulate);
    linear_backward_input(dx, dy.slice(1, 0, most), w.slice(0, 0, most), /*accumulate=*/true);
    return;
  }
  const bool done = cuda::multiply_with_bias(
      *matmul_, workspace_, stream_, {.c = dx, .a = dy, .b = w, .accumulate = accumulate}, {});
  PG_ASSERT(done, "dx {} dy {} w {}", dx.text(), dy.text(), w.text());
}

void CudaKernels::linear_gelu_forward(TensorView y, TensorView h, TensorView x, TensorView w,
                                      TensorView bias) {
  cuda::check_linear(y, x, w);
  cuda::check_linear(h, x, w);
  if (y.elements() == 0) return;
  const cuda::Product product{
      .c = y, .a = x, .b = w, .transpose_b = true, .gelu = cuda::Gelu::kForward, .aux = h};
  if (cuda::gelu_fits(product) &&
      cuda::multiply_with_bias(*matmul_, workspace_, stream_, product, bias)) {
    return;
  }
  linear_forward(h, x, w, bias);
  gelu_forward(y, h);
}

void CudaKernels::linear_gelu_backward_input(TensorView dh, TensorView dy, TensorView w,
                                             TensorView h) {
  cuda::check_linear(dy, dh, w);
  cuda::require_cuda(h);
  PG_ASSERT(h.rank() == 2 && h.dim(0) == dh.dim(0) && h.dim(1) == dh.dim(1), "h {} dh {}", h.text(),
            dh.text());
  if (dh.elements() == 0) return;
  const cuda::Product product{.c = dh, .a = dy, .b = w, .gelu = cuda::Gelu::kBackward, .aux = h};
  if (cuda::gelu_fits(product) &&
      cuda::multiply_with_bias(*matmul_, workspace_, stream_, product, {})) {
    return;
  }
  linear_backward_input(dh, dy, w, /*accumulate=*/false);
  gelu_backward(dh, dh, h);
}

void CudaKernels::linear_backward_weight(TensorView dw, TensorView dbias, TensorView dy,
                                         TensorView x) {
  cuda::check_linear(dy, x, dw);
  PG_ASSERT(dw.dtype() == accumulator_of(x.dtype()), "dw {} of x {}", dw.text(), x.text());
  if (dw.elements() == 0 || dy.dim(0) == 0) return;
  const auto most = taken_at_once(dy, x, dw), rest = dw.dim(0) - most;
  const auto part = [&](std::int64_t first, std::int64_t count) {
    const auto c = dw.slice(0, first, count), a = dy.slice(1, first, count);
    const bool done = cuda::multiply_with_bias(
        *matmul_, workspace_, stream_,
        {.c = c, .a = a, .b = x, .transpose_a = true, .accumulate = true}, {});
    PG_ASSERT(done, "dw {} dy {} x {}", c.text(), a.text(), x.text());
  };
  part(0, most);
  if (rest > 0) part(most, rest);
  if (dbias.empty()) return;
  const cuda::ColumnSum sums[] = {{dbias, dy}};
  cuda::add_column_sums(workspace_, stream_, sums);
}

}  // namespace pg::model

// Matrices [rows, width] cut into tiles for element-wise kernels: a block's x counts along a row,
// in packs of 16 bytes, its y counts rows. Matrices that lie in one run become one long row, so
// only truly strided views have more than one.
#pragma once

#include <algorithm>
#include <initializer_list>

#include "model/kernels/cuda/elements.cuh"
#include "model/kernels/cuda/launch.cuh"
#include "model/kernels/cuda/views.cuh"

namespace pg::model::cuda {

template <int kPack, int kUnroll = 2>
struct Tiles {
  static constexpr int kThreads = 256;

  std::int64_t rows, width;
  unsigned columns;  // tiles side by side
  dim3 block;

  Tiles(std::int64_t n, std::int64_t row_width) : rows(n), width(row_width) {
    // As few threads along the row as cover it, so that short rows leave no lane idle.
    const auto packs = ceil_div(width, kPack);
    unsigned x = 8;
    while (x < kThreads && x * kUnroll < packs) x *= 2;
    block = dim3(x, kThreads / x);
    columns = blocks_of(ceil_div(packs, std::int64_t{x} * kUnroll));
  }
  dim3 grid() const { return dim3(blocks_of(ceil_div(rows, block.y) * columns)); }

  __device__ std::int64_t row() const {
    return std::int64_t{blockIdx.x / columns} * blockDim.y + threadIdx.y;
  }
  // Where pack i < kUnroll of this thread begins in its row; at `width` or behind: there is none.
  __device__ std::int64_t column(int i) const {
    const std::int64_t first = std::int64_t{blockIdx.x % columns} * (blockDim.x * kUnroll);
    return (first + static_cast<std::int64_t>(threadIdx.x + i * blockDim.x)) * kPack;
  }
  __device__ int count(std::int64_t at) const {
    return static_cast<int>(width - at < kPack ? width - at : kPack);
  }
};

// Every row of the matrix begins at a multiple of 16 bytes.
inline bool strides_aligned(const TensorView& x) {
  const auto size = static_cast<std::int64_t>(dtype_size(x.dtype()));
  return aligned16(x.raw()) && (x.rank() < 2 || x.dim(0) <= 1 || x.stride(0) * size % 16 == 0);
}

// out[rows, width] = Op of in[rows, width] element by element, all of type T. An output may be an
// input: a thread reads all its elements before it writes them.
template <class T, int kIn, int kOut>
struct Operands {
  const T* in[kIn];
  T* out[kOut];
  std::int64_t in_stride[kIn], out_stride[kOut];
};

// Op: void operator()(const A (&in)[kIn], A (&out)[kOut]) const.
template <class T, int kIn, int kOut, class Op, bool kAligned, int kUnroll>
__global__ void __launch_bounds__(256)
    elementwise_rows(Operands<T, kIn, kOut> operands, Tiles<Pack<T>::kSize, kUnroll> tiles, Op op) {
  constexpr int kPack = Pack<T>::kSize;
  const std::int64_t row = tiles.row();
  if (row >= tiles.rows) return;
  Held<T> in[kUnroll][kIn];
#pragma unroll
  for (int i = 0; i < kUnroll; ++i) {
    const std::int64_t at = tiles.column(i);
    if (at >= tiles.width) break;
#pragma unroll
    for (int k = 0; k < kIn; ++k) {
      in[i][k] =
          load_held<kAligned>(operands.in[k] + row * operands.in_stride[k] + at, tiles.count(at));
    }
  }
#pragma unroll
  for (int i = 0; i < kUnroll; ++i) {
    const std::int64_t at = tiles.column(i);
    if (at >= tiles.width) break;
    acc_t<T> out[kOut][kPack];
#pragma unroll
    for (int e = 0; e < kPack; ++e) {
      acc_t<T> x[kIn], y[kOut];
#pragma unroll
      for (int k = 0; k < kIn; ++k) x[k] = in[i][k][e];
      op(x, y);
#pragma unroll
      for (int k = 0; k < kOut; ++k) out[k][e] = y[k];
    }
#pragma unroll
    for (int k = 0; k < kOut; ++k) {
      store_held<kAligned>(operands.out[k] + row * operands.out_stride[k] + at,
                           round_held<T>(out[k]), tiles.count(at));
    }
  }
}

// The matrices have one shape and the type T.
template <class T, int kIn, int kOut, class Op>
void run_elementwise_rows(const char* name, cudaStream_t stream, const TensorView (&out)[kOut],
                          const TensorView (&in)[kIn], const Op& op) {
  constexpr int kUnroll = 2;
  std::int64_t rows = out[0].dim(0), width = out[0].dim(1);
  if (rows * width == 0) return;
  bool one_run = true, aligned = true;
  Operands<T, kIn, kOut> operands{};
  for (int k = 0; k < kIn; ++k) {
    operands.in[k] = in[k].template data<T>();
    operands.in_stride[k] = in[k].stride(0);
    one_run = one_run && in[k].contiguous();
    aligned = aligned && aligned16(in[k].raw()) && strides_aligned(in[k]);
  }
  for (int k = 0; k < kOut; ++k) {
    operands.out[k] = out[k].template data<T>();
    operands.out_stride[k] = out[k].stride(0);
    one_run = one_run && out[k].contiguous();
    aligned = aligned && aligned16(out[k].raw()) && strides_aligned(out[k]);
  }
  if (one_run) {
    width *= rows;
    rows = 1;
    aligned = true;
    for (const auto* x : operands.in) aligned = aligned && aligned16(x);
    for (const auto* x : operands.out) aligned = aligned && aligned16(x);
  }
  const Tiles<Pack<T>::kSize, kUnroll> tiles(rows, width);
  const auto kernel = aligned ? elementwise_rows<T, kIn, kOut, Op, true, kUnroll>
                              : elementwise_rows<T, kIn, kOut, Op, false, kUnroll>;
  launch(name, kernel, tiles.grid(), tiles.block, 0, stream, operands, tiles, op);
}

// All of x have the shape of the first, which is a matrix, and its type.
inline void check_matrices(std::initializer_list<TensorView> all) {
  const TensorView& first = *all.begin();
  for (const TensorView& x : all) {
    PG_ASSERT(x.rank() == 2 && first.rank() == 2 && x.dim(0) == first.dim(0) &&
                  x.dim(1) == first.dim(1) && x.dtype() == first.dtype(),
              "{} and {}", first.text(), x.text());
    require_cuda(x);
  }
}

}  // namespace pg::model::cuda

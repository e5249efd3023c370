// Sums in fp64. Each block sums a piece of fixed size, each thread always the same elements of it;
// then one block adds the pieces' sums: so the result depends on the lengths alone.
#include "model/kernels/cuda/columns.cuh"
#include "model/kernels/cuda/cuda_kernels.h"
#include "model/kernels/cuda/views.cuh"

namespace pg::model {

namespace {

using namespace cuda;

constexpr int kThreads = 256;
constexpr std::int64_t kPiece = 16384;
// Parts of one launch: within the 4 KiB of parameters that every driver takes.
constexpr int kParts = 160;

template <class T>
struct Parts {
  const T* data[kParts];
  std::int64_t elements[kParts];
  unsigned first_piece[kParts + 1];  // ascending; the last is the number of blocks
  int count = 0;
};

struct Value {
  static __device__ double of(double x) { return x; }
};
struct Square {
  static __device__ double of(double x) { return x * x; }
};

template <class T, class Term>
__global__ void __launch_bounds__(kThreads)
    sum_pieces(double* partial, const __grid_constant__ Parts<T> parts) {
  constexpr int kPack = Pack<T>::kSize, kUnroll = 4;
  __shared__ double warps[kWarp];
  int part = 0, behind = parts.count;  // the last part that begins at this block or before
  while (behind - part > 1) {
    const int middle = (part + behind) / 2;
    (parts.first_piece[middle] <= blockIdx.x ? part : behind) = middle;
  }
  const std::int64_t begin = (blockIdx.x - parts.first_piece[part]) * kPiece;
  const std::int64_t left = parts.elements[part] - begin;
  const int n = static_cast<int>(left < kPiece ? left : kPiece);
  const T* const data = parts.data[part] + begin;
  const bool aligned = reinterpret_cast<std::uintptr_t>(data) % 16 == 0;
  double sum = 0.0;
  for (int at = static_cast<int>(threadIdx.x) * kPack; at < n; at += kUnroll * kThreads * kPack) {
    Held<T> held[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int from = at + u * kThreads * kPack;
      const int count = n - from < kPack ? n - from : kPack;
      // Where a part begins decides how its elements are read, not who adds them: nor the bits.
      held[u] =
          aligned ? load_held<true>(data + from, count) : load_held<false>(data + from, count);
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
#pragma unroll
      for (int e = 0; e < kPack; ++e) sum += Term::of(static_cast<double>(held[u][e]));
    }
  }
  sum = block_sum(sum, warps);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(1024)
    add_pieces(double* total, const double* partial, std::int64_t count) {
  __shared__ double warps[kWarp];
  double sum = 0.0;
#pragma unroll 4
  for (std::int64_t i = threadIdx.x; i < count; i += 1024) sum += partial[i];
  sum = block_sum(sum, warps);
  if (threadIdx.x == 0) *total += sum;
}

std::int64_t pieces_of(const TensorView& x) {
  return ceil_div(x.elements(), kPiece);
}

template <class T, class Term>
void launch_parts(cudaStream_t stream, double* partial, std::span<const TensorView> views) {
  Parts<T> parts{};
  unsigned pieces = 0;
  for (const TensorView& x : views) {
    if (x.elements() == 0) continue;
    parts.data[parts.count] = x.data<T>();
    parts.elements[parts.count] = x.elements();
    parts.first_piece[parts.count] = pieces;
    pieces += blocks_of(pieces_of(x));
    parts.first_piece[++parts.count] = pieces;
  }
  if (pieces == 0) return;
  launch("sum", sum_pieces<T, Term>, dim3(blocks_of(pieces)), dim3(kThreads), 0, stream, partial,
         parts);
}

template <class Term>
void sum_parts(cudaStream_t stream, Workspace& workspace, const TensorView& total,
               std::span<const TensorView> views) {
  require_cuda(total);
  std::int64_t pieces = 0;
  for (const TensorView& x : views) {
    PG_ASSERT(x.contiguous(), "{} is not flat", x.text());
    require_cuda(x);
    pieces += pieces_of(x);
  }
  if (pieces == 0) return;
  auto* const partial =
      static_cast<double*>(workspace.take(static_cast<std::size_t>(pieces) * sizeof(double)));
  // Runs of one type.
  std::int64_t done = 0;
  for (std::size_t begin = 0; begin < views.size();) {
    std::size_t end = begin;
    std::int64_t held = 0;
    while (end < views.size() && end - begin < kParts &&
           views[end].dtype() == views[begin].dtype()) {
      held += pieces_of(views[end++]);
    }
    dispatch(views[begin].dtype(), [&]<class T>() {
      launch_parts<T, Term>(stream, partial + done, views.subspan(begin, end - begin));
    });
    done += held;
    begin = end;
  }
  launch("sum of pieces", add_pieces, dim3(1), dim3(1024), 0, stream, total.data<double>(), partial,
         pieces);
}

}  // namespace

void CudaKernels::sum_rows(TensorView sums, TensorView x) {
  PG_ASSERT(x.rank() == 2 && sums.rank() == 1 && sums.dim(0) == x.dim(1), "sums {} x {}",
            sums.text(), x.text());
  require_cuda(sums);
  require_cuda(x);
  if (x.elements() == 0) return;
  run_column_sums<double>("sum_rows", stream_,
                          {{x.data<double>(), nullptr},
                           {sums.data<double>(), nullptr},
                           x.dim(0),
                           x.dim(1),
                           x.stride(0)});
}

void CudaKernels::sum(TensorView total, TensorView x) {
  sum_parts<Value>(stream_, workspace_, total, {&x, 1});
}

void CudaKernels::sum_of_squares(TensorView total, std::span<const TensorView> parts) {
  sum_parts<Square>(stream_, workspace_, total, parts);
}

}  // namespace pg::model

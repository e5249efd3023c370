// Moving tokens to the rows that experts work on and back. A warp takes a token: it finds the
// token's few rows among all the experts by a ballot, and holds a piece of the token in registers
// meanwhile. Terms are added in ascending order of the experts.
#include <limits>

#include "comm/cuda/gpu_watch.h"
#include "model/kernels/cuda/cuda_kernels.h"
#include "model/kernels/cuda/moe_views.cuh"
#include "model/kernels/cuda/pieces.cuh"

namespace pg::model {

namespace {

using namespace cuda;

constexpr int kThreads = 256;
constexpr unsigned kAllLanes = 0xFFFFFFFFu;

dim3 warp_grid(std::int64_t tokens) {
  return dim3(blocks_of(ceil_div(tokens, kThreads / kWarp)));
}

// The token of this warp.
__device__ __forceinline__ std::int64_t token_of_warp() {
  return blockIdx.x * std::int64_t{kThreads / kWarp} + threadIdx.x / kWarp;
}

// work(row, gate, lane of the expert) for each row of the token, experts
// ascending; done(first expert of the 32) after each 32 experts. Without gates they are 1.
template <class A, class Work, class Done>
__device__ __forceinline__ void for_rows_of_token(const std::int32_t* rows, const A* gates,
                                                  std::int64_t experts, const Work& work,
                                                  const Done& done) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  for (std::int64_t first = 0; first < experts; first += kWarp) {
    const bool inside = first + lane < experts;
    const std::int32_t mine = inside ? rows[first + lane] : -1;
    const A gate = inside && gates != nullptr ? gates[first + lane] : A{1};
    for (unsigned left = __ballot_sync(kAllLanes, mine >= 0); left != 0; left &= left - 1) {
      const int of = __ffs(static_cast<int>(left)) - 1;
      work(__shfl_sync(kAllLanes, mine, of), __shfl_sync(kAllLanes, gate, of), of);
    }
    done(first);
  }
}

template <class T, bool kPacked>
__global__ void __launch_bounds__(kThreads)
    dispatch_tokens(Rows<T> to, Rows<T> x, Rows<std::int32_t> rows, Rows<acc_t<T>> gates,
                    std::int64_t tokens, std::int64_t experts, std::int64_t width) {
  using A = acc_t<T>;
  using Piece = WarpPiece<T, kPacked>;
  const std::int64_t n = token_of_warp();
  if (n >= tokens) return;
  const A* const gate = gates.base == nullptr ? nullptr : gates[n];
  for (std::int64_t first = 0; first < width; first += Piece::kElements) {
    Piece token;
    token.load(x[n], first, width);
    for_rows_of_token(
        rows[n], gate, experts,
        [&](std::int32_t row, A factor, int) {
          if (gate == nullptr) {
            token.store(to[row], first, width);
            return;
          }
#pragma unroll
          for (int j = 0; j < Piece::kPacks; ++j) {
            Pack<T> scaled;
#pragma unroll
            for (int i = 0; i < Piece::kSize; ++i) {
              scaled.at[i] = store<T>(load(token.pack[j].at[i]) * factor);
            }
            const std::int64_t at = first + Piece::offset(j);
            store_some<kPacked>(to[row] + at, scaled, width - at);
          }
        },
        [](std::int64_t) {});
  }
}

template <class T, bool kPacked>
__global__ void __launch_bounds__(kThreads)
    combine_tokens(Rows<T> y, Rows<T> from, Rows<std::int32_t> rows, Rows<acc_t<T>> gates,
                   std::int64_t tokens, std::int64_t experts, std::int64_t width, bool accumulate) {
  using A = acc_t<T>;
  using Piece = WarpPiece<T, kPacked>;
  const std::int64_t n = token_of_warp();
  if (n >= tokens) return;
  const A* const gate = gates.base == nullptr ? nullptr : gates[n];
  for (std::int64_t first = 0; first < width; first += Piece::kElements) {
    A sums[Piece::kPacks][Piece::kSize] = {};
    for_rows_of_token(
        rows[n], gate, experts,
        [&](std::int32_t row, A factor, int) {
          Piece term;
          term.load(from[row], first, width);
#pragma unroll
          for (int j = 0; j < Piece::kPacks; ++j) {
#pragma unroll
            for (int i = 0; i < Piece::kSize; ++i) {
              sums[j][i] += load(term.pack[j].at[i]) * factor;
            }
          }
        },
        [](std::int64_t) {});
    Piece out;
    if (accumulate) out.load(y[n], first, width);
#pragma unroll
    for (int j = 0; j < Piece::kPacks; ++j) {
#pragma unroll
      for (int i = 0; i < Piece::kSize; ++i) {
        T& o = out.pack[j].at[i];
        o = store<T>(accumulate ? load(o) + sums[j][i] : sums[j][i]);
      }
    }
    out.store(y[n], first, width);
  }
}

template <class T, bool kPacked>
__global__ void __launch_bounds__(kThreads)
    gate_gradients(Rows<acc_t<T>> dgates, Rows<T> dy, Rows<T> from, Rows<std::int32_t> rows,
                   std::int64_t tokens, std::int64_t experts, std::int64_t width) {
  using A = acc_t<T>;
  using Piece = WarpPiece<T, kPacked>;
  const std::int64_t n = token_of_warp();
  if (n >= tokens) return;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const T* const d = dy[n];
  A mine = 0;  // of the expert of this lane
  for_rows_of_token(
      rows[n], static_cast<const A*>(nullptr), experts,
      [&](std::int32_t row, A, int of) {
        const T* const term = from[row];
        A sum = 0;
        for (std::int64_t first = 0; first < width; first += Piece::kElements) {
          Piece a, b;
          a.load(d, first, width);
          b.load(term, first, width);
#pragma unroll
          for (int j = 0; j < Piece::kPacks; ++j) {
#pragma unroll
            for (int i = 0; i < Piece::kSize; ++i) {
              sum += load(a.pack[j].at[i]) * load(b.pack[j].at[i]);
            }
          }
        }
        sum = warp_sum(sum);
        if (lane == of) mine = sum;
      },
      [&](std::int64_t first) {
        if (first + lane < experts) dgates[n][first + lane] = mine;
        mine = 0;
      });
}

// starts[pieces, E]: the first row of each piece's tokens for each expert.
__global__ void __launch_bounds__(kPieceThreads)
    number_rows(Rows<std::int32_t> rows, MaskView kept, const std::int32_t* starts,
                std::int64_t pieces) {
  __shared__ std::int32_t counts[kPieceThreads];
  const PieceRows my(kept.rows, pieces);
  for (std::int64_t first = 0; first < kept.experts; first += kPieceThreads) {
    const PieceColumns at(first, kept.experts, kPieceRows, my.count);
    const std::uint8_t* const column = kept.row(0, my.first) + first + at.column;
    std::int32_t* const out = rows[my.first] + first + at.column;
    std::int32_t count = 0;
#pragma unroll 8
    for (int r = at.begin; r < at.end; ++r) count += column[r * kept.row_stride] != 0 ? 1 : 0;
    counts[threadIdx.x] = count;
    __syncthreads();
    std::int32_t next =
        starts[blockIdx.x * kept.experts + first + at.column] + sum_before(counts, at);
#pragma unroll 8
    for (int r = at.begin; r < at.end; ++r) {
      const bool is_kept = column[r * kept.row_stride] != 0;
      out[r * rows.stride] = is_kept ? next : -1;
      next += is_kept ? 1 : 0;
    }
    __syncthreads();
  }
}

// tokens[N,C] and slots[A,C] of one type, rows[N,E], and gates[N,E] unless empty.
void check_moves(const TensorView& tokens, const TensorView& slots, const TensorView& rows,
                 const TensorView& gates) {
  for (const auto& x : {tokens, slots, rows}) require_cuda(x);
  PG_ASSERT(tokens.rank() == 2 && slots.rank() == 2 && tokens.dim(1) == slots.dim(1) &&
                tokens.dtype() == slots.dtype(),
            "{} and {}", tokens.text(), slots.text());
  PG_ASSERT(rows.rank() == 2 && rows.dim(0) == tokens.dim(0), "rows {} for {}", rows.text(),
            tokens.text());
  if (!gates.empty()) check_same(gates, rows);
}

}  // namespace

void CudaKernels::moe_rows(TensorView rows, std::span<std::int64_t> counts, TensorView kept) {
  check_same(rows, kept);
  const std::int64_t experts = kept.dim(1);
  PG_ASSERT(std::ssize(counts) == experts, "{} counts for {}", counts.size(), kept.text());
  PG_ASSERT(kept.elements() < std::numeric_limits<std::int32_t>::max(), "pairs of {}", kept.text());
  if (kept.elements() == 0) {
    for (auto& count : counts) count = 0;
    return;
  }
  const auto mask = MaskView::of_matrix(kept);
  const std::int64_t pieces = pieces_of(mask.rows);
  const auto totals_bytes = static_cast<std::size_t>(experts) * sizeof(std::int64_t);
  auto* const memory = static_cast<unsigned char*>(workspace_.take(
      totals_bytes + static_cast<std::size_t>(pieces * experts) * sizeof(std::int32_t)));
  auto* const totals = reinterpret_cast<std::int64_t*>(memory);
  auto* const starts = reinterpret_cast<std::int32_t*>(memory + totals_bytes);
  launch("moe_rows", count_pieces<std::int32_t>, dim3(blocks_of(pieces)), dim3(kPieceThreads), 0,
         stream_, starts, mask, pieces);
  launch("moe_rows", scan_pieces<true>, dim3(1), dim3(kScanThreads), 0, stream_, starts, totals,
         pieces, experts);
  // The host plans with the counts while the rows are still being numbered. (It waits where a
  // failure of other ranks is seen, which CUDA's own wait inside the copy is not.)
  comm::wait_for(stream_);
  PG_CUDA(cudaMemcpyAsync(counts.data(), totals, totals_bytes, cudaMemcpyDeviceToHost, stream_));
  PG_CUDA(cudaStreamSynchronize(stream_));
  launch("moe_rows", number_rows, dim3(blocks_of(pieces)), dim3(kPieceThreads), 0, stream_,
         Rows<std::int32_t>(rows), mask, starts, pieces);
}

void CudaKernels::moe_dispatch(TensorView to, TensorView x, TensorView rows, TensorView gates) {
  check_moves(x, to, rows, gates);
  if (x.elements() == 0 || rows.elements() == 0) return;
  dispatch(x.dtype(), [&]<class T>() {
    const bool packed = whole_packs<T>(x) && whole_packs<T>(to);
    const auto kernel = packed ? dispatch_tokens<T, true> : dispatch_tokens<T, false>;
    launch("moe_dispatch", kernel, warp_grid(x.dim(0)), dim3(kThreads), 0, stream_, Rows<T>(to),
           Rows<T>(x), Rows<std::int32_t>(rows), Rows<acc_t<T>>(gates), x.dim(0), rows.dim(1),
           x.dim(1));
  });
}

void CudaKernels::moe_combine(TensorView y, TensorView from, TensorView rows, TensorView gates,
                              bool accumulate) {
  check_moves(y, from, rows, gates);
  if (y.elements() == 0) return;
  dispatch(y.dtype(), [&]<class T>() {
    const bool packed = whole_packs<T>(y) && whole_packs<T>(from);
    const auto kernel = packed ? combine_tokens<T, true> : combine_tokens<T, false>;
    launch("moe_combine", kernel, warp_grid(y.dim(0)), dim3(kThreads), 0, stream_, Rows<T>(y),
           Rows<T>(from), Rows<std::int32_t>(rows), Rows<acc_t<T>>(gates), y.dim(0), rows.dim(1),
           y.dim(1), accumulate);
  });
}

void CudaKernels::moe_gate_gradient(TensorView dgates, TensorView dy, TensorView from,
                                    TensorView rows) {
  check_moves(dy, from, rows, dgates);
  if (rows.elements() == 0) return;
  dispatch(dy.dtype(), [&]<class T>() {
    const bool packed = whole_packs<T>(dy) && whole_packs<T>(from);
    const auto kernel = packed ? gate_gradients<T, true> : gate_gradients<T, false>;
    launch("moe_gate_gradient", kernel, warp_grid(dy.dim(0)), dim3(kThreads), 0, stream_,
           Rows<acc_t<T>>(dgates), Rows<T>(dy), Rows<T>(from), Rows<std::int32_t>(rows), dy.dim(0),
           rows.dim(1), dy.dim(1));
  });
}

}  // namespace pg::model

// Counting in order, for whatever is sorted or dropped by rank: sequences of rows are cut into
// pieces of kPieceRows; count_pieces counts the set entries of each column of each piece,
// scan_pieces turns the counts into those of all the rows before a piece, and then each piece walks
// its rows from there. All in whole numbers: exact, whatever the order of the work.
#pragma once

#include <algorithm>
#include <cstdint>

#include "model/kernels/cuda/launch.cuh"
#include "model/tensor.h"

namespace pg::model::cuda {

inline constexpr int kPieceRows = 128, kPieceThreads = 256, kScanThreads = 1024;

inline std::int64_t pieces_of(std::int64_t rows) {
  return ceil_div(rows, kPieceRows);
}

// The rows of block b: piece b % pieces of sequence b / pieces.
struct PieceRows {
  std::int64_t sequence, first;  // row of the sequence
  int count;

  __device__ PieceRows(std::int64_t rows, std::int64_t pieces)
      : sequence(blockIdx.x / pieces), first(blockIdx.x % pieces * kPieceRows) {
    const std::int64_t left = rows - first;
    count = static_cast<int>(left < kPieceRows ? left : kPieceRows);
  }
};

// How the threads of a block share columns [first, first + width) of `most` (at most) and `count`
// (now) things to walk: neighbours take neighbouring columns, and where a block has more threads
// than columns, several take a segment of the walk each.
struct PieceColumns {
  int width, segments, segment, column;
  int begin, end;  // of this thread's segment; nothing for threads that are left over

  __device__ PieceColumns(std::int64_t first, std::int64_t columns, std::int64_t most,
                          std::int64_t count) {
    const int threads = static_cast<int>(blockDim.x), thread = static_cast<int>(threadIdx.x);
    width = static_cast<int>(columns - first < threads ? columns - first : threads);
    segments = threads / width;
    segment = thread / width;
    column = thread % width;
    const auto each = (most + segments - 1) / segments;
    const auto upto = [&](std::int64_t s) { return static_cast<int>(s < count ? s : count); };
    begin = segment < segments ? upto(segment * each) : 0;
    end = segment < segments ? upto((segment + 1) * each) : 0;
  }
};

// A mask [B,R,E] whose rows and sequences may lie further apart than they are long.
struct MaskView {
  std::uint8_t* base;
  std::int64_t sequences, rows, experts, sequence_stride, row_stride;

  explicit MaskView(const TensorView& view)
      : base(view.data<std::uint8_t>()),
        sequences(view.dim(0)),
        rows(view.dim(1)),
        experts(view.dim(2)),
        sequence_stride(view.stride(0)),
        row_stride(view.stride(1)) {}
  // A matrix: one sequence.
  static MaskView of_matrix(const TensorView& view) {
    MaskView mask(
        TensorView(view.raw(), view.dtype(), {1, view.dim(0), view.dim(1)}, view.device()));
    mask.row_stride = view.stride(0);
    return mask;
  }
  __device__ std::uint8_t* row(std::int64_t sequence, std::int64_t row) const {
    return base + sequence * sequence_stride + row * row_stride;
  }
};

// counts[B, pieces, E].
template <class Count>
__global__ void __launch_bounds__(kPieceThreads)
    count_pieces(Count* counts, MaskView mask, std::int64_t pieces) {
  __shared__ Count partial[kPieceThreads];
  const PieceRows my(mask.rows, pieces);
  Count* const out = counts + blockIdx.x * mask.experts;
  for (std::int64_t first = 0; first < mask.experts; first += kPieceThreads) {
    const PieceColumns at(first, mask.experts, kPieceRows, my.count);
    const std::uint8_t* const column = mask.row(my.sequence, my.first) + first + at.column;
    Count count = 0;
#pragma unroll 8
    for (int r = at.begin; r < at.end; ++r) count += column[r * mask.row_stride] != 0 ? 1 : 0;
    partial[threadIdx.x] = count;
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < at.width) {
      for (int s = 1; s < at.segments; ++s) count += partial[s * at.width + threadIdx.x];
      out[first + threadIdx.x] = count;
    }
    __syncthreads();
  }
}

// In place: counts[B, pieces, columns] become those of all the earlier pieces of the sequence,
// plus, with kSorted, of all the earlier columns: where things sorted by column and then by place
// begin. totals[B, columns] (unless null): of each column alone. One block of kScanThreads a
// sequence.
template <bool kSorted>
__global__ void __launch_bounds__(kScanThreads)
    scan_pieces(std::int32_t* counts, std::int64_t* totals, std::int64_t pieces,
                std::int64_t columns) {
  __shared__ std::int32_t before[kScanThreads];  // of a segment in its column
  __shared__ std::int32_t begins[kScanThreads];  // of a column
  const auto thread = static_cast<int>(threadIdx.x);
  std::int32_t* const all = counts + blockIdx.x * pieces * columns;
  std::int32_t base = 0;
  for (std::int64_t first = 0; first < columns; first += kScanThreads) {
    const PieceColumns at(first, columns, pieces, pieces);
    std::int32_t* const column = all + first + at.column;
    std::int32_t count = 0;
#pragma unroll 8
    for (int p = at.begin; p < at.end; ++p) count += column[p * columns];
    before[thread] = count;
    __syncthreads();
    std::int32_t total = 0;
    if (thread < at.width) {
      for (int s = 0; s < at.segments; ++s) {
        const std::int32_t own = before[s * at.width + thread];
        before[s * at.width + thread] = total;
        total += own;
      }
      if (totals != nullptr) totals[blockIdx.x * columns + first + thread] = total;
    }
    begins[thread] = total;
    __syncthreads();
    if constexpr (kSorted) {
      for (int distance = 1; distance < kScanThreads; distance *= 2) {
        const std::int32_t other = thread >= distance ? begins[thread - distance] : 0;
        __syncthreads();
        begins[thread] += other;
        __syncthreads();
      }
    }
    const std::int32_t begin =
        kSorted ? base + (at.column > 0 ? begins[at.column - 1] : 0) : std::int32_t{0};
    std::int32_t next = begin + before[thread];
#pragma unroll 4
    for (int p = at.begin; p < at.end; ++p) {
      const std::int32_t own = column[p * columns];
      column[p * columns] = next;
      next += own;
    }
    base += begins[kScanThreads - 1];
    __syncthreads();
  }
}

// The threads of a block that share columns: thread -> entries set in the segments before its own.
__device__ __forceinline__ std::int32_t sum_before(const std::int32_t* counts,
                                                   const PieceColumns& at) {
  std::int32_t sum = 0;
  for (int s = 0; s < at.segment && at.segment < at.segments; ++s) {
    sum += counts[s * at.width + at.column];
  }
  return sum;
}

}  // namespace pg::model::cuda

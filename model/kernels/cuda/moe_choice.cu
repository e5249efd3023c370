// Which tokens go to which experts. Choices are exact in number whatever the scores are: a NaN
// counts as -inf, so that the sizes everything else depends on stay right until the loss, which is
// NaN as well, ends the run.
#include <bit>
#include <cmath>
#include <limits>

#include "model/kernels/cuda/cuda_kernels.h"
#include "model/kernels/cuda/moe_views.cuh"
#include "model/kernels/cuda/pieces.cuh"

namespace pg::model {

namespace {

using namespace cuda;

constexpr int kThreads = 256, kSelectThreads = 512, kTile = 32;

template <class A>
__device__ __forceinline__ A nan_is_lowest(A x) {
  return x == x ? x : -static_cast<A>(INFINITY);
}

// -- token choice --------------------------------------------------------------------------------

struct Bias {
  const void* data;  // null: none
  DType type;

  __device__ double operator()(std::int64_t e) const {
    if (data == nullptr) return 0.0;
    if (type == DType::kF64) return static_cast<const double*>(data)[e];
    if (type == DType::kF32) return static_cast<const float*>(data)[e];
    return static_cast<float>(static_cast<const bf16*>(data)[e]);
  }
};

// In the order of choice: larger scores first, of equal ones the lower expert.
struct Candidate {
  double score;
  std::int64_t expert;

  __device__ bool precedes(const Candidate& other) const {
    return score > other.score || (score == other.score && expert < other.expert);
  }
};

// k times the best of those that come after the one before: at last it is known who the k-th is,
// and who does not come after it is chosen. Scores are added and compared in fp64: exact for fp32,
// so no two become equal by rounding. A lane has kHeld of them in registers; 0: read again and
// again.
template <class A, int kHeld>
__global__ void __launch_bounds__(kThreads)
    choose_experts(Rows<std::uint8_t> chosen, Rows<A> probs, Bias bias, std::int64_t k,
                   RowLanes all) {
  const RowOfLane my(all);
  const A* const p = probs[my.row];
  const auto read = [&](std::int64_t e) {
    return nan_is_lowest(static_cast<double>(p[e]) + bias(e));
  };
  double held[kHeld > 0 ? kHeld : 1];
  if constexpr (kHeld > 0) {
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      const std::int64_t e = my.lane + i * my.lanes;
      held[i] = e < my.end ? read(e) : 0.0;
    }
  }
  const auto for_mine = [&](const auto& work) {
    if constexpr (kHeld > 0) {
#pragma unroll
      for (int i = 0; i < kHeld; ++i) {
        const std::int64_t e = my.lane + i * my.lanes;
        if (e < my.end) work(Candidate{held[i], e});
      }
    } else {
      for (std::int64_t e = my.lane; e < my.end; e += my.lanes) work(Candidate{read(e), e});
    }
  };
  constexpr std::int64_t kNobody = std::numeric_limits<std::int64_t>::max();
  Candidate last{INFINITY, -1};  // precedes everybody
  for (std::int64_t i = 0; i < k; ++i) {
    Candidate best{-INFINITY, kNobody};  // everybody precedes it
    for_mine([&](const Candidate& mine) {
      if (last.precedes(mine) && mine.precedes(best)) best = mine;
    });
    for (int lane = my.lanes / 2; lane > 0; lane /= 2) {
      const Candidate other{__shfl_xor_sync(0xFFFFFFFFu, best.score, lane),
                            __shfl_xor_sync(0xFFFFFFFFu, best.expert, lane)};
      if (other.precedes(best)) best = other;
    }
    last = best;
  }
  std::uint8_t* const out = chosen[my.row];
  for_mine([&](const Candidate& mine) { out[mine.expert] = last.precedes(mine) ? 0 : 1; });
}

// -- expert choice -------------------------------------------------------------------------------

// A score as bits that grow with it. Rounded to half of the significant bits, to nearest, so the
// lowest kDropped are 0 and have room for part of a position; 0 and -0 are one.
template <class A>
struct Key {
  using Bits = std::conditional_t<sizeof(A) == 8, std::uint64_t, std::uint32_t>;
  static constexpr int kDropped = sizeof(A) == 8 ? 27 : 12;

  static __device__ Bits of(A score) {
    constexpr Bits kSign = Bits{1} << (8 * sizeof(Bits) - 1);
    const A x = nan_is_lowest(score);
    auto bits = std::bit_cast<Bits>(x);
    if ((bits & ~kSign) < std::bit_cast<Bits>(std::numeric_limits<A>::infinity())) {
      bits = (bits + (Bits{1} << (kDropped - 1))) >> kDropped << kDropped;
    }
    if (bits == kSign) bits = 0;
    // Negative numbers in reverse; what that sets in the dropped bits says nothing.
    return ((bits & kSign) != 0 ? ~bits : bits | kSign) >> kDropped << kDropped;
  }
};

// A token's rank in the order of choice, larger first: the score's bits and, below them, how early
// it stands; no two are equal.
struct Ranks {
  int position_bits = 0;

  explicit Ranks(std::int64_t length) {
    while ((std::int64_t{1} << position_bits) < length) ++position_bits;
  }
  __device__ std::uint64_t operator()(std::uint64_t key, std::int64_t t) const {
    return key | ((std::uint64_t{1} << position_bits) - 1 - static_cast<std::uint64_t>(t));
  }
  // A key's bits at the upper end of 64.
  static __device__ std::uint64_t upper(std::uint64_t key) { return key; }
  static __device__ std::uint64_t upper(std::uint32_t key) { return std::uint64_t{key} << 32; }
};

template <class A>
struct Scores {
  const A* base;
  std::int64_t length, experts, sequence_stride, row_stride;

  explicit Scores(const TensorView& view)
      : base(view.data<A>()),
        length(view.dim(1)),
        experts(view.dim(2)),
        sequence_stride(view.stride(0)),
        row_stride(view.stride(1)) {}
  __device__ A operator()(std::int64_t b, std::int64_t t, std::int64_t e) const {
    return base[b * sequence_stride + t * row_stride + e];
  }
};

// keys[B,E,T] of scores[B,T,E], by tiles.
template <class A>
__global__ void __launch_bounds__(kThreads)
    transpose_keys(typename Key<A>::Bits* keys, Scores<A> scores) {
  __shared__ typename Key<A>::Bits tile[kTile][kTile + 1];
  const std::int64_t b = blockIdx.z, t0 = blockIdx.x * std::int64_t{kTile};
  const std::int64_t e0 = blockIdx.y * std::int64_t{kTile};
  const int x = static_cast<int>(threadIdx.x) % kTile, y0 = static_cast<int>(threadIdx.x) / kTile;
  for (int y = y0; y < kTile; y += kThreads / kTile) {
    if (t0 + y < scores.length && e0 + x < scores.experts) {
      tile[y][x] = Key<A>::of(scores(b, t0 + y, e0 + x));
    }
  }
  __syncthreads();
  for (int y = y0; y < kTile; y += kThreads / kTile) {
    if (t0 + x < scores.length && e0 + y < scores.experts) {
      keys[(b * scores.experts + e0 + y) * scores.length + t0 + x] = tile[x][y];
    }
  }
}

// thresholds[B,E]: a rank that exactly `count` tokens of the sequence reach, found bit by bit from
// the highest. One block a column; its keys stay in the nearest cache.
template <class A>
__global__ void __launch_bounds__(kSelectThreads)
    select_thresholds(std::uint64_t* thresholds, const typename Key<A>::Bits* keys,
                      std::int64_t length, std::int64_t count, Ranks ranks) {
  __shared__ std::int32_t partial[32];
  const auto* const column = keys + blockIdx.x * length;
  constexpr int kLowestOfKey = 64 - 8 * static_cast<int>(sizeof(A)) + Key<A>::kDropped;
  std::uint64_t threshold = 0;
  for (int bit = 63; bit >= 0; --bit) {
    if (bit < kLowestOfKey && bit >= ranks.position_bits) continue;  // 0 in all ranks
    const std::uint64_t candidate = threshold | std::uint64_t{1} << bit;
    std::int32_t reach = 0;
#pragma unroll 8
    for (std::int64_t t = threadIdx.x; t < length; t += kSelectThreads) {
      reach += ranks(Ranks::upper(column[t]), t) >= candidate ? 1 : 0;
    }
    reach = block_sum(reach, partial);
    if (reach >= count) threshold = candidate;
    if (reach == count) break;
  }
  if (threadIdx.x == 0) thresholds[blockIdx.x] = threshold;
}

// Without thresholds nobody is chosen.
template <class A>
__global__ void __launch_bounds__(kThreads)
    mark_chosen(MaskView chosen, Scores<A> scores, const std::uint64_t* thresholds, Ranks ranks) {
  const std::int64_t all = chosen.sequences * chosen.rows * chosen.experts;
  for (std::int64_t i = blockIdx.x * std::int64_t{kThreads} + threadIdx.x; i < all;
       i += std::int64_t{gridDim.x} * kThreads) {
    const std::int64_t e = i % chosen.experts, row = i / chosen.experts;
    const std::int64_t t = row % chosen.rows, b = row / chosen.rows;
    const bool set = thresholds != nullptr && ranks(Ranks::upper(Key<A>::of(scores(b, t, e))), t) >=
                                                  thresholds[b * chosen.experts + e];
    chosen.row(b, t)[e] = set ? 1 : 0;
  }
}

// -- capacity ------------------------------------------------------------------------------------

__global__ void __launch_bounds__(kThreads)
    total_counts(Rows<double> counts, const std::int32_t* pieces_counts, std::int64_t sequences,
                 std::int64_t pieces, std::int64_t experts) {
  const std::int64_t i = blockIdx.x * std::int64_t{kThreads} + threadIdx.x;
  if (i >= sequences * experts) return;
  const std::int64_t b = i / experts, e = i % experts;
  std::int64_t total = 0;
#pragma unroll 8
  for (std::int64_t p = 0; p < pieces; ++p) total += pieces_counts[(b * pieces + p) * experts + e];
  counts[b][e] = static_cast<double>(total);
}

__global__ void __launch_bounds__(kPieceThreads)
    drop_from_pieces(MaskView mask, Rows<double> before, const std::int32_t* starts,
                     std::int64_t pieces, std::int64_t capacity) {
  __shared__ std::int32_t counts[kPieceThreads];
  const PieceRows my(mask.rows, pieces);
  for (std::int64_t first = 0; first < mask.experts; first += kPieceThreads) {
    const PieceColumns at(first, mask.experts, kPieceRows, my.count);
    std::uint8_t* const column = mask.row(my.sequence, my.first) + first + at.column;
    std::int32_t count = 0;
#pragma unroll 8
    for (int r = at.begin; r < at.end; ++r) count += column[r * mask.row_stride] != 0 ? 1 : 0;
    counts[threadIdx.x] = count;
    __syncthreads();
    // Who asked, whether kept or not: a token that was dropped still is ahead of the next.
    std::int64_t asked = static_cast<std::int64_t>(before[my.sequence][first + at.column]) +
                         starts[blockIdx.x * mask.experts + first + at.column] +
                         sum_before(counts, at);
#pragma unroll 4
    for (int r = at.begin; r < at.end; ++r) {
      std::uint8_t& entry = column[r * mask.row_stride];
      const bool asks = entry != 0;
      entry = asks && asked < capacity ? 1 : 0;
      asked += asks ? 1 : 0;
    }
    __syncthreads();
  }
}

void check_mask(const TensorView& mask, const TensorView& counts) {
  require_cuda(mask);
  require_cuda(counts);
  PG_ASSERT(mask.rank() == 3, "{} is not [B, R, E]", mask.text());
  PG_ASSERT(counts.rank() == 2 && counts.dim(0) == mask.dim(0) && counts.dim(1) == mask.dim(2),
            "counts {} mask {}", counts.text(), mask.text());
  // What pieces count in.
  PG_ASSERT(mask.dim(1) <= std::numeric_limits<std::int32_t>::max(), "mask {}", mask.text());
}

}  // namespace

void CudaKernels::moe_choose_experts(TensorView chosen, TensorView probs, TensorView bias,
                                     std::int64_t k) {
  check_same(chosen, probs);
  const std::int64_t experts = probs.dim(1);
  PG_ASSERT(k >= 0 && k <= experts, "{} of {} experts", k, experts);
  if (!bias.empty()) check_vector(bias, experts);
  PG_ASSERT(
      bias.empty() || bias.dtype() == DType::kBF16 || bias.dtype() == accumulator_of(bias.dtype()),
      "bias {}", bias.text());
  if (k == 0) return fill_zero(chosen);
  if (probs.elements() == 0) return;
  const RowLanes all(probs.dim(0), experts);
  const Bias added{bias.raw(), bias.dtype()};
  dispatch_accumulator(probs.dtype(), [&]<class A>() {
    const auto kernel = experts <= 32    ? choose_experts<A, 1>
                        : experts <= 256 ? choose_experts<A, 8>
                                         : choose_experts<A, 0>;
    launch("moe_choose_experts", kernel, all.grid(kThreads), dim3(kThreads), 0, stream_,
           Rows<std::uint8_t>(chosen), Rows<A>(probs), added, k, all);
  });
}

void CudaKernels::moe_choose_tokens(TensorView chosen, TensorView scores, std::int64_t count) {
  require_cuda(chosen);
  require_cuda(scores);
  bool same_shape = chosen.rank() == 3 && scores.rank() == 3;
  for (int axis = 0; axis < 3; ++axis) {
    same_shape = same_shape && chosen.dim(axis) == scores.dim(axis);
  }
  PG_ASSERT(same_shape, "chosen {} scores {}", chosen.text(), scores.text());
  const std::int64_t sequences = scores.dim(0), length = scores.dim(1), experts = scores.dim(2);
  PG_ASSERT(count >= 0 && count <= length, "{} tokens of {}", count, scores.text());
  PG_ASSERT(length <= std::int64_t{1} << 27, "positions of {} beside rounded scores",
            scores.text());
  if (scores.elements() == 0) return;
  const Ranks ranks(length);
  dispatch_accumulator(scores.dtype(), [&]<class A>() {
    using Bits = typename Key<A>::Bits;
    std::uint64_t* thresholds = nullptr;
    if (count > 0) {
      const auto columns = static_cast<std::size_t>(sequences * experts);
      auto* const memory = static_cast<unsigned char*>(workspace_.take(
          columns * (sizeof(std::uint64_t) + static_cast<std::size_t>(length) * sizeof(Bits))));
      thresholds = reinterpret_cast<std::uint64_t*>(memory);
      auto* const keys = reinterpret_cast<Bits*>(memory + columns * sizeof(std::uint64_t));
      const dim3 tiles(blocks_of(ceil_div(length, kTile)), blocks_of(ceil_div(experts, kTile)),
                       blocks_of(sequences));
      launch("moe_choose_tokens", transpose_keys<A>, tiles, dim3(kThreads), 0, stream_, keys,
             Scores<A>(scores));
      launch("moe_choose_tokens", select_thresholds<A>, dim3(blocks_of(sequences * experts)),
             dim3(kSelectThreads), 0, stream_, thresholds, keys, length, count, ranks);
    }
    const auto blocks = std::min<std::int64_t>(ceil_div(scores.elements(), kThreads), 1 << 16);
    launch("moe_choose_tokens", mark_chosen<A>, dim3(blocks_of(blocks)), dim3(kThreads), 0, stream_,
           MaskView(chosen), Scores<A>(scores), thresholds, ranks);
  });
}

void CudaKernels::moe_count(TensorView counts, TensorView mask) {
  check_mask(mask, counts);
  const MaskView view(mask);
  const std::int64_t pieces = pieces_of(view.rows), columns = view.sequences * view.experts;
  if (columns == 0) return;
  auto* const partial = static_cast<std::int32_t*>(
      workspace_.take(static_cast<std::size_t>(std::max<std::int64_t>(1, columns * pieces)) *
                      sizeof(std::int32_t)));
  if (pieces > 0) {
    launch("moe_count", count_pieces<std::int32_t>, dim3(blocks_of(view.sequences * pieces)),
           dim3(kPieceThreads), 0, stream_, partial, view, pieces);
  }
  launch("moe_count", total_counts, dim3(blocks_of(ceil_div(columns, kThreads))), dim3(kThreads), 0,
         stream_, Rows<double>(counts), partial, view.sequences, pieces, view.experts);
}

void CudaKernels::moe_drop(TensorView mask, TensorView before, std::int64_t capacity) {
  check_mask(mask, before);
  if (mask.elements() == 0) return;
  const MaskView view(mask);
  const std::int64_t pieces = pieces_of(view.rows), blocks = view.sequences * pieces;
  auto* const starts = static_cast<std::int32_t*>(
      workspace_.take(static_cast<std::size_t>(blocks * view.experts) * sizeof(std::int32_t)));
  launch("moe_drop", count_pieces<std::int32_t>, dim3(blocks_of(blocks)), dim3(kPieceThreads), 0,
         stream_, starts, view, pieces);
  launch("moe_drop", scan_pieces<false>, dim3(blocks_of(view.sequences)), dim3(kScanThreads), 0,
         stream_, starts, nullptr, pieces, view.experts);
  launch("moe_drop", drop_from_pieces, dim3(blocks_of(blocks)), dim3(kPieceThreads), 0, stream_,
         view, Rows<double>(before), starts, pieces, capacity);
}

}  // namespace pg::model

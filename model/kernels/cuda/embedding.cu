// Table lookups and their gradients. Backward sorts the tokens by their row of the table, stably,
// so that the tokens of a row stand together and in order; then whoever has the first of them adds
// all of them, one after the other: no atomics, and the additions of one walk over the tokens.
#include <bit>
#include <limits>

#include "model/kernels/cuda/cuda_kernels.h"
#include "model/kernels/cuda/intrinsics.cuh"
#include "model/kernels/cuda/pieces.cuh"
#include "model/kernels/cuda/rows.cuh"
#include "model/kernels/cuda/views.cuh"

namespace pg::model {

namespace {

using namespace cuda;

constexpr int kThreads = 256;
constexpr int kRunThreads = 128, kRunPlaces = 4;
constexpr int kDigitBits = 8, kDigits = 1 << kDigitBits, kTile = 256;
constexpr unsigned kAllLanes = 0xFFFFFFFFu;

// -- forward -------------------------------------------------------------------------------------

// The rows of ids [first_id, first_id + ids).
template <class T>
struct Table {
  Rows<T> rows;
  std::int64_t first_id, ids;
};

template <class T, bool kPacked>
__global__ void __launch_bounds__(kThreads)
    look_up(Rows<T> x, const std::int32_t* tokens, const std::int32_t* positions, Table<T> by_token,
            Rows<T> by_position, std::int64_t count, std::int64_t width) {
  using Piece = WarpPiece<T, kPacked>;
  const std::int64_t n = blockIdx.x * std::int64_t{kThreads / kWarp} + threadIdx.x / kWarp;
  if (n >= count) return;
  const std::int64_t id = tokens[n] - by_token.first_id;
  const bool here = id >= 0 && id < by_token.ids;
  for (std::int64_t first = 0; first < width; first += Piece::kElements) {
    // A row of another rank: of no width, so that all of it lies behind its end and is 0.
    Piece token;
    token.load(by_token.rows[here ? id : 0], first, here ? width : 0);
    if (by_position.base != nullptr) {
      Piece place;
      place.load(by_position[positions[n]], first, width);
#pragma unroll
      for (int j = 0; j < Piece::kPacks; ++j) {
#pragma unroll
        for (int i = 0; i < Piece::kSize; ++i) {
          T& t = token.pack[j].at[i];
          t = store<T>(load(t) + load(place.pack[j].at[i]));
        }
      }
    }
    token.store(x[n], first, width);
  }
}

// -- a stable radix sort -------------------------------------------------------------------------

// A token and its row of the table, which is the key.
using Entry = std::uint64_t;

// Where the entries of a pass come from: of the first one, the ids themselves. Ids outside the
// table get the row behind it: they come last.
struct Source {
  const Entry* sorted;  // null: by the ids
  const std::int32_t* ids;
  std::int64_t first_id, rows;

  __device__ Entry operator()(std::int64_t i) const {
    if (sorted != nullptr) return sorted[i];
    const std::int64_t id = ids[i] - first_id;
    return static_cast<Entry>(id >= 0 && id < rows ? id : rows) << 32 | static_cast<Entry>(i);
  }
};
__device__ __forceinline__ std::int64_t row_of(Entry entry) {
  return static_cast<std::int64_t>(entry >> 32);
}
__device__ __forceinline__ int digit_of(Entry entry, int shift) {
  return static_cast<int>(entry >> (32 + shift)) & (kDigits - 1);
}

// counts[tiles, kDigits].
__global__ void __launch_bounds__(kTile)
    count_digits(std::int32_t* counts, Source source, std::int64_t n, int shift) {
  __shared__ std::int32_t digits[kDigits];
  static_assert(kDigits == kTile);
  digits[threadIdx.x] = 0;
  __syncthreads();
  const std::int64_t i = blockIdx.x * std::int64_t{kTile} + threadIdx.x;
  if (i < n) atomicAdd(&digits[digit_of(source(i), shift)], 1);
  __syncthreads();
  counts[blockIdx.x * std::int64_t{kDigits} + threadIdx.x] = digits[threadIdx.x];
}

// starts[tiles, kDigits]: where a tile's entries of each digit begin.
__global__ void __launch_bounds__(kTile)
    move_by_digit(Entry* to, Source source, const std::int32_t* starts, std::int64_t n, int shift) {
  __shared__ std::int32_t in_warp[kTile / kWarp][kDigits];
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  for (int w = 0; w < kTile / kWarp; ++w) in_warp[w][threadIdx.x] = 0;
  __syncthreads();
  const std::int64_t i = blockIdx.x * std::int64_t{kTile} + threadIdx.x;
  const bool inside = i < n;
  const Entry entry = inside ? source(i) : Entry{0};
  const int digit = digit_of(entry, shift);
  // The lanes of this warp that have the same digit.
  unsigned same = __ballot_sync(kAllLanes, inside);
#pragma unroll
  for (int bit = 0; bit < kDigitBits; ++bit) {
    const bool set = (digit >> bit & 1) != 0;
    const unsigned of_set = __ballot_sync(kAllLanes, set);
    same &= set ? of_set : ~of_set;
  }
  const unsigned lower = (1u << (threadIdx.x % kWarp)) - 1;
  const int rank = __popc(same & lower);
  if (inside && rank == 0) in_warp[warp][digit] = __popc(same);
  __syncthreads();
  if (!inside) return;
  std::int64_t at = starts[blockIdx.x * std::int64_t{kDigits} + digit] + rank;
  for (int w = 0; w < warp; ++w) at += in_warp[w][digit];
  to[at] = entry;
}

// -- backward ------------------------------------------------------------------------------------

// Sums of one pack of channels, of the tokens of `row` that begin at sorted[place], in their order.
// A frequent row is bound by latency: while a batch is added the next one is on its way to shared
// memory, each thread's to a place of its own. (Into registers the compiler would load one after
// the other, each when it is added.)
template <class T>
struct Batches {
  static constexpr int kSize = 8;  // tokens
  Held<T> waiting[2][kSize][kRunThreads];

  // Which tokens of the batch are the row's: a bit each.
  __device__ unsigned fetch(int half, Rows<T> dx, std::int64_t channel, const Entry* sorted,
                            std::int64_t first, std::int64_t n, std::int64_t row) {
    Entry entry[kSize];
#pragma unroll
    for (int j = 0; j < kSize; ++j) entry[j] = sorted[first + j < n ? first + j : n - 1];
    unsigned own = 0;
#pragma unroll
    for (int j = 0; j < kSize; ++j) {
      const bool mine = first + j < n && row_of(entry[j]) == row;
      const auto token = static_cast<std::int64_t>(entry[j] & 0xFFFFFFFFu);
      copy_async(&waiting[half][j][threadIdx.x], dx[token] + channel, mine);
      own |= mine ? 1u << j : 0u;
    }
    copy_async_commit();
    return own;
  }
  __device__ void add(acc_t<T> (&sums)[Pack<T>::kSize], Rows<T> dx, std::int64_t channel,
                      const Entry* sorted, std::int64_t place, std::int64_t n, std::int64_t row) {
    int half = 0;
    unsigned own = fetch(half, dx, channel, sorted, place, n, row);
    while (own != 0) {
      place += kSize;
      unsigned next = 0;
      if (own >> (kSize - 1) != 0) {
        next = fetch(1 - half, dx, channel, sorted, place, n, row);
      } else {
        copy_async_commit();  // of nothing
      }
      copy_async_wait<1>();
#pragma unroll
      for (int j = 0; j < kSize; ++j) {
        if ((own >> j & 1) == 0) continue;
        const Held<T> d = waiting[half][j][threadIdx.x];
#pragma unroll
        for (int c = 0; c < Pack<T>::kSize; ++c) sums[c] += d[c];
      }
      own = next;
      half = 1 - half;
    }
    copy_async_wait<0>();  // of zeros, which must not fall into what the next row asks for
  }
};

// The same without aligned packs.
template <class T>
__device__ void add_singly(acc_t<T> (&sums)[Pack<T>::kSize], Rows<T> dx, std::int64_t channel,
                           int channels, const Entry* sorted, std::int64_t place, std::int64_t n,
                           std::int64_t row) {
  for (; place < n && row_of(sorted[place]) == row; ++place) {
    const T* const d = dx[static_cast<std::int64_t>(sorted[place] & 0xFFFFFFFFu)] + channel;
#pragma unroll
    for (int c = 0; c < Pack<T>::kSize; ++c) {
      if (c < channels) sums[c] += load(d[c]);
    }
  }
}

// table[row] += the rows of dx of its tokens, for the rows whose first entry stands at one of this
// block's kRunPlaces; one pack of channels a thread.
template <class T, bool kPacked>
__global__ void __launch_bounds__(kRunThreads)
    add_runs(Rows<acc_t<T>> table, Rows<T> dx, const Entry* sorted, std::int64_t n,
             std::int64_t rows, std::int64_t width) {
  using A = acc_t<T>;
  constexpr int kSize = Pack<T>::kSize, kSums = Pack<A>::kSize;
  __shared__ Batches<T> batches;
  const std::int64_t channel =
      (blockIdx.y * std::int64_t{kRunThreads} + threadIdx.x) * std::int64_t{kSize};
  if (channel >= width) return;
  const int here = width - channel < kSize ? static_cast<int>(width - channel) : kSize;
  const std::int64_t begin = blockIdx.x * std::int64_t{kRunPlaces};
  for (std::int64_t place = begin; place < begin + kRunPlaces && place < n; ++place) {
    const std::int64_t row = row_of(sorted[place]);
    if (row >= rows) return;
    if (place > 0 && row_of(sorted[place - 1]) == row) continue;
    A* const to = table[row] + channel;
    A sums[kSize];
    if constexpr (kPacked) {
#pragma unroll
      for (int p = 0; p < kSize; p += kSums) {
        const auto some = load_pack(to + p);
#pragma unroll
        for (int i = 0; i < kSums; ++i) sums[p + i] = some.at[i];
      }
      batches.add(sums, dx, channel, sorted, place, n, row);
#pragma unroll
      for (int p = 0; p < kSize; p += kSums) {
        Pack<A> some;
#pragma unroll
        for (int i = 0; i < kSums; ++i) some.at[i] = sums[p + i];
        store_pack(to + p, some);
      }
    } else {
#pragma unroll
      for (int c = 0; c < kSize; ++c) sums[c] = c < here ? to[c] : A{};
      add_singly(sums, dx, channel, here, sorted, place, n, row);
#pragma unroll
      for (int c = 0; c < kSize; ++c) {
        if (c < here) to[c] = sums[c];
      }
    }
  }
}

const std::int32_t* indices(const TensorView& view, std::int64_t n) {
  require_cuda(view);
  PG_ASSERT(view.elements() == n && view.contiguous(), "{} for {} rows", view.text(), n);
  return view.data<std::int32_t>();
}

// table[ids[n] - first_id] += rows[n], in the order of n; ids outside the table add nothing.
void scatter_add(Workspace& workspace, cudaStream_t stream, TensorView table, TensorView dx,
                 const std::int32_t* ids, std::int64_t first_id) {
  constexpr const char* kName = "embedding_backward";
  const std::int64_t n = dx.dim(0), rows = table.dim(0), tiles = ceil_div(n, kTile);
  PG_ASSERT(n < std::numeric_limits<std::int32_t>::max() && rows > 0 &&
                rows < std::numeric_limits<std::int32_t>::max(),
            "dx {} table {}", dx.text(), table.text());
  const auto entries = static_cast<std::size_t>(n) * sizeof(Entry);
  auto* const memory = static_cast<unsigned char*>(workspace.take(
      2 * entries + static_cast<std::size_t>(tiles * kDigits) * sizeof(std::int32_t)));
  Entry* const buffers[2] = {reinterpret_cast<Entry*>(memory),
                             reinterpret_cast<Entry*>(memory + entries)};
  auto* const counts = reinterpret_cast<std::int32_t*>(memory + 2 * entries);
  // The least digit first; keys are [0, rows].
  const Entry* sorted = nullptr;
  const int bits = std::bit_width(static_cast<std::uint64_t>(rows));
  for (int pass = 0; pass * kDigitBits < bits; ++pass) {
    const Source source{sorted, ids, first_id, rows};
    const int shift = pass * kDigitBits;
    launch(kName, count_digits, dim3(blocks_of(tiles)), dim3(kTile), 0, stream, counts, source, n,
           shift);
    launch(kName, scan_pieces<true>, dim3(1), dim3(kScanThreads), 0, stream, counts, nullptr, tiles,
           std::int64_t{kDigits});
    launch(kName, move_by_digit, dim3(blocks_of(tiles)), dim3(kTile), 0, stream, buffers[pass % 2],
           source, counts, n, shift);
    sorted = buffers[pass % 2];
  }
  dispatch(dx.dtype(), [&]<class T>() {
    const bool packed = rows_aligned(table) && whole_packs<T>(dx);
    const auto kernel = packed ? add_runs<T, true> : add_runs<T, false>;
    const dim3 grid(blocks_of(ceil_div(n, kRunPlaces)),
                    blocks_of(ceil_div(dx.dim(1), kRunThreads * Pack<T>::kSize)));
    launch(kName, kernel, grid, dim3(kRunThreads), 0, stream, Rows<acc_t<T>>(table), Rows<T>(dx),
           sorted, n, rows, dx.dim(1));
  });
}

}  // namespace

void CudaKernels::embedding_forward(TensorView x, TensorView tokens, TensorView positions,
                                    TensorView token_table, TensorView position_table,
                                    std::int64_t first_id) {
  for (const auto& view : {x, token_table, position_table}) require_cuda(view);
  PG_ASSERT(x.rank() == 2 && token_table.rank() == 2 && x.dim(1) == token_table.dim(1),
            "x {} table {}", x.text(), token_table.text());
  PG_ASSERT(
      position_table.empty() || (position_table.rank() == 2 && position_table.dim(1) == x.dim(1)),
      "x {} position table {}", x.text(), position_table.text());
  const std::int64_t n = x.dim(0), width = x.dim(1);
  const std::int32_t* const token = indices(tokens, n);
  const std::int32_t* const position = position_table.empty() ? nullptr : indices(positions, n);
  if (x.elements() == 0) return;
  dispatch(x.dtype(), [&]<class T>() {
    const bool packed =
        whole_packs<T>(x) && whole_packs<T>(token_table) && whole_packs<T>(position_table);
    const auto kernel = packed ? look_up<T, true> : look_up<T, false>;
    const Table<T> by_token{Rows<T>(token_table), first_id, token_table.dim(0)};
    launch("embedding_forward", kernel, dim3(blocks_of(ceil_div(n, kThreads / kWarp))),
           dim3(kThreads), 0, stream_, Rows<T>(x), token, position, by_token,
           Rows<T>(position_table), n, width);
  });
}

void CudaKernels::embedding_backward(TensorView d_token_table, TensorView d_position_table,
                                     TensorView dx, TensorView tokens, TensorView positions,
                                     std::int64_t first_id) {
  for (const auto& view : {d_token_table, d_position_table, dx}) require_cuda(view);
  PG_ASSERT(dx.rank() == 2 && d_token_table.rank() == 2 && dx.dim(1) == d_token_table.dim(1),
            "dx {} table {}", dx.text(), d_token_table.text());
  PG_ASSERT(d_position_table.empty() ||
                (d_position_table.rank() == 2 && d_position_table.dim(1) == dx.dim(1)),
            "dx {} position table {}", dx.text(), d_position_table.text());
  const std::int64_t n = dx.dim(0);
  const std::int32_t* const token = indices(tokens, n);
  const std::int32_t* const position = d_position_table.empty() ? nullptr : indices(positions, n);
  if (dx.elements() == 0) return;
  scatter_add(workspace_, stream_, d_token_table, dx, token, first_id);
  if (position != nullptr) scatter_add(workspace_, stream_, d_position_table, dx, position, 0);
}

}  // namespace pg::model

// Forward attention after Dao et al. 2022 (the loop order of FlashAttention-2) by fused
// multiply-adds: a block owns 64 queries and meets the keys tile by tile, keeping for each query
// the largest score so far, the sum of exponentials relative to it, and a slice of the unnormalised
// output.
#include <cmath>
#include <limits>

#include "model/kernels/cuda/attention_prepare.cuh"
#include "model/kernels/cuda/attention_tiles.cuh"

namespace pg::model::cuda {

namespace {

template <class T>
__global__ void __launch_bounds__(kTileThreads)
    forward(Output o, acc_t<T>* lse, std::int64_t lse_sequence, std::int64_t lse_head, Input<T> q,
            Input<T> k, Input<T> v, AttentionCall call, int tiles, int slices, bool drops) {
  using A = acc_t<T>;
  constexpr A kHidden = -std::numeric_limits<A>::infinity();
  constexpr int kColumns = kSliceColumns<A>;
  auto& shared = *reinterpret_cast<TileShared<A>*>(dynamic_shared());
  const TileTask task(tiles, call.sequences, call.heads, slices, /*backwards=*/true);
  const int first = task.tile * kTile, column = task.slice * kSlice<A>;
  const int end = first + kTile < call.queries ? first + kTile : call.queries;
  const A scale = static_cast<A>(call.scale);
  const auto keys = k.rows(task.b, task.h / call.group);
  const auto values = v.rows(task.b, task.h / call.group);

  Span seen[kTileRows];
  A top[kTileRows], sum[kTileRows], sums[kTileRows][kColumns];
  for (int i = 0; i < kTileRows; ++i) {
    const int query = first + tile_y() + 16 * i;
    seen[i] = query < end ? call.seen_by(task.b, query) : Span{0, 0};
    top[i] = kHidden;
    sum[i] = A{0};
    for (auto& x : sums[i]) x = A{0};
  }

  const Span all = call.seen_by_some(task.b, first, end);
  for (int key = all.begin / kTile * kTile; key < all.end; key += kTile) {
    const Span part = all.within(key, key + kTile);
    A s[kTileRows][kTileRows];
    tile_scores<T>(s, shared, {q.rows(task.b, task.h), first, {first, end}}, {keys, key, part},
                   call.size);
    load_tile_rows(shared.values, kSlice<A>, kSlice<A>, values, key, part, column, call.size);
#pragma unroll
    for (int i = 0; i < kTileRows; ++i) {
      A newest = kHidden;
#pragma unroll
      for (int j = 0; j < kTileRows; ++j) {
        s[i][j] = seen[i].holds(key + tile_x() + 16 * j) ? s[i][j] * scale : kHidden;
        newest = s[i][j] > newest ? s[i][j] : newest;
      }
      newest = row_max(newest);
      newest = newest > top[i] ? newest : top[i];
      // A query that has seen no key yet: any offset will do, but not infinity minus infinity.
      const A offset = newest == kHidden ? A{0} : newest;
      const A change = std::exp(top[i] - offset);
      top[i] = newest;
      A part_sum{0};
#pragma unroll
      for (int j = 0; j < kTileRows; ++j) {
        const int at = tile_x() + 16 * j;
        A p = std::exp(s[i][j] - offset);
        part_sum += p;
        if (drops && p != A{0}) {
          p *= call.keep<A>(task.b, task.h, first + tile_y() + 16 * i, key + at);
        }
        shared.scores[(tile_y() + 16 * i) * TileShared<A>::kScorePitch + at] = p;
      }
      sum[i] = sum[i] * change + row_sum(part_sum);
#pragma unroll
      for (auto& x : sums[i]) x *= change;
    }
    __syncthreads();
    // The next tile's scores end with a barrier before anyone writes over these.
    add_tile_product<false>(sums, shared.scores, shared.values);
  }

  for (int i = 0; i < kTileRows; ++i) {
    const int query = first + tile_y() + 16 * i;
    if (query >= end) continue;
    const bool none = seen[i].size() <= 0;
    // Only infinite operands make every score minus infinity: not to be taken for "sees none".
    if (sum[i] == A{0}) sum[i] = std::numeric_limits<A>::quiet_NaN();
    const A factor = none ? A{0} : A{1} / sum[i];
    const auto row = o.offset(task.b, query, task.h);
    for (int j = 0; j < kColumns; ++j) {
      const int d = column + tile_x() + 16 * j;
      if (d < call.size) o.put<T>(row + d, none ? A{0} : sums[i][j] * factor);
    }
    if (task.slice == 0 && tile_x() == 0) {
      lse[task.b * lse_sequence + task.h * lse_head + query] =
          none ? kHidden : top[i] + std::log(sum[i]);
    }
  }
}

}  // namespace

void attention_forward_tiles(const ForwardOperands& call, Workspace& workspace,
                             comm::GpuStream stream) {
  const auto& q = call.q;
  const auto prepared =
      prepare_attention(q, call.k, call.shape, call.dropout, 0, workspace, stream);
  dispatch(q.dtype(), [&]<class T>() {
    using A = acc_t<T>;
    const auto tiles = ceil_div(q.dim(1), kTile), slices = ceil_div(q.dim(3), kSlice<A>);
    const dim3 grid(blocks_of(tiles * slices * q.dim(0) * q.dim(2)));
    launch("attention_forward", forward<T>, grid, dim3(kTileThreads), kForwardShared<A>, stream,
           output(call.o, q.dtype(), false), call.lse.data<A>(), call.lse.stride(0),
           call.lse.stride(1), input<T>(q), input<T>(call.k), input<T>(call.v), prepared.call,
           tiles, slices, call.dropout.rate > 0.0);
  });
}

}  // namespace pg::model::cuda

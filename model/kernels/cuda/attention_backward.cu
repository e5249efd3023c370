// Backward attention after Dao et al. 2022 (FlashAttention-2, algorithm 2) by fused multiply-adds.
// The probabilities are made again from scores and log-sum-exp:
//   P = exp(S - lse)   dV = (mask P)^T dO   dS = P (mask dO V^T - rowsum(dO O))   dQ = dS K   dK =
//   dS^T Q
// Two kernels make them again, one for dK and dV of 64 keys and one for dQ of 64 queries, so that
// every sum belongs to one thread: for a key over heads, then tiles of queries; for a query over
// tiles of keys.
#include <cmath>
#include <limits>

#include "model/kernels/cuda/attention_prepare.cuh"
#include "model/kernels/cuda/attention_tiles.cuh"

namespace pg::model::cuda {

namespace {

// What both kernels read.
template <class T>
struct BackwardInput {
  Input<T> d_o, q, k, v;
  const RowStats<acc_t<T>>* stats;
  AttentionCall call;
  bool drops;
};

// shared.scores = mask P and shared.slopes = scale dS of queries first.. (rows) and keys key.., of
// which `part` is seen at all. Ends without a barrier.
template <class T>
__device__ void make_slopes(TileShared<acc_t<T>>& shared, const BackwardInput<T>& in, int b, int h,
                            Span queries, int key, Span part) {
  using A = acc_t<T>;
  const auto& call = in.call;
  const int kv_head = h / call.group, first = queries.begin;
  A s[kTileRows][kTileRows], dp[kTileRows][kTileRows];
  tile_scores<T>(s, shared, {in.q.rows(b, h), first, queries}, {in.k.rows(b, kv_head), key, part},
                 call.size);
  tile_scores<T>(dp, shared, {in.d_o.rows(b, h), first, queries},
                 {in.v.rows(b, kv_head), key, part}, call.size);
  const A scale = static_cast<A>(call.scale);
  const auto* stats = in.stats + (std::int64_t{b} * call.heads + h) * call.padded;
#pragma unroll
  for (int i = 0; i < kTileRows; ++i) {
    const int row = tile_y() + 16 * i, query = first + row;
    const auto own = stats[query];
    const Span seen = query < queries.end ? call.seen_by(b, query) : Span{0, 0};
#pragma unroll
    for (int j = 0; j < kTileRows; ++j) {
      const int at = tile_x() + 16 * j;
      A p{0}, slope{0};
      if (seen.holds(key + at)) {
        p = std::exp(s[i][j] * scale - own.lse);
        const A keep = in.drops ? call.template keep<A>(b, h, query, key + at) : A{1};
        slope = scale * p * (dp[i][j] * keep - own.delta);
        p *= keep;
      }
      shared.scores[row * TileShared<A>::kScorePitch + at] = p;
      shared.slopes[row * TileShared<A>::kScorePitch + at] = slope;
    }
  }
}

template <class T>
__device__ void put_tile(const Output& to,
                         const acc_t<T> (&sums)[kTileRows][kSliceColumns<acc_t<T>>], int b, int h,
                         Span rows, int column, int size) {
  for (int i = 0; i < kTileRows; ++i) {
    const int row = rows.begin + tile_y() + 16 * i;
    if (row >= rows.end) continue;
    for (int j = 0; j < kSliceColumns<acc_t<T>>; ++j) {
      const int d = column + tile_x() + 16 * j;
      if (d < size) to.put<T>(to.offset(b, row, h) + d, sums[i][j]);
    }
  }
}

template <class A>
__device__ void clear(A (&sums)[kTileRows][kSliceColumns<A>]) {
  for (auto& row : sums) {
    for (auto& x : row) x = A{0};
  }
}

template <class T>
__global__ void __launch_bounds__(kTileThreads)
    backward_keys(Output dk, Output dv, BackwardInput<T> in, int tiles, int slices) {
  using A = acc_t<T>;
  auto& shared = *reinterpret_cast<TileShared<A>*>(dynamic_shared());
  const auto& call = in.call;
  // The first keys are seen by the most queries.
  const TileTask task(tiles, call.sequences, call.kv_heads, slices, /*backwards=*/false);
  const int key = task.tile * kTile, column = task.slice * kSlice<A>;
  const int end = key + kTile < call.keys ? key + kTile : call.keys;
  A dk_sums[kTileRows][kSliceColumns<A>], dv_sums[kTileRows][kSliceColumns<A>];
  clear(dk_sums);
  clear(dv_sums);
  const Span all = call.queries_of(key, end);
  for (int h = task.h * call.group; h < (task.h + 1) * call.group; ++h) {
    for (int query = all.begin / kTile * kTile; query < all.end; query += kTile) {
      const int last = query + kTile < call.queries ? query + kTile : call.queries;
      const Span part = call.seen_by_some(task.b, query, last).within(key, end);
      if (part.size() <= 0) continue;
      make_slopes(shared, in, task.b, h, {query, last}, key, part);
      load_tile_rows(shared.values, kSlice<A>, kSlice<A>, in.d_o.rows(task.b, h), query,
                     {query, last}, column, call.size);
      __syncthreads();
      add_tile_product<true>(dv_sums, shared.scores, shared.values);
      __syncthreads();
      load_tile_rows(shared.values, kSlice<A>, kSlice<A>, in.q.rows(task.b, h), query,
                     {query, last}, column, call.size);
      __syncthreads();
      add_tile_product<true>(dk_sums, shared.slopes, shared.values);
    }
  }
  put_tile<T>(dk, dk_sums, task.b, task.h, {key, end}, column, call.size);
  put_tile<T>(dv, dv_sums, task.b, task.h, {key, end}, column, call.size);
}

template <class T>
__global__ void __launch_bounds__(kTileThreads)
    backward_queries(Output dq, BackwardInput<T> in, int tiles, int slices) {
  using A = acc_t<T>;
  auto& shared = *reinterpret_cast<TileShared<A>*>(dynamic_shared());
  const auto& call = in.call;
  const TileTask task(tiles, call.sequences, call.heads, slices, /*backwards=*/true);
  const int first = task.tile * kTile, column = task.slice * kSlice<A>;
  const int end = first + kTile < call.queries ? first + kTile : call.queries;
  A sums[kTileRows][kSliceColumns<A>];
  clear(sums);
  const Span all = call.seen_by_some(task.b, first, end);
  for (int key = all.begin / kTile * kTile; key < all.end; key += kTile) {
    const Span part = all.within(key, key + kTile);
    make_slopes(shared, in, task.b, task.h, {first, end}, key, part);
    load_tile_rows(shared.values, kSlice<A>, kSlice<A>, in.k.rows(task.b, task.h / call.group), key,
                   part, column, call.size);
    __syncthreads();
    add_tile_product<false>(sums, shared.slopes, shared.values);
  }
  put_tile<T>(dq, sums, task.b, task.h, {first, end}, column, call.size);
}

}  // namespace

void attention_backward_tiles(const BackwardOperands& call, Workspace& workspace,
                              comm::GpuStream stream) {
  const auto &q = call.q, &k = call.k;
  dispatch(q.dtype(), [&]<class T>() {
    using A = acc_t<T>;
    const auto prepared =
        prepare_attention(q, k, call.shape, call.dropout, sizeof(RowStats<A>), workspace, stream);
    launch_row_stats(prepared, call, 1.0, stream);
    const BackwardInput<T> in{input<T>(call.d_o),
                              input<T>(q),
                              input<T>(k),
                              input<T>(call.v),
                              static_cast<const RowStats<A>*>(prepared.stats),
                              prepared.call,
                              call.dropout.rate > 0.0};
    const auto to = [&](const TensorView& x) { return output(x, q.dtype(), call.accumulate); };
    const auto slices = ceil_div(q.dim(3), kSlice<A>);
    const auto key_tiles = ceil_div(k.dim(1), kTile), query_tiles = ceil_div(q.dim(1), kTile);
    if (k.elements() > 0) {
      launch("attention_backward_keys", backward_keys<T>,
             dim3(blocks_of(key_tiles * slices * k.dim(0) * k.dim(2))), dim3(kTileThreads),
             kBackwardShared<A>, stream, to(call.dk), to(call.dv), in, key_tiles, slices);
    }
    if (q.elements() > 0) {
      launch("attention_backward_queries", backward_queries<T>,
             dim3(blocks_of(query_tiles * slices * q.dim(0) * q.dim(2))), dim3(kTileThreads),
             kBackwardShared<A>, stream, to(call.dq), in, query_tiles, slices);
    }
  });
}

}  // namespace pg::model::cuda

// Backward attention in bf16 by tensor cores; the two passes of attention_backward.cu. Eight warps
// of 16 rows each. For dK and dV a warp's rows are keys: it makes the transposed S and dP, whose
// fragments are then the left operands of the products with dO and Q. While a tile is worked on,
// the next one is on its way. Probabilities are powers of two: RowStats hold lse * log2(e).
#include "model/kernels/cuda/attention_mma.cuh"
#include "model/kernels/cuda/attention_prepare.cuh"

namespace pg::model::cuda {

namespace {

template <int kDepth>
struct BackwardTile {
  static constexpr int kWarps = 8, kThreads = 32 * kWarps;
  static constexpr int kOwned = 16 * kWarps;  // keys or queries whose gradients a block makes
  static constexpr int kMet = kDepth <= 128 ? 64 : 32;  // queries or keys that it meets at a time
  // Columns of dK and dV that fit in the registers.
  static constexpr int kSlice = kDepth <= 128 ? kDepth : 128, kSlices = kDepth / kSlice;
  static constexpr int kPitch = kRowPitch<kDepth>;
  static constexpr std::size_t kStats = 2 * kMet * sizeof(RowStats<float>);
  static constexpr std::size_t kShared = (2 * kOwned + 4 * kMet) * kPitch * sizeof(bf16) + kStats;
};

struct BackwardInput {
  Input<bf16> d_o, q, k, v;
  const RowStats<float>* stats;
  AttentionCall call;
  __device__ const RowStats<float>* stats_of(int b, int h) const {
    return stats + (std::int64_t{b} * call.heads + h) * call.padded;
  }
};

// Query tiles that see some of a block's keys, for each query head of a key head in order.
struct QueryTiles {
  const AttentionCall& call;
  int b, heads_end, key, key_end, met;
  Span all;
  int h, query;

  __device__ bool done() const { return h >= heads_end; }
  __device__ int end() const { return query + met < call.queries ? query + met : call.queries; }
  __device__ Span part() const { return call.seen_by_some(b, query, end()).within(key, key_end); }
  __device__ void begin() {
    query = all.begin / met * met;
    settle();
  }
  __device__ void next() {
    query += met;
    settle();
  }

 private:
  __device__ void settle() {
    for (; h < heads_end; ++h, query = all.begin / met * met) {
      for (; query < all.end; query += met) {
        if (part().size() > 0) return;
      }
    }
  }
};

template <int kDepth, bool kDrops>
__global__ void __launch_bounds__(BackwardTile<kDepth>::kThreads, 1)
    backward_keys(Output dk, Output dv, BackwardInput in, int tiles) {
  using Tile = BackwardTile<kDepth>;
  constexpr int kMet = Tile::kMet, kPitch = Tile::kPitch;
  const auto& call = in.call;
  bf16* const k_rows = reinterpret_cast<bf16*>(dynamic_shared());
  bf16* const v_rows = k_rows + Tile::kOwned * kPitch;
  bf16* const q_rows = v_rows + Tile::kOwned * kPitch;
  bf16* const do_rows = q_rows + 2 * kMet * kPitch;
  auto* const stats = reinterpret_cast<RowStats<float>*>(do_rows + 2 * kMet * kPitch);

  // The first keys are seen by the most queries.
  const TileTask task(tiles, call.sequences, call.kv_heads, Tile::kSlices, /*backwards=*/false);
  const int key = task.tile * Tile::kOwned, column = task.slice * Tile::kSlice;
  const int end = key + Tile::kOwned < call.keys ? key + Tile::kOwned : call.keys;
  const int warp_key = key + 16 * warp_index();
  const float scale = static_cast<float>(call.scale) * kLog2E;
  float dk_sums[1][Tile::kSlice / 8][4], dv_sums[1][Tile::kSlice / 8][4];
  clear(dk_sums);
  clear(dv_sums);

  QueryTiles at{call, task.b, (task.h + 1) * call.group, key,
                end,  kMet,   call.queries_of(key, end), task.h * call.group,
                0};
  const auto fetch = [&](const QueryTiles& tile, int stage) {
    const Span there{tile.query, tile.end()};
    load_rows<kMet, kDepth, Tile::kThreads>(
        q_rows + stage * kMet * kPitch, in.q.rows(task.b, tile.h), tile.query, there, call.size);
    load_rows<kMet, kDepth, Tile::kThreads>(
        do_rows + stage * kMet * kPitch, in.d_o.rows(task.b, tile.h), tile.query, there, call.size);
    const int pair = static_cast<int>(threadIdx.x) * 2;  // 16 bytes
    if (pair < kMet) {
      copy_async(stats + stage * kMet + pair, in.stats_of(task.b, tile.h) + tile.query + pair,
                 true);
    }
  };
  load_rows<Tile::kOwned, kDepth, Tile::kThreads>(k_rows, in.k.rows(task.b, task.h), key,
                                                  {key, end}, call.size);
  load_rows<Tile::kOwned, kDepth, Tile::kThreads>(v_rows, in.v.rows(task.b, task.h), key,
                                                  {key, end}, call.size);
  at.begin();
  if (!at.done()) fetch(at, 0);
  copy_async_commit();
  for (int stage = 0; !at.done(); stage ^= 1) {
    const int h = at.h, query = at.query, query_end = at.end();
    at.next();
    copy_async_wait<0>();
    // All threads' copies are there, and all are done with the other stage.
    __syncthreads();
    if (!at.done()) fetch(at, stage ^ 1);
    copy_async_commit();
    // None of these queries has come to the warp's keys.
    if (warp_key >= query_end + call.offset || warp_key >= end) continue;

    const Span every = call.seen_by_every(task.b, query, query_end);
    const bool masked = warp_key < every.begin || warp_key + 16 > every.end;
    const bf16* const q_tile = q_rows + stage * kMet * kPitch;
    const bf16* const do_tile = do_rows + stage * kMet * kPitch;
    float p[1][kMet / 8][4], ds[1][kMet / 8][4];
    clear(p);
    add_row_products<kDepth>(p, k_rows + 16 * warp_index() * kPitch, q_tile);
    clear(ds);
    add_row_products<kDepth>(ds, v_rows + 16 * warp_index() * kPitch, do_tile);
#pragma unroll
    for (int n = 0; n < kMet / 8; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int row = 8 * n + fragment_column() + e;
        const auto own = stats[stage * kMet + row];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float &x = p[0][n][2 * half + e], &slope = ds[0][n][2 * half + e];
          const int at_key = warp_key + 8 * half + fragment_row();
          const float probability = exp2_fast(x * scale - own.lse);
          float keep = 1.0f;
          if (kDrops) keep = call.keep<float>(task.b, h, query + row, at_key);
          x = probability * keep;
          slope = probability * (slope * keep - own.delta);
        }
      }
    }
    if (masked) {
#pragma unroll
      for (int n = 0; n < kMet / 8; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int at_query = query + 8 * n + fragment_column() + e;
          const Span seen = at_query < query_end ? call.seen_by(task.b, at_query) : Span{0, 0};
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            if (!seen.holds(warp_key + 8 * half + fragment_row())) {
              p[0][n][2 * half + e] = ds[0][n][2 * half + e] = 0.0f;
            }
          }
        }
      }
    }
    add_column_products<kDepth>(dv_sums, p, do_tile + column);
    add_column_products<kDepth>(dk_sums, ds, q_tile + column);
  }
  copy_async_wait<0>();
  put_fragments(dk, dk_sums, task.b, task.h, warp_key, end, column, call.size,
                static_cast<float>(call.scale));
  put_fragments(dv, dv_sums, task.b, task.h, warp_key, end, column, call.size, 1.0f);
}

template <int kDepth, bool kDrops>
__global__ void __launch_bounds__(BackwardTile<kDepth>::kThreads, 1)
    backward_queries(Output dq, BackwardInput in, int tiles) {
  using Tile = BackwardTile<kDepth>;
  constexpr int kMet = Tile::kMet, kPitch = Tile::kPitch;
  const auto& call = in.call;
  bf16* const q_rows = reinterpret_cast<bf16*>(dynamic_shared());
  bf16* const do_rows = q_rows + Tile::kOwned * kPitch;
  bf16* const k_rows = do_rows + Tile::kOwned * kPitch;
  bf16* const v_rows = k_rows + 2 * kMet * kPitch;

  const TileTask task(tiles, call.sequences, call.heads, 1, /*backwards=*/true);
  const int first = task.tile * Tile::kOwned, kv_head = task.h / call.group;
  const int end = first + Tile::kOwned < call.queries ? first + Tile::kOwned : call.queries;
  const int warp_first = first + 16 * warp_index();
  const int warp_end = call.clamped(warp_first + 16 + call.offset);
  const float scale = static_cast<float>(call.scale) * kLog2E;
  const Span all = call.seen_by_some(task.b, first, end);
  const Span every = call.seen_by_every(task.b, first, end);
  RowStats<float> own[2];
  for (int half = 0; half < 2; ++half) {
    const int query = warp_first + 8 * half + fragment_row();
    own[half] = in.stats_of(task.b, task.h)[query];  // padded to whole tiles
  }
  float sums[1][kDepth / 8][4];
  clear(sums);

  const auto fetch = [&](int key, int stage) {
    const Span part = all.within(key, key + kMet);
    load_rows<kMet, kDepth, Tile::kThreads>(k_rows + stage * kMet * kPitch,
                                            in.k.rows(task.b, kv_head), key, part, call.size);
    load_rows<kMet, kDepth, Tile::kThreads>(v_rows + stage * kMet * kPitch,
                                            in.v.rows(task.b, kv_head), key, part, call.size);
  };
  load_rows<Tile::kOwned, kDepth, Tile::kThreads>(q_rows, in.q.rows(task.b, task.h), first,
                                                  {first, end}, call.size);
  load_rows<Tile::kOwned, kDepth, Tile::kThreads>(do_rows, in.d_o.rows(task.b, task.h), first,
                                                  {first, end}, call.size);
  int key = all.begin / kMet * kMet;
  if (key < all.end) fetch(key, 0);
  copy_async_commit();
  for (int stage = 0; key < all.end; key += kMet, stage ^= 1) {
    copy_async_wait<0>();
    __syncthreads();
    if (key + kMet < all.end) fetch(key + kMet, stage ^ 1);
    copy_async_commit();
    if (key >= warp_end) continue;

    const bool masked = key < every.begin || key + kMet > every.end;
    const bf16* const k_tile = k_rows + stage * kMet * kPitch;
    float p[1][kMet / 8][4], ds[1][kMet / 8][4];
    clear(p);
    add_row_products<kDepth>(p, q_rows + 16 * warp_index() * kPitch, k_tile);
    clear(ds);
    add_row_products<kDepth>(ds, do_rows + 16 * warp_index() * kPitch,
                             v_rows + stage * kMet * kPitch);
#pragma unroll
    for (int n = 0; n < kMet / 8; ++n) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int at_key = key + 8 * n + fragment_column();
        auto keep = make_float2(1.0f, 1.0f);
        if (kDrops) {
          keep = call.keep_pair(task.b, task.h, warp_first + 8 * half + fragment_row(), at_key);
        }
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& slope = ds[0][n][2 * half + e];
          const float probability = exp2_fast(p[0][n][2 * half + e] * scale - own[half].lse);
          slope = probability * (slope * (e == 0 ? keep.x : keep.y) - own[half].delta);
        }
      }
    }
    if (masked) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int query = warp_first + 8 * half + fragment_row();
        const Span seen = query < end ? call.seen_by(task.b, query) : Span{0, 0};
#pragma unroll
        for (int n = 0; n < kMet / 8; ++n) {
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            if (!seen.holds(key + 8 * n + fragment_column() + e)) ds[0][n][2 * half + e] = 0.0f;
          }
        }
      }
    }
    add_column_products<kDepth>(sums, ds, k_tile);
  }
  copy_async_wait<0>();
  put_fragments(dq, sums, task.b, task.h, warp_first, end, 0, call.size,
                static_cast<float>(call.scale));
}

}  // namespace

void attention_backward_tensor_cores(const BackwardOperands& call, Workspace& workspace,
                                     comm::GpuStream stream) {
  const auto &q = call.q, &k = call.k;
  const auto prepared =
      prepare_attention(q, k, call.shape, call.dropout, sizeof(RowStats<float>), workspace, stream);
  launch_row_stats(prepared, call, 1.4426950408889634, stream);
  const BackwardInput in{input<bf16>(call.d_o),
                         input<bf16>(q),
                         input<bf16>(k),
                         input<bf16>(call.v),
                         static_cast<const RowStats<float>*>(prepared.stats),
                         prepared.call};
  const auto to = [&](const TensorView& x) { return output(x, DType::kBF16, call.accumulate); };
  const bool drops = call.dropout.rate > 0.0;
  with_depth(q.dim(3), [&]<int kDepth>() {
    using Tile = BackwardTile<kDepth>;
    static_assert(Tile::kShared <= tensor_core_shared(kDepth));
    if (k.elements() > 0) {
      const auto tiles = ceil_div(k.dim(1), Tile::kOwned);
      launch("attention_backward_keys",
             drops ? backward_keys<kDepth, true> : backward_keys<kDepth, false>,
             dim3(blocks_of(tiles * k.dim(0) * k.dim(2) * Tile::kSlices)), dim3(Tile::kThreads),
             Tile::kShared, stream, to(call.dk), to(call.dv), in, tiles);
    }
    if (q.elements() > 0) {
      const auto tiles = ceil_div(q.dim(1), Tile::kOwned);
      launch("attention_backward_queries",
             drops ? backward_queries<kDepth, true> : backward_queries<kDepth, false>,
             dim3(blocks_of(tiles * q.dim(0) * q.dim(2))), dim3(Tile::kThreads),
             Tile::kShared - Tile::kStats, stream, to(call.dq), in, tiles);
    }
  });
}

}  // namespace pg::model::cuda

// Forward attention in bf16 by tensor cores (Dao 2023, FlashAttention-2): a block of four warps
// owns 128 queries, each warp 32 of them, so that a matrix of keys or values read from shared
// memory serves two products. While a tile of 64 keys is worked on, the next one is on its way.
// Probabilities are powers of two: scores are scaled, by a positive number, in the exponent.
#include <limits>

#include "model/kernels/cuda/attention_mma.cuh"
#include "model/kernels/cuda/attention_prepare.cuh"

namespace pg::model::cuda {

namespace {

template <int kDepth>
struct ForwardTile {
  static constexpr int kM = kDepth <= 128 ? 2 : 1;  // registers for 16 kM rows of output a warp
  static constexpr int kWarps = 4, kThreads = 32 * kWarps;
  static constexpr int kWarpQueries = 16 * kM, kQueries = kWarps * kWarpQueries;
  static constexpr int kKeys = 64;
  static constexpr int kPitch = kRowPitch<kDepth>;
  static constexpr std::size_t kShared = (kQueries + 4 * kKeys) * kPitch * sizeof(bf16);
};

template <int kDepth, bool kDrops>
__global__ void __launch_bounds__(ForwardTile<kDepth>::kThreads, kDepth <= 128 ? 2 : 1)
    forward(Output o, float* lse, std::int64_t lse_sequence, std::int64_t lse_head, Input<bf16> q,
            Input<bf16> k, Input<bf16> v, AttentionCall call, int tiles) {
  using Tile = ForwardTile<kDepth>;
  constexpr int kM = Tile::kM, kKeys = Tile::kKeys, kPitch = Tile::kPitch;
  constexpr float kHidden = -std::numeric_limits<float>::infinity();
  bf16* const q_rows = reinterpret_cast<bf16*>(dynamic_shared());
  bf16* const k_rows = q_rows + Tile::kQueries * kPitch;
  bf16* const v_rows = k_rows + 2 * kKeys * kPitch;

  const TileTask task(tiles, call.sequences, call.heads, 1, /*backwards=*/true);
  const int first = task.tile * Tile::kQueries;
  const int end = first + Tile::kQueries < call.queries ? first + Tile::kQueries : call.queries;
  const Span all = call.seen_by_some(task.b, first, end);
  const Span every = call.seen_by_every(task.b, first, end);
  const auto keys = k.rows(task.b, task.h / call.group);
  const auto values = v.rows(task.b, task.h / call.group);
  const float scale = static_cast<float>(call.scale) * kLog2E;

  const int warp_first = first + warp_index() * Tile::kWarpQueries;
  // Later keys are seen by none of the warp's queries.
  const int warp_end = call.clamped(warp_first + Tile::kWarpQueries + call.offset);
  const auto query_of = [&](int m, int half) {
    return warp_first + 16 * m + 8 * half + fragment_row();
  };
  const auto seen_by = [&](int query) {
    return query < end ? call.seen_by(task.b, query) : Span{0, 0};
  };
  float top[kM][2], sum[kM][2], out[kM][kDepth / 8][4];
  for (int m = 0; m < kM; ++m) {
    for (int half = 0; half < 2; ++half) {
      top[m][half] = kHidden;
      sum[m][half] = 0.0f;
    }
  }
  clear(out);

  const auto fetch = [&](int key, int stage) {
    const Span part = all.within(key, key + kKeys);
    load_rows<kKeys, kDepth, Tile::kThreads>(k_rows + stage * kKeys * kPitch, keys, key, part,
                                             call.size);
    load_rows<kKeys, kDepth, Tile::kThreads>(v_rows + stage * kKeys * kPitch, values, key, part,
                                             call.size);
  };
  load_rows<Tile::kQueries, kDepth, Tile::kThreads>(q_rows, q.rows(task.b, task.h), first,
                                                    {first, end}, call.size);
  int key = all.begin / kKeys * kKeys;
  if (key < all.end) fetch(key, 0);
  copy_async_commit();
  for (int stage = 0; key < all.end; key += kKeys, stage ^= 1) {
    copy_async_wait<0>();
    // All threads' copies are there, and all are done with the other stage.
    __syncthreads();
    if (key + kKeys < all.end) fetch(key + kKeys, stage ^ 1);
    copy_async_commit();
    if (key >= warp_end) continue;

    float s[kM][kKeys / 8][4];
    clear(s);
    add_row_products<kDepth, kM>(s, q_rows + warp_index() * Tile::kWarpQueries * kPitch,
                                 k_rows + stage * kKeys * kPitch);
    const bool masked = key < every.begin || key + kKeys > every.end;
#pragma unroll
    for (int m = 0; m < kM; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        if (masked) {
          const Span seen = seen_by(query_of(m, half));
#pragma unroll
          for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
            for (int e = 0; e < 2; ++e) {
              if (!seen.holds(key + 8 * n + fragment_column() + e)) s[m][n][2 * half + e] = kHidden;
            }
          }
        }
        // fmaxf passes NaN by: the exponential brings it back.
        float newest = top[m][half];
#pragma unroll
        for (int n = 0; n < kKeys / 8; ++n) {
          newest = fmaxf(newest, fmaxf(s[m][n][2 * half], s[m][n][2 * half + 1]));
        }
#pragma unroll
        for (int lane = 2; lane > 0; lane /= 2) {
          newest = fmaxf(newest, __shfl_xor_sync(0xFFFFFFFFu, newest, lane));
        }
        // A query that has seen no key yet: any offset will do, but not infinity minus infinity.
        const float offset = newest == kHidden ? 0.0f : newest * scale;
        const float change = exp2_fast(top[m][half] * scale - offset);
        top[m][half] = newest;
        // A lane's own share: the row's sum is made at the end.
        float part = 0.0f;
#pragma unroll
        for (int n = 0; n < kKeys / 8; ++n) {
          float &x = s[m][n][2 * half], &y = s[m][n][2 * half + 1];
          x = exp2_fast(x * scale - offset);
          y = exp2_fast(y * scale - offset);
          part += x + y;
          if (kDrops) {
            const auto keep =
                call.keep_pair(task.b, task.h, query_of(m, half), key + 8 * n + fragment_column());
            x *= keep.x;
            y *= keep.y;
          }
        }
        sum[m][half] = sum[m][half] * change + part;
#pragma unroll
        for (int n = 0; n < kDepth / 8; ++n) {
          out[m][n][2 * half] *= change;
          out[m][n][2 * half + 1] *= change;
        }
      }
    }
    add_column_products<kDepth>(out, s, v_rows + stage * kKeys * kPitch);
  }
  copy_async_wait<0>();

#pragma unroll
  for (int m = 0; m < kM; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float total = sum[m][half];
      for (int lane = 2; lane > 0; lane /= 2) {
        total += __shfl_xor_sync(0xFFFFFFFFu, total, lane);
      }
      const int query = query_of(m, half);
      if (query >= end) continue;
      const bool none = seen_by(query).size() <= 0;
      // Only infinite operands make every score minus infinity: not to be taken for "sees none".
      if (total == 0.0f) total = std::numeric_limits<float>::quiet_NaN();
      const float factor = 1.0f / total;
      const auto row = o.offset(task.b, query, task.h);
#pragma unroll
      for (int n = 0; n < kDepth / 8; ++n) {
        const int d = 8 * n + fragment_column();
        if (d < call.size) {
          o.put_pair(row + d, none ? 0.0f : out[m][n][2 * half] * factor,
                     none ? 0.0f : out[m][n][2 * half + 1] * factor, d + 1 < call.size);
        }
      }
      if (fragment_column() == 0) {
        lse[task.b * lse_sequence + task.h * lse_head + query] =
            none ? kHidden : top[m][half] * scale * kLn2 + logf(total);
      }
    }
  }
}

}  // namespace

void attention_forward_tensor_cores(const ForwardOperands& call, Workspace& workspace,
                                    comm::GpuStream stream) {
  const auto& q = call.q;
  const auto prepared =
      prepare_attention(q, call.k, call.shape, call.dropout, 0, workspace, stream);
  with_depth(q.dim(3), [&]<int kDepth>() {
    using Tile = ForwardTile<kDepth>;
    static_assert(Tile::kShared <= tensor_core_shared(kDepth));
    const auto tiles = ceil_div(q.dim(1), Tile::kQueries);
    launch("attention_forward",
           call.dropout.rate > 0.0 ? forward<kDepth, true> : forward<kDepth, false>,
           dim3(blocks_of(tiles * q.dim(0) * q.dim(2))), dim3(Tile::kThreads), Tile::kShared,
           stream, output(call.o, DType::kBF16, false), call.lse.data<float>(), call.lse.stride(0),
           call.lse.stride(1), input<bf16>(q), input<bf16>(call.k), input<bf16>(call.v),
           prepared.call, tiles);
  });
}

}  // namespace pg::model::cuda

// Attention over sequences that are cut over a cp group, by the method of the deck. The rest of a
// layer knows nothing of it: packed q, k and v of this rank's positions go in, outputs of the same
// positions come out. With one cp rank all methods are the same single call.
//
// Letters: H and K heads of this tp rank, D their width, N = B*T tokens of this rank, S positions
// of a whole sequence. `site` names the probabilities' dropout.
#pragma once

#include <string>

#include "model/layers/context.h"

namespace pg::model {

// What backward reads.
struct AttentionSaved {
  TensorView qkv;  // [N, (H + 2K) D], q and k after rotation; ulysses: to_heads of it
  TensorView o;    // [N, H D]; ulysses: [B S, H/cp D]. Empty: to be made again, with lse and out
  TensorView lse;  // [B, H, T]; ulysses: [B, H/cp, S]
  TensorView out;  // [N, H D], o of this rank's positions: o itself but with ulysses
};

// The heads inside a packed [B*T, (H + 2K) D]: q[B,T,H,D], k and v[B,T,K,D].
struct Heads {
  TensorView q, k, v;
};
Heads split_heads(TensorView packed, std::int64_t sequences, std::int64_t heads,
                  std::int64_t kv_heads);

// Whether qkv goes through to_heads before `attend`.
bool attends_to_whole_sequences(const LayerContext& ctx);
// Whole sequences of this rank's share of the heads, on `arena`: [B S, (H/cp + 2K') D], K' = K/cp
// or, with fewer KV heads than cp, one that several ranks hold. Collective over cp.
TensorView to_heads(const LayerContext& ctx, Arena& arena, TensorView qkv);

// Pushes and fills o, lse and out. Collective over cp.
void attend(const LayerContext& ctx, Arena& arena, AttentionSaved& saved, const std::string& site);
// dqkv[N, (H + 2K) D] from d_out[N, H D]. Collective over cp.
void attend_backward(const LayerContext& ctx, TensorView dqkv, TensorView d_out,
                     const AttentionSaved& saved, const std::string& site);

// -- the methods, each in a file of its name -----------------------------------------------------
// x[B T, H D] as [B, T, H, D], whatever T and H are.
TensorView by_head(const LayerContext& ctx, TensorView x);
// The call's shape for queries from position `first_query` on, `queries` of them, and keys from
// `first_key` on.
AttentionShape attention_shape(const LayerContext& ctx, std::int64_t first_query,
                               std::int64_t queries, std::int64_t first_key);
namespace ring {
void forward(const LayerContext& ctx, AttentionSaved& saved, const Dropout& dropout);
void backward(const LayerContext& ctx, TensorView dqkv, TensorView d_out,
              const AttentionSaved& saved, const Dropout& dropout);
}  // namespace ring
namespace gathered {
void forward(const LayerContext& ctx, AttentionSaved& saved, const Dropout& dropout);
void backward(const LayerContext& ctx, TensorView dqkv, TensorView d_out,
              const AttentionSaved& saved, const Dropout& dropout);
}  // namespace gathered
namespace ulysses {
void forward(const LayerContext& ctx, AttentionSaved& saved, const Dropout& dropout);
void backward(const LayerContext& ctx, TensorView dqkv, TensorView d_out,
              const AttentionSaved& saved, const Dropout& dropout);
}  // namespace ulysses

// A step of the ring, and one call of it: queries of run `query` of this rank meet keys of run
// `key` of another. The ring and its test read the same list.
struct AttentionTile {
  SequenceRun query, key;
};
// What rank `rank` does with the keys of rank `from`: the pairs of runs of which some query sees
// some key, in the order of the keys.
std::vector<AttentionTile> ring_tiles(const std::vector<SequenceRun>& queries,
                                      const std::vector<SequenceRun>& keys, std::int64_t window);

}  // namespace pg::model

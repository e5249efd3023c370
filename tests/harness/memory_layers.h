// The activations of single layers on paper: what a block keeps for its backward and what it needs
// meanwhile, for memory_formula.h.
//
// Letters: B sequences of S positions, of which this rank has T = S / cp; N = B T tokens of a
// micro-batch, R = N / tp rows of the stream under sequence parallelism (else N), C hidden, H heads
// of D, q = H D / tp and kv = K D / tp the widths of the heads, F the feed-forward width over tp,
// w = F (GELU) or 2 F (SwiGLU), V vocabulary rows a rank, e bytes of an activation, a bytes of an
// accumulator. Of experts: E in all and L on this rank, X the width of one over tp, sent rows
// (token, expert) of this rank's tokens and arrived ones of its experts.
#pragma once

#include <cstdint>

#include "app/deck.h"
#include "comm/grid_shape.h"
#include "model/sharding.h"

namespace pg::testing {

// Each tensor rounded up to 64 bytes.
constexpr std::int64_t pad(std::int64_t bytes) {
  return (bytes + 63) / 64 * 64;
}

// Experts that are asked for evenly, or all of whose tokens come to this rank.
enum class Load { kEven, kMost };

struct Sizes {
  std::int64_t B, S, T, N, R, C, H, K, D, q, kv, F, w, V, V_most, e, a;
  std::int64_t cp, ep;
  model::ContextMethod method;
  bool sequence, tensor, dropout;
  std::int64_t E, L, X, wx, shared, sent, arrived;  // shared: width of the shared experts over tp
  bool drops, choice;

  bool rounds() const { return e != a; }
  bool by_heads() const { return cp > 1 && method == model::ContextMethod::kUlysses; }

  std::int64_t stream() const { return pad(R * C * e); }
  std::int64_t whole() const { return sequence ? pad(N * C * e) : 0; }  // gathered, or partial sums
  std::int64_t stats() const { return pad(2 * R * a); }
  std::int64_t qkv() const { return pad(N * (q + 2 * kv) * e); }
  std::int64_t keys(std::int64_t element) const { return pad(N * 2 * kv * element); }
  std::int64_t all_keys(std::int64_t element) const { return pad(B * S * 2 * kv * element); }
  std::int64_t hidden() const { return pad(N * F * e); }
  std::int64_t wide() const { return pad(N * w * e); }

  // KV heads of a rank that has whole sequences of H / cp heads: one that is shared with others if
  // there are too few.
  std::int64_t kv_of_part() const { return (K > cp ? K / cp : 1) * D; }
  std::int64_t qkv_of_part(std::int64_t element) const {
    return pad(B * S * (q / cp + 2 * kv_of_part()) * element);
  }
};

Sizes sizes_of(const app::Deck& deck, const model::Sharding& cut, Load load);

// Of a block: kept by each mode of recomputation; temporaries of forward, of forward again for
// backward alone (without the block's output), and of backward.
std::int64_t kept_of_block(const Sizes& s, bool experts, model::Recompute mode);
std::int64_t block_forward(const Sizes& s, bool experts, bool selective);
std::int64_t block_again(const Sizes& s, bool experts);
std::int64_t block_backward(const Sizes& s, bool experts, bool selective);

// Temporaries of the final norm, the head and the loss, forward and backward.
std::int64_t head(const Sizes& s, int tp);

}  // namespace pg::testing

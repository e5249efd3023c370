#include "harness/memory_layers.h"

#include <algorithm>
#include <cmath>

namespace pg::testing {

namespace {

using model::ContextMethod;
using model::Recompute;

std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}

// Tokens of a sequence that one expert takes: of expert choice exactly, else at most.
std::int64_t capacity(const model::MoeConfig& moe, std::int64_t seq, bool choice) {
  if (!choice && moe.capacity_factor == 0.0) return seq;
  const double even = static_cast<double>(moe.top_k * seq) / static_cast<double>(moe.experts);
  const double tokens = std::ceil((choice ? 1.0 : moe.capacity_factor) * even - 1e-9);
  return std::clamp<std::int64_t>(static_cast<std::int64_t>(tokens), 1, seq);
}

void add_experts(Sizes& s, const model::MoeConfig& moe, const model::Sharding& cut, bool gated,
                 Load load) {
  s.E = moe.experts;
  s.L = moe.experts / cut.ep;
  s.X = moe.ffn / cut.tp;
  s.wx = gated ? 2 * s.X : s.X;
  s.shared = moe.shared_experts * moe.ffn / cut.tp;
  s.choice = moe.router == model::RouterKind::kExpertChoice;
  s.drops = !s.choice && moe.capacity_factor > 0.0;
  // Of each sequence the positions of this rank may be those that an expert takes. A token goes to
  // top_k different experts, and to no more than there are on a rank.
  const auto taken = capacity(moe, s.S, s.choice);
  const auto from_here = s.B * std::min(taken, s.T);
  const auto most_sent = s.choice ? s.E * from_here : std::min(moe.top_k * s.N, s.E * from_here);
  const auto most_arrived =
      cut.ep *
      (s.choice ? s.L * from_here : std::min(std::min(moe.top_k, s.L) * s.N, s.L * from_here));
  const auto even = s.choice ? ceil_div(s.B * s.E * taken, s.cp) : moe.top_k * s.N;
  s.sent = load == Load::kMost ? most_sent : std::min(even, most_sent);
  s.arrived = load == Load::kMost ? most_arrived : std::min(even, most_arrived);
}

}  // namespace

Sizes sizes_of(const app::Deck& deck, const model::Sharding& cut, Load load) {
  const auto& m = deck.model;
  const bool gated = m.activation == model::Activation::kSwiGlu;
  Sizes s{};
  s.sequence = cut.sequence;
  s.tensor = cut.tp > 1;
  s.dropout = m.dropout > 0.0;
  s.method = deck.context.method;
  s.cp = cut.cp;
  s.ep = cut.ep;
  s.B = deck.train.micro_batch;
  s.S = deck.train.seq;
  s.T = s.S / s.cp;
  s.N = s.B * s.T;
  s.R = cut.sequence ? s.N / cut.tp : s.N;
  s.C = m.hidden;
  s.H = m.heads / cut.tp;
  s.K = std::max<std::int64_t>(1, m.kv_heads / cut.tp);
  s.D = m.head_dim;
  s.q = s.H * s.D;
  s.kv = s.K * s.D;
  s.F = m.ffn / cut.tp;
  s.w = gated ? 2 * s.F : s.F;
  s.V_most = ceil_div(m.vocab, cut.tp);
  s.V = m.vocab / cut.tp + (cut.tp_rank < m.vocab % cut.tp ? 1 : 0);
  s.e = static_cast<std::int64_t>(dtype_size(deck.run.precision));
  s.a = deck.run.precision == DType::kF64 ? 8 : 4;
  if (m.moe.experts > 0) add_experts(s, m.moe, cut, gated, load);
  return s;
}

namespace {

// -- attention ----------------------------------------------------------------------------------

// q, k and v: of this rank's positions with its heads, or of all positions with a part of them.
std::int64_t kept_qkv(const Sizes& s) {
  return s.by_heads() ? s.qkv_of_part(s.e) : s.qkv();
}

// The output and its log-sum-exp; by heads the output is kept both ways.
std::int64_t out(const Sizes& s) {
  return (s.by_heads() ? 2 : 1) * pad(s.N * s.q * s.e) + pad(s.N * s.H * s.a);
}

// An exchange of several sequences needs them in another order first, or afterwards.
std::int64_t reordered(const Sizes& s, std::int64_t bytes) {
  return s.B > 1 ? bytes : 0;
}

std::int64_t method_forward(const Sizes& s) {
  if (s.cp == 1) return 0;
  const auto outputs = pad(s.N * s.q * s.e);
  switch (s.method) {
    case ContextMethod::kRing:
      // Keys and values that are here and that come, and the result of half the queries to be
      // merged.
      return (s.rounds() ? pad(s.N * s.q * s.a) : 0) + 2 * s.keys(s.e) + pad(s.N / 2 * s.q * s.a) +
             pad(s.N / 2 * s.H * s.a);
    case ContextMethod::kAllGather:
      return 2 * s.all_keys(s.e);  // as they come, and in order
    case ContextMethod::kUlysses:
      return outputs + reordered(s, outputs);
  }
  return 0;
}

std::int64_t method_backward(const Sizes& s) {
  if (s.cp == 1) return 0;
  const auto exact_queries = s.rounds() ? pad(s.N * s.q * s.a) : 0;
  const auto outputs = pad(s.N * s.q * s.e);
  switch (s.method) {
    case ContextMethod::kRing:
      // Besides the keys, gradients that leave and that come, and from the third rank on a rank's
      // share of those that come.
      return 2 * s.keys(s.e) + (s.cp > 2 ? 3 : 2) * s.keys(s.a) + exact_queries +
             (s.rounds() ? s.keys(s.a) : 0);
    case ContextMethod::kAllGather:
      return exact_queries + s.all_keys(s.a) + std::max(2 * s.all_keys(s.e), s.all_keys(s.a));
    case ContextMethod::kUlysses: {
      const auto gradients = s.qkv_of_part(s.K < s.cp ? s.a : s.e);
      return gradients +
             std::max(2 * outputs + reordered(s, outputs), gradients + reordered(s, gradients));
    }
  }
  return 0;
}

std::int64_t attention_forward(const Sizes& s, bool selective) {
  const auto sent = s.qkv_of_part(s.e);
  const auto to_heads = s.by_heads() ? sent + reordered(s, sent) : 0;
  const auto attend = (selective ? out(s) : 0) + std::max(method_forward(s), s.whole());
  return (selective ? s.stream() : 0) + (s.by_heads() ? s.qkv() : 0) +
         std::max({s.whole(), to_heads, attend});
}

std::int64_t attention_backward(const Sizes& s, bool selective) {
  const auto again = selective ? method_forward(s) : 0;
  const auto d_o = pad(s.N * s.q * s.e);
  const auto inner = std::max(again, d_o + std::max(s.whole(), method_backward(s)));
  return s.qkv() + std::max((selective ? out(s) : 0) + inner, 2 * s.whole());
}

// -- feed-forward, dense and with experts -------------------------------------------------------

// SwiGLU's gradient has an intermediate, GELU's is made in place; what was dropped is made again.
std::int64_t mlp_backward(const Sizes& s, bool selective) {
  const int hiddens = (s.w > s.F ? 1 : 0) + (selective ? 1 : 0);
  return s.wide() + std::max(hiddens * s.hidden() + s.whole(), 2 * s.whole());
}

std::int64_t sent(const Sizes& s) {
  return pad(s.sent * s.C * s.e);
}
std::int64_t arrived(const Sizes& s) {
  return pad(s.arrived * s.C * s.e);
}
// Rows of several experts are put in order behind one exchange, and back before the other.
std::int64_t sorted(const Sizes& s) {
  return s.ep > 1 && s.L > 1 ? arrived(s) : 0;
}
std::int64_t shared_width(const Sizes& s) {
  return s.wx == s.X ? s.shared : 2 * s.shared;
}

std::int64_t kept_of_experts(const Sizes& s, bool selective) {
  const auto of_tokens = pad(s.N * s.E * s.a);
  // Probabilities and gates, their normalisers, who was chosen and who is kept, sums of whole
  // sequences.
  const auto routing = 2 * of_tokens + pad(s.N * s.a) + (s.drops ? 2 : 1) * pad(s.N * s.E) +
                       pad(s.B * (2 * s.E + 1) * 8);
  const auto rows = pad(s.N * s.E * 4) + sent(s) + arrived(s) + pad(s.arrived * s.wx * s.e) +
                    (selective ? 0 : pad(s.arrived * s.X * s.e));
  const auto shared =
      pad(s.N * shared_width(s) * s.e) + (selective ? 0 : pad(s.N * s.shared * s.e));
  return routing + rows + shared;
}

// Without the moves of the stream.
std::int64_t experts_forward(const Sizes& s, bool selective) {
  const auto runs = s.cp > 1 && s.method != ContextMethod::kUlysses ? 2 : 1;
  auto router = pad(s.N * s.E * s.a);
  if (s.choice && s.cp > 1) {  // the whole sequence's, as it comes and in order, and the choice
    router = std::max(router, 2 * pad(s.B * s.S * s.E * s.a) + pad(s.B * s.S * s.E));
  } else if (s.drops) {  // counts of every run
    router = std::max(router, pad(s.cp * runs * s.B * s.E * 8) + pad(s.B * s.E * 8));
  }
  const auto dispatch = s.ep > 1 ? sent(s) + sorted(s) : 0;
  const auto products =
      (s.ep > 1 ? arrived(s) : 0) + std::max(selective ? pad(s.arrived * s.X * s.e) : 0, sorted(s));
  const auto shared = selective ? pad(s.N * s.shared * s.e) : 0;
  return std::max({router, dispatch, products, shared});
}

std::int64_t experts_backward(const Sizes& s, bool selective) {
  const int hiddens = selective ? 2 : 1, of_shared = (s.wx > s.X ? 1 : 0) + (selective ? 1 : 0);
  const auto shared = pad(s.N * shared_width(s) * s.e) + of_shared * pad(s.N * s.shared * s.e);
  const auto products = pad(s.arrived * s.wx * s.e) + hiddens * pad(s.arrived * s.X * s.e);
  const auto rows = sent(s) + (s.ep > 1 ? arrived(s) : 0) + std::max(products, sorted(s));
  const auto router = 3 * pad(s.N * s.E * s.a);
  return 3 * s.whole() + std::max({shared, rows, router});
}

}  // namespace

// Two residuals with statistics, two normalised inputs, attention's tensors and those of the
// feed-forward layer; selective recomputation drops what is cheap to make again (Korthikanti et al.
// 2022); full keeps the block's input alone (Chen et al. 2016).
std::int64_t kept_of_block(const Sizes& s, bool experts, Recompute mode) {
  if (mode == Recompute::kFull) return s.stream();
  const bool selective = mode == Recompute::kSelective;
  const auto feed =
      experts ? kept_of_experts(s, selective) : s.wide() + (selective ? 0 : s.hidden());
  return 2 * s.stream() + 2 * s.stats() + kept_qkv(s) + feed +
         (selective ? 0 : 2 * s.stream() + out(s));
}

std::int64_t block_forward(const Sizes& s, bool experts, bool selective) {
  const auto feed = experts ? 2 * s.whole() + experts_forward(s, selective)
                            : s.whole() + (selective ? s.hidden() : 0);
  return std::max(attention_forward(s, selective), (selective ? s.stream() : 0) + feed);
}

std::int64_t block_again(const Sizes& s, bool experts) {
  const auto feed = s.whole() + (experts ? experts_forward(s, false) : 0);
  return std::max(attention_forward(s, false), feed);
}

// Both halves: the gradients of the branch's input and of its wide tensor, beside the larger of
// what the second product needs and what the first does (two gathered streams).
std::int64_t block_backward(const Sizes& s, bool experts, bool selective) {
  const auto inputs = s.stream() + (s.dropout ? s.stream() : 0) + (selective ? s.stream() : 0);
  const auto feed = experts ? experts_backward(s, selective) : mlp_backward(s, selective);
  return inputs + std::max(feed, attention_backward(s, selective));
}

// Logits in equal runs of at most 64 MiB, their gradient beside them when it is narrower; under tp
// three fp64 numbers a token of every rank, and two of all.
std::int64_t head(const Sizes& s, int tp) {
  const auto most = std::max<std::int64_t>(1, (std::int64_t{64} << 20) / (s.V_most * s.a));
  const auto rows = ceil_div(s.N, ceil_div(s.N, most));
  const auto logits = pad(rows * s.V * s.a) + (s.rounds() ? pad(rows * s.V * s.e) : 0);
  const auto merged = s.tensor ? pad(tp * rows * 3 * 8) + pad(rows * 2 * 8) : 0;
  return 3 * s.stream() + s.stats() + pad(s.N * 8) + 2 * s.whole() + logits + merged;
}

}  // namespace pg::testing

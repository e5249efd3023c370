#include "harness/memory_formula.h"

#include <algorithm>

#include "comm/error.h"

namespace pg::testing {

namespace {

using model::Recompute;

constexpr std::int64_t pad(std::int64_t bytes) {
  return (bytes + 63) / 64 * 64;
}

std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}

// The letters of the header, and bytes of the tensors that occur more than once.
struct Sizes {
  std::int64_t N, R, C, q, kv, F, w, H, V, V_most, e, a;
  bool sequence, tensor, dropout;

  std::int64_t stream() const { return pad(R * C * e); }
  std::int64_t whole() const { return sequence ? pad(N * C * e) : 0; }  // gathered, or partial sums
  std::int64_t stats() const { return pad(2 * R * a); }
  std::int64_t qkv() const { return pad(N * (q + 2 * kv) * e); }
  std::int64_t out() const { return pad(N * q * e) + pad(N * H * a); }  // and log-sum-exp
  std::int64_t wide() const { return pad(N * w * e); }
  std::int64_t hidden() const { return pad(N * F * e); }
};

// A block keeps two residuals with statistics, two normalised inputs, q k v, attention's output
// and the two feed-forward tensors; selective recomputation drops what is cheap to make again
// (Korthikanti et al. 2022); full keeps the block's input alone (Chen et al. 2016).
std::int64_t kept_of_block(const Sizes& s, Recompute mode) {
  if (mode == Recompute::kFull) return s.stream();
  const auto least = 2 * s.stream() + 2 * s.stats() + s.qkv() + s.wide();
  return mode == Recompute::kSelective ? least : least + 2 * s.stream() + s.out() + s.hidden();
}

std::int64_t block_forward(const Sizes& s, bool selective) {
  const auto attention = selective ? s.stream() + s.out() : 0;
  const auto mlp = selective ? s.stream() + s.hidden() : 0;
  return std::max(attention, mlp) + s.whole();
}

// Both halves: the gradients of the branch's input and of its wide tensor, beside the larger of
// what the second product needs and what the first does (two gathered streams).
std::int64_t block_backward(const Sizes& s, bool selective) {
  const auto inputs = s.stream() + (s.dropout ? s.stream() : 0) + (selective ? s.stream() : 0);
  const auto mlp = s.wide() + std::max((selective ? 2 : 1) * s.hidden() + s.whole(), 2 * s.whole());
  const auto d_o = pad(s.N * s.q * s.e);
  const auto attention =
      s.qkv() + std::max((selective ? s.out() : 0) + d_o + s.whole(), 2 * s.whole());
  return inputs + std::max(mlp, attention);
}

// Logits in equal runs of at most 64 MiB, their gradient beside them when it is narrower; under tp
// three fp64 numbers a token of every rank, and two of all.
std::int64_t head(const Sizes& s, int tp) {
  const auto most = std::max<std::int64_t>(1, (std::int64_t{64} << 20) / (s.V_most * s.a));
  const auto rows = ceil_div(s.N, ceil_div(s.N, most));
  const auto logits = pad(rows * s.V * s.a) + (s.e == s.a ? 0 : pad(rows * s.V * s.e));
  const auto merged = s.tensor ? pad(tp * rows * 3 * 8) + pad(rows * 2 * 8) : 0;
  return 3 * s.stream() + s.stats() + pad(s.N * 8) + 2 * s.whole() + logits + merged;
}

Sizes sizes_of(const app::Deck& deck, const model::Sharding& cut) {
  const auto& m = deck.model;
  Sizes s{};
  s.sequence = cut.sequence;
  s.tensor = cut.tp > 1;
  s.dropout = m.dropout > 0.0;
  s.N = deck.train.micro_batch * deck.train.seq;
  s.R = cut.sequence ? s.N / cut.tp : s.N;
  s.C = m.hidden;
  s.H = m.heads / cut.tp;
  s.q = s.H * m.head_dim;
  s.kv = std::max<std::int64_t>(1, m.kv_heads / cut.tp) * m.head_dim;
  s.F = m.ffn / cut.tp;
  s.w = m.activation == model::Activation::kSwiGlu ? 2 * s.F : s.F;
  s.V_most = ceil_div(m.vocab, cut.tp);
  s.V = m.vocab / cut.tp + (cut.tp_rank < m.vocab % cut.tp ? 1 : 0);
  s.e = static_cast<std::int64_t>(dtype_size(deck.run.precision));
  s.a = deck.run.precision == DType::kF64 ? 8 : 4;
  return s;
}

void add_parameters(MemoryFormula& f, const app::Deck& deck, const model::Sharding& cut,
                    const model::StagePart& part, const Sizes& s) {
  const auto& m = deck.model;
  const std::int64_t bias = m.bias ? 1 : 0;
  const auto norm = s.C * (m.bias && m.norm == model::NormKind::kLayerNorm ? 2 : 1);
  const auto table = s.V_most * s.C;
  const auto heads = s.q + 2 * s.kv;
  const auto block = 2 * norm + heads * (s.C + bias) + s.C * (s.q + bias) + s.w * (s.C + bias) +
                     s.C * (s.F + bias);
  const bool learned = m.position == model::PositionKind::kLearned;
  const bool tokens = part.embeds || (part.head && m.tie_embeddings);
  const bool own_head = part.head && !m.tie_embeddings;

  double all = static_cast<double>(part.layers * block), used = 0;
  f.places = part.layers;
  used += static_cast<double>(std::min<std::int64_t>(2, part.layers) * block);
  f.slot_places = std::min<std::int64_t>(2, part.layers);
  const auto add = [&](std::int64_t elements, bool has_slot) {
    all += static_cast<double>(elements);
    f.places += 1;
    if (!has_slot) return;
    used += static_cast<double>(elements);
    f.slot_places += 1;
  };
  // A head's own table is larger by the final norm, and shares the slot of the tokens'.
  if (tokens) add(table, !own_head);
  if (part.head) add(norm + (own_head ? table : 0), true);
  if (part.embeds && learned) add(m.max_seq * s.C, true);

  const auto e = static_cast<double>(s.e), a = static_cast<double>(s.a);
  const double n = cut.zero > 0 ? cut.replicas : 1;
  const int zero = n > 1 ? cut.zero : 0;  // one replica shares nothing out
  const bool apart = s.e != s.a;          // masters beside rounded weights
  f.weights = zero < 3 ? e * all : apart ? 0.0 : a * all / n;
  f.master = apart ? a * all / n : 0.0;
  f.moments = 2 * a * all / n;
  f.gradients = zero < 2 ? a * all : a * all / n;
  f.slots = (zero >= 2 ? a * used : 0.0) + (zero >= 3 ? e * used : 0.0);
}

}  // namespace

MemoryFormula memory_formula(const app::Deck& deck, const comm::GridShape& grid,
                             const model::ParamLayout& layout) {
  const auto& cut = layout.sharding();
  PG_ASSERT(cut.chunks == 1, "no formula for {} chunks", cut.chunks);
  const auto& part = layout.parts().front();
  const auto s = sizes_of(deck, cut);
  MemoryFormula f;
  add_parameters(f, deck, cut, part, s);

  const auto micro_batches =
      deck.train.global_batch / (grid.size(comm::kBatch) * deck.train.micro_batch);
  const auto live = cut.pp > 1 && deck.pipeline.schedule == model::ScheduleKind::kGPipe
                        ? micro_batches
                        : std::min<std::int64_t>(micro_batches, cut.pp - cut.stage);
  std::int64_t slot = part.head ? s.stream() : 0;  // the gradient at the head's input
  std::int64_t backward = part.embeds ? s.whole() : 0;
  auto forward = backward;
  bool full = false;
  for (auto i = part.first_layer; i < part.first_layer + part.layers; ++i) {
    const bool planned = deck.recompute.layers == 0 || i < deck.recompute.layers;
    const auto mode = planned ? deck.recompute.mode : Recompute::kNone;
    const bool selective = mode == Recompute::kSelective;
    slot += kept_of_block(s, mode);
    full = full || mode == Recompute::kFull;
    forward = std::max(forward, block_forward(s, selective));
    const auto again = mode == Recompute::kFull ? s.stream() : 0;
    backward = std::max(
        backward,
        again + std::max(block_backward(s, selective),
                         mode == Recompute::kFull ? block_forward(s, false) : std::int64_t{0}));
  }
  if (part.head) forward = std::max(forward, head(s, cut.tp));
  // The running branch of the stream, and with full recomputation its end.
  forward += (deck.recompute.mode == Recompute::kFull ? 2 : 1) * s.stream();

  f.kept = live * slot;
  f.scratch = std::max(forward, backward);
  f.recompute = full ? kept_of_block(s, Recompute::kNone) - s.stream() : 0;
  // One stream open and one still on its way, of each kind that the stage sends.
  if (cut.pp > 1) f.messages = (part.head ? 2 : 4) * s.stream();
  return f;
}

}  // namespace pg::testing

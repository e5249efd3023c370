#include "harness/memory_formula.h"

#include <algorithm>
#include <array>

#include "comm/error.h"

namespace pg::testing {

namespace {

using model::Recompute;

// Elements of the parameters of one layer.
struct Elements {
  Elements(const app::Deck& deck, const Sizes& s) : m(deck.model) {
    const std::int64_t bias = m.bias ? 1 : 0;
    const auto feed = [&](std::int64_t wide, std::int64_t hidden) {
      return wide * (s.C + bias) + s.C * (hidden + bias);
    };
    norm = s.C * (m.bias && m.norm == model::NormKind::kLayerNorm ? 2 : 1);
    table = s.V_most * s.C;
    positions = m.max_seq * s.C;
    attention = (s.q + 2 * s.kv) * (s.C + bias) + s.C * (s.q + bias);
    mlp = feed(s.w, s.F);
    router = s.E * s.C;
    if (s.shared > 0) router += feed(s.wx == s.X ? s.shared : 2 * s.shared, s.shared);
    experts = s.L * feed(s.wx, s.X);
  }
  std::int64_t block(std::int64_t layer) const {
    return 2 * norm + attention + (m.has_experts(layer) ? router : mlp);
  }

  const model::ModelConfig& m;
  std::int64_t norm, table, positions, attention, mlp, router, experts;
};

void add_parameters(MemoryFormula& f, const app::Deck& deck, const model::Sharding& cut,
                    const model::StagePart& part, const Sizes& s) {
  const auto& m = deck.model;
  const Elements of(deck, s);
  // Neighbouring blocks take turns on two slots, and the experts of neighbouring blocks that have
  // any.
  std::array<std::int64_t, 2> blocks{}, experts{};
  double dense = 0, expert = 0, used = 0;
  std::int64_t expert_places = 0, expert_blocks = 0;
  const auto largest = [](std::int64_t& slot, std::int64_t elements) {
    slot = std::max(slot, elements);
  };
  for (auto i = part.first_layer; i < part.first_layer + part.layers; ++i) {
    dense += static_cast<double>(of.block(i));
    f.places += 1;
    largest(blocks[static_cast<std::size_t>(i % 2)], of.block(i));
    if (!m.has_experts(i)) continue;
    expert += static_cast<double>(of.experts);
    expert_places += 1;
    largest(experts[static_cast<std::size_t>(++expert_blocks % 2)], of.experts);
  }
  for (const auto slots : {blocks, experts}) {
    for (const auto elements : slots) {
      used += static_cast<double>(elements);
      f.slot_places += elements > 0 ? 1 : 0;
    }
  }

  const bool learned = m.position == model::PositionKind::kLearned;
  const bool tokens = part.embeds || (part.head && m.tie_embeddings);
  const bool own_head = part.head && !m.tie_embeddings;
  const auto add = [&](std::int64_t elements, bool has_slot) {
    dense += static_cast<double>(elements);
    f.places += 1;
    if (!has_slot) return;
    used += static_cast<double>(elements);
    f.slot_places += 1;
  };
  // A head's own table is larger by the final norm, and shares the slot of the tokens'.
  if (tokens) add(of.table, !own_head);
  if (part.head) add(of.norm + (own_head ? of.table : 0), true);
  if (part.embeds && learned) add(of.positions, true);

  const auto e = static_cast<double>(s.e), a = static_cast<double>(s.a);
  const double n = cut.zero > 0 ? cut.replicas : 1;
  const double n_experts = cut.zero > 0 ? cut.expert_replicas : 1;
  f.places_of_one = (n > 1 ? 0 : f.places) + (n_experts > 1 ? 0 : expert_places);
  f.places += expert_places;
  const auto all = dense + expert, pieces = dense / n + expert / n_experts;
  const int zero = n > 1 ? cut.zero : 0;  // one replica shares nothing out
  const bool apart = s.e != s.a;          // masters beside rounded weights
  f.weights = zero < 3 ? e * all : apart ? 0.0 : a * pieces;
  f.master = apart ? a * pieces : 0.0;
  f.moments = 2 * a * pieces;
  f.gradients = zero < 2 ? a * all : a * pieces;
  f.slots = (zero >= 2 ? a * used : 0.0) + (zero >= 3 ? e * used : 0.0);
  if (m.moe.bias_update > 0.0) f.master += a * static_cast<double>(expert_places * s.E);
}

}  // namespace

MemoryFormula memory_formula(const app::Deck& deck, const comm::GridShape& grid,
                             const model::ParamLayout& layout, Load load) {
  const auto& cut = layout.sharding();
  PG_ASSERT(cut.chunks == 1, "no formula for {} chunks", cut.chunks);
  const auto& part = layout.parts().front();
  const auto s = sizes_of(deck, cut, load);
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
  for (auto i = part.first_layer; i < part.first_layer + part.layers; ++i) {
    const bool experts = deck.model.has_experts(i);
    const bool planned = deck.recompute.layers == 0 || i < deck.recompute.layers;
    const auto mode = planned ? deck.recompute.mode : Recompute::kNone;
    const bool selective = mode == Recompute::kSelective;
    slot += kept_of_block(s, experts, mode);
    forward = std::max(forward, block_forward(s, experts, selective));
    auto all = block_backward(s, experts, selective);
    if (mode == Recompute::kFull) {
      all = s.stream() + std::max(all, block_again(s, experts));
      // Everything but its input, which is there.
      f.recompute = std::max(f.recompute, kept_of_block(s, experts, Recompute::kNone) - s.stream());
    }
    backward = std::max(backward, all);
  }
  if (part.head) forward = std::max(forward, head(s, cut.tp));
  // The running branch of the stream, and with full recomputation its end.
  forward += (deck.recompute.mode == Recompute::kFull ? 2 : 1) * s.stream();

  f.kept = live * slot;
  f.scratch = std::max(forward, backward);
  // One stream open and one still on its way, of each kind that the stage sends.
  if (cut.pp > 1) f.messages = (part.head ? 2 : 4) * s.stream();
  return f;
}

}  // namespace pg::testing

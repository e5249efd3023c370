#include "model/param_layout.h"

#include <algorithm>

#include "comm/error.h"

namespace pg::model {

namespace {

constexpr std::int64_t kPlaceAlignment = 32;  // elements: a cache line of bf16

std::int64_t round_up(std::int64_t n, std::int64_t unit) {
  return (n + unit - 1) / unit * unit;
}

ModelConfig share(ModelConfig c, int tp) {
  c.heads /= tp;
  c.kv_heads = std::max<std::int64_t>(1, c.kv_heads / tp);
  c.ffn /= tp;
  c.moe.ffn /= tp;
  return c;
}

}  // namespace

VocabRows vocab_rows(std::int64_t vocab, int tp, int rank) {
  const auto each = vocab / tp, more = vocab % tp;
  return {rank * each + std::min<std::int64_t>(rank, more), each + (rank < more ? 1 : 0),
          each + (more > 0 ? 1 : 0)};
}

ParamLayout::ParamLayout(const ModelConfig& config)
    : ParamLayout(config, Sharding{}, {StagePart{0, config.layers, true, true}}) {}

ParamLayout::ParamLayout(const ModelConfig& config, const Sharding& sharding,
                         std::vector<StagePart> parts)
    : table_(config),
      sharding_(sharding),
      parts_(std::move(parts)),
      rank_config_(share(config, sharding.tp)),
      tied_(config.tie_embeddings),
      place_(static_cast<std::size_t>(table_.places())),
      params_of_(static_cast<std::size_t>(table_.places())) {
  hold_places(config);
  // The second copy of a tied table, on the last stage.
  const bool copies_tokens = tied_ && sharding_.pp > 1 && sharding_.stage > 0;
  for (const auto& spec : table_.specs()) {
    auto& place = place_[static_cast<std::size_t>(spec.place)];
    auto part = cut(spec);
    if (spec.place == ParamTable::kTokenPlace && copies_tokens) part.counts = false;
    part.held = place.held && holds_expert(spec);
    part.offset = place.elements;
    if (!part.held) part.counts = false;
    part_.push_back(part);
    if (!part.held) continue;
    params_of_[static_cast<std::size_t>(spec.place)].push_back(part_.size() - 1);
    const auto allocated = spec.cut == TensorCut::kVocabRows
                               ? vocab_rows(spec.shape[0], sharding_.tp, 0).allocated * part.cols
                               : part.elements();
    place.elements += allocated;
  }
  for (std::int64_t p = 0; p < places(); ++p) {
    auto& place = place_[static_cast<std::size_t>(p)];
    if (!place.held) continue;
    place.piece = (place.elements + shards(p) - 1) / shards(p);
    place.begin = full_;
    place.shard_begin = shard_;
    full_ += round_up(place.piece * shards(p), kPlaceAlignment);
    shard_ += shards(p) == 1 ? round_up(place.piece, kPlaceAlignment) : place.piece;
  }
}

bool ParamLayout::holds_expert(const ParamSpec& spec) const {
  return spec.expert < 0 ||
         (spec.expert >= first_expert() && spec.expert < first_expert() + experts());
}

std::vector<std::int64_t> ParamLayout::expert_blocks() const {
  std::vector<std::int64_t> blocks;
  for (const auto& part : parts_) {
    for (auto i = part.first_layer; i < part.first_layer + part.layers; ++i) {
      if (rank_config_.has_experts(i)) blocks.push_back(i);
    }
  }
  return blocks;
}

void ParamLayout::hold_places(const ModelConfig& config) {
  const auto hold = [&](std::int64_t place) {
    place_[static_cast<std::size_t>(place)].held = true;
  };
  for (const auto& part : parts_) {
    if (part.embeds) {
      hold(ParamTable::kTokenPlace);
      if (config.position == PositionKind::kLearned) hold(ParamTable::position_place(config));
    }
    for (std::int64_t i = 0; i < part.layers; ++i) {
      const auto block = part.first_layer + i;
      hold(ParamTable::block_place(block));
      if (config.has_experts(block)) hold(ParamTable::experts_place(config, block));
    }
    if (part.head) {
      hold(ParamTable::head_place(config));
      if (config.tie_embeddings) hold(ParamTable::kTokenPlace);
    }
  }
}

ParamPart ParamLayout::cut(const ParamSpec& spec) const {
  const int tp = sharding_.tp, rank = sharding_.tp_rank;
  ParamPart part;
  part.rows = spec.shape[0];
  part.cols = spec.shape.size() == 2 ? spec.shape[1] : 1;
  part.counts = rank == 0;
  const auto divided = [&](std::int64_t n) {
    PG_ASSERT(n % tp == 0, "{} of {} over tp {}", n, spec.name, tp);
    return n / tp;
  };
  switch (spec.cut) {
    case TensorCut::kNone:
      break;
    case TensorCut::kRows:
      part.rows = divided(part.rows);
      part.row_begin = rank * part.rows;
      part.counts = true;
      break;
    case TensorCut::kCols:
      part.cols = divided(part.cols);
      part.col_begin = rank * part.cols;
      part.counts = true;
      break;
    case TensorCut::kKvRows: {
      const auto heads = part.rows / rank_config_.head_dim;
      const int copies = kv_copies(tp, heads);
      PG_ASSERT(heads * copies % tp == 0, "{} KV heads over tp {}", heads, tp);
      part.rows = heads * copies / tp * rank_config_.head_dim;
      part.row_begin = rank / copies * part.rows;
      part.counts = rank % copies == 0;
      break;
    }
    case TensorCut::kVocabRows: {
      const auto mine = vocab_rows(part.rows, tp, rank);
      PG_ASSERT(mine.rows > 0, "{} rows of {} over tp {}", part.rows, spec.name, tp);
      part.rows = mine.rows;
      part.row_begin = mine.begin;
      part.counts = true;
      break;
    }
  }
  return part;
}

ParamLayout::Kept ParamLayout::kept(std::size_t id) const {
  const auto& part = part_[id];
  if (!part.held) return {};
  const auto& range = place(table_[id].place);
  const auto begin = shard(table_[id].place) * range.piece - part.offset;
  const auto clamp = [&](std::int64_t at) {
    return std::clamp<std::int64_t>(at, 0, part.elements());
  };
  return {clamp(begin), clamp(begin + range.piece)};
}

int ParamLayout::slot_of(std::int64_t place) const {
  enum { kEvenBlocks, kOddBlocks, kTokens, kTiedHead, kPositions, kEvenExperts, kOddExperts };
  const auto head = ParamTable::head_place(rank_config_);
  if (place == ParamTable::kTokenPlace) return kTokens;
  if (place == head) return tied_ ? kTiedHead : kTokens;
  if (is_experts(place)) {
    const auto block = place - ParamTable::experts_place(rank_config_, 0);
    return block / rank_config_.moe.every % 2 == 0 ? kEvenExperts : kOddExperts;
  }
  if (place > head) return kPositions;
  return place % 2 == 1 ? kEvenBlocks : kOddBlocks;
}

std::int64_t ParamLayout::slot_elements(int slot) const {
  std::int64_t largest = 0;
  for (std::int64_t p = 0; p < places(); ++p) {
    if (place(p).held && slot_of(p) == slot) {
      largest = std::max(largest, place(p).piece * shards(p));
    }
  }
  return largest;
}

std::int64_t ParamLayout::slot_elements() const {
  std::int64_t all = 0;
  for (int slot = 0; slot < kSlots; ++slot) all += slot_elements(slot);
  return all;
}

}  // namespace pg::model

// Which part of each parameter this rank holds, and where in memory: pure arithmetic, no storage.
//
// A place's tensors lie behind one another in one flat range, padded at its end so that ZeRO cuts
// it into equal pieces, one a replica: at most one element a rank of waste in each place. (Besides,
// places begin on cache lines, and a vocabulary that tp does not divide leaves a row.) Copies of
// a place on different ranks (replicas, tp ranks, both ends of the pipeline) have the same layout,
// so gathers, scatters and sums move whole ranges.
#pragma once

#include <cstdint>
#include <vector>

#include "model/param_table.h"
#include "model/pipeline/stages.h"
#include "model/sharding.h"

namespace pg::model {

// This rank's part of one parameter: rows [row_begin, row_begin + rows) and columns likewise of the
// global tensor (a vector is one column).
struct ParamPart {
  bool held = false;
  std::int64_t row_begin = 0, rows = 0, col_begin = 0, cols = 0;
  std::int64_t offset = 0;  // of its first element in its place's range
  // Of several ranks with the same part (tp copies, a tied table's second stage) exactly one
  // counts: in norms, in the number of parameters, in checkpoints.
  bool counts = false;

  std::int64_t elements() const { return rows * cols; }
};

struct PlaceRange {
  bool held = false;
  std::int64_t elements = 0;     // without the padding
  std::int64_t piece = 0;        // of each ZeRO rank: elements / shards, rounded up
  std::int64_t begin = 0;        // in buffers that hold every element
  std::int64_t shard_begin = 0;  // in buffers that hold this rank's pieces
};

class ParamLayout {
 public:
  // `parts`: this rank's model chunks. Sizes that tp cuts must divide (the deck check sees to it).
  ParamLayout(const ModelConfig& config, const Sharding& sharding, std::vector<StagePart> parts);
  // The whole model on one rank.
  explicit ParamLayout(const ModelConfig& config);

  const ParamTable& table() const { return table_; }
  const Sharding& sharding() const { return sharding_; }
  const std::vector<StagePart>& parts() const { return parts_; }
  // The model as this rank's layers see it: heads, kv_heads, ffn and moe.ffn are this rank's.
  const ModelConfig& rank_config() const { return rank_config_; }
  bool tied() const { return tied_; }

  const ParamPart& part(std::size_t id) const { return part_[id]; }
  const PlaceRange& place(std::int64_t place) const {
    return place_[static_cast<std::size_t>(place)];
  }
  std::int64_t places() const { return table_.places(); }
  // Ids of what this rank holds of a place, in memory's order.
  const std::vector<std::size_t>& params_of(std::int64_t place) const {
    return params_of_[static_cast<std::size_t>(place)];
  }

  // ZeRO cuts a place into this many pieces (1 without ZeRO), of which this rank keeps one. Experts
  // have fewer replicas than the rest.
  int shards(std::int64_t place) const {
    if (sharding_.zero == 0) return 1;
    return is_experts(place) ? sharding_.expert_replicas : sharding_.replicas;
  }
  int shard(std::int64_t place) const {
    if (sharding_.zero == 0) return 0;
    return is_experts(place) ? sharding_.expert_replica : sharding_.replica;
  }
  bool is_experts(std::int64_t place) const {
    return ParamTable::is_experts_place(rank_config_, place);
  }
  // Whether any place is cut.
  bool cuts() const { return sharding_.zero > 0 && sharding_.replicas > 1; }
  // Whether weights (gradients) are kept in pieces, and whole only in a slot while in use. With one
  // replica there is nothing to share out, whatever the stage. (Experts of one replica go through
  // slots all the same when the rest does.)
  bool gathers_weights() const { return sharding_.zero >= 3 && cuts(); }
  bool scatters_grads() const { return sharding_.zero >= 2 && cuts(); }
  // Experts [first, first + count) of each block that has any are this rank's.
  std::int64_t first_expert() const { return sharding_.ep_rank * experts(); }
  std::int64_t experts() const { return rank_config_.moe.experts / sharding_.ep; }
  // Blocks of this rank's chunks that have experts, ascending.
  std::vector<std::int64_t> expert_blocks() const;
  // Elements [begin, end) of this rank's part of the parameter that lie in its piece.
  struct Kept {
    std::int64_t begin = 0, end = 0;
    std::int64_t elements() const { return end - begin; }
  };
  Kept kept(std::size_t id) const;

  std::int64_t full_elements() const { return full_; }    // every held place, padded
  std::int64_t shard_elements() const { return shard_; }  // this rank's pieces of them

  // Working memory for places whose parameters or gradients are only there while in use (ZeRO 2
  // and 3). Neighbouring blocks take turns on two slots, their experts on two more; a head's own
  // table takes the token table's slot, as the two are never in use together.
  static constexpr int kSlots = 7;
  int slot_of(std::int64_t place) const;
  std::int64_t slot_elements(int slot) const;  // of the largest held place in it, padded
  std::int64_t slot_elements() const;          // of all slots

 private:
  ParamPart cut(const ParamSpec& spec) const;
  bool holds_expert(const ParamSpec& spec) const;
  void hold_places(const ModelConfig& config);

  ParamTable table_;
  Sharding sharding_;
  std::vector<StagePart> parts_;
  ModelConfig rank_config_;
  bool tied_;
  std::vector<ParamPart> part_;
  std::vector<PlaceRange> place_;
  std::vector<std::vector<std::size_t>> params_of_;
  std::int64_t full_ = 0, shard_ = 0;
};

// Rows of a table of `vocab` that tp rank `rank` holds: the first vocab % tp ranks hold one more.
// Memory is laid out for the larger number on every rank.
struct VocabRows {
  std::int64_t begin = 0, rows = 0, allocated = 0;
};
VocabRows vocab_rows(std::int64_t vocab, int tp, int rank);

}  // namespace pg::model

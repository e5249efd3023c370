// This rank's part of each sequence, and the group of ranks that have the other parts. What the
// attention methods do with it stands in model/layers/context_attention.h.
#pragma once

#include <cstdint>
#include <vector>

#include "comm/group.h"
#include "model/optim/sabotage.h"
#include "model/sequence_parts.h"
#include "model/sharding.h"

namespace pg::model {

class ContextParallel {
 public:
  // `seq`: positions of a whole sequence.
  ContextParallel(const Sharding& sharding, comm::Group& group, std::int64_t seq)
      : method_(sharding.context), seq_(seq), group_(group) {
    for (int rank = 0; rank < group.size(); ++rank) {
      runs_.push_back(sequence_runs(method_, group.size(), rank, seq));
    }
  }

  // Of the negative controls: statistics that are not added up, others' chunks in a wrong order.
  void set_sabotage(const Sabotage& sabotage) {
    sabotage_ = sabotage;
    if (!sabotage.break_zigzag) return;
    for (auto& runs : runs_) {
      if (runs != this->runs()) std::swap(runs.front().row, runs.back().row);
    }
  }
  bool adds_statistics() const { return size() > 1 && !sabotage_.drop_statistics_sum; }

  ContextMethod method() const { return method_; }
  int size() const { return group_.size(); }
  int rank() const { return group_.rank(); }
  std::int64_t seq() const { return seq_; }  // of a whole sequence
  comm::Group& group() const { return group_; }
  const std::vector<SequenceRun>& runs() const { return runs_of(rank()); }
  const std::vector<SequenceRun>& runs_of(int rank) const {
    return runs_[static_cast<std::size_t>(rank)];
  }

 private:
  ContextMethod method_;
  std::int64_t seq_;
  comm::Group& group_;
  std::vector<std::vector<SequenceRun>> runs_;  // of each rank
  Sabotage sabotage_;
};

}  // namespace pg::model

// Compares the copies of the weights that ranks hold, bit for bit: a flipped bit in one of them, or
// a sum that one rank alone got wrong, would else train on for weeks.
//
// Copies are: dense weights and router biases over dp*ep*cp, experts over dp*cp, what tensor
// parallelism does not cut over tp, KV heads that several tp ranks hold over those, a tied table
// over both ends of the pipeline. Compared are the weights that layers use and, where they lie
// apart and have copies, the exact values behind them. Not compared, since there is one alone: what
// ZeRO keeps in pieces (exact values from stage 1 on, all weights in stage 3: there only the pieces
// that tp and pp copy), nor moments, whose error shows in the weights after the next update.
//
// A rank digests its weights (XXH3-128) and each group gathers one digest a rank; tensors are
// compared only once these differ.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "comm/process_grid.h"
#include "model/param_store.h"
#include "model/sharding.h"

namespace pg::app {

class ReplicaCheck {
 public:
  // All must outlive it.
  ReplicaCheck(const model::ParamStore& params, comm::ProcessGrid& grid, model::Groups groups);

  // Collective over the grid, between steps or before an update. Error(kNumerical) on all ranks
  // naming step, tensor, rank and host: the ranks that the majority of a tensor's copies outvotes,
  // or all of its copies when there is none. `step`: for the message.
  void run(std::int64_t step) const;
  std::int64_t bytes() const;  // that this rank digests each time

 private:
  // What is digested: a parameter's weights, its exact values, or a router's biases.
  struct Item {
    enum class What { kWeights, kExact, kRouterBias } what = What::kWeights;
    std::int64_t id = 0;  // of the parameter, or the block
  };
  struct Copies {
    comm::Group* group = nullptr;
    std::vector<std::size_t> items;
  };
  model::TensorView view(const Item& item) const;
  std::string name(const Item& item) const;
  std::string digest(const model::TensorView& view, std::vector<char>& staging) const;
  std::string findings(const Copies& copies, const std::vector<std::string>& digests) const;

  const model::ParamStore& params_;
  comm::ProcessGrid& grid_;
  model::Groups groups_;
  std::vector<Item> items_;
  std::vector<Copies> copies_;  // the same groups in the same order on all ranks
};

}  // namespace pg::app

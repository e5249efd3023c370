// The end of a step for routers: what all of them counted comes together, and the biases of the
// balance without a loss take their step (Wang et al. 2024, DeepSeek-V3): an expert that more than
// the mean number of tokens of the whole batch asked for loses `bias_update`, one that fewer asked
// for gains it.
#pragma once

#include <cstdint>
#include <vector>

#include "model/kernels/kernels.h"
#include "model/moe_counters.h"
#include "model/param_store.h"
#include "model/sharding.h"

namespace pg::model {

// Of a step's whole batch, by block with experts; the same on every rank.
struct MoeReport {
  struct Block {
    std::int64_t block = 0;
    std::vector<std::int64_t> chosen, kept;  // tokens of each expert: that asked, that it took
    double balance_loss = 0, z_loss = 0;     // unweighted, summed over sequences
  };
  std::vector<Block> blocks;

  double dropped_share() const;  // of all pairs (token, expert)
};

class RouterBalance {
 public:
  // `params` and `kernels` must outlive it.
  RouterBalance(ParamStore& params, Kernels& kernels, Groups groups)
      : params_(params), kernels_(kernels), groups_(std::move(groups)) {}

  // Collective.
  MoeReport add_up(const MoeCounters& counters);
  // After the step's update. The same on every rank that holds a block.
  void update(const MoeReport& report);

 private:
  ParamStore& params_;
  Kernels& kernels_;
  Groups groups_;
};

}  // namespace pg::model

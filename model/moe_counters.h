// What the routers of a rank's blocks have counted since the step began: sums over its sequences,
// fp64, one row a block. Every token is counted once, also when it is recomputed.
#pragma once

#include <cstdint>
#include <vector>

#include "model/buffer.h"
#include "model/kernels/kernels.h"
#include "model/tensor.h"

namespace pg::model {

class MoeCounters {
 public:
  MoeCounters() = default;
  // `blocks`: those of the model that have experts, ascending, on whatever stage.
  MoeCounters(std::vector<std::int64_t> blocks, std::int64_t experts, Buffer::Kind kind,
              Device device = Device::kCpu);

  bool empty() const { return blocks_.empty(); }
  const std::vector<std::int64_t>& blocks() const { return blocks_; }
  std::int64_t experts() const { return experts_; }
  void clear(Kernels& kernels);
  TensorView all() const;  // [blocks, 2E + 2]

  // Of one block: pairs (token, expert) that were chosen, and those of them that were kept [E];
  // the load-balance loss and the mean of lse^2, unweighted, summed over sequences [1].
  TensorView chosen(std::int64_t block) const { return part(block, 0, experts_); }
  TensorView kept(std::int64_t block) const { return part(block, experts_, experts_); }
  TensorView balance_loss(std::int64_t block) const { return part(block, 2 * experts_, 1); }
  TensorView z_loss(std::int64_t block) const { return part(block, 2 * experts_ + 1, 1); }

 private:
  TensorView part(std::int64_t block, std::int64_t begin, std::int64_t size) const;
  std::vector<std::int64_t> blocks_;
  std::int64_t experts_ = 0;
  Buffer sums_;
};

}  // namespace pg::model

#include "model/moe_counters.h"

#include <algorithm>

#include "comm/error.h"

namespace pg::model {

MoeCounters::MoeCounters(std::vector<std::int64_t> blocks, std::int64_t experts, Buffer::Kind kind,
                         Device device)
    : blocks_(std::move(blocks)),
      experts_(experts),
      sums_(blocks_.size() * static_cast<std::size_t>(2 * experts + 2) * sizeof(double), kind,
            device) {}

TensorView MoeCounters::all() const {
  return TensorView(sums_.at(0), DType::kF64,
                    {static_cast<std::int64_t>(blocks_.size()), 2 * experts_ + 2}, sums_.device());
}

void MoeCounters::clear(Kernels& kernels) {
  if (!empty()) kernels.fill_zero(all());
}

TensorView MoeCounters::part(std::int64_t block, std::int64_t begin, std::int64_t size) const {
  const auto found = std::lower_bound(blocks_.begin(), blocks_.end(), block);
  PG_ASSERT(found != blocks_.end() && *found == block, "no experts in block {}", block);
  return all()
      .slice(0, found - blocks_.begin(), 1)
      .reshape({2 * experts_ + 2})
      .slice(0, begin, size);
}

}  // namespace pg::model

#include "app/memory_plan.h"

#include <algorithm>
#include <array>

#include "app/parallel_plan.h"
#include "model/flops.h"
#include "model/param_store.h"

namespace pg::app {

namespace {

// Elements of matrices that the CPU's products keep packed copies of: all held ones, or under ZeRO
// 3 those of the largest place in each slot, since copies go by address.
std::int64_t packed_elements(const model::ParamLayout& layout, const model::ModelConfig& config) {
  std::array<std::int64_t, model::ParamLayout::kSlots> in_slot{};
  std::int64_t all = 0;
  for (std::int64_t place = 0; place < layout.places(); ++place) {
    std::int64_t here = 0;
    for (const auto id : layout.params_of(place)) {
      const auto& spec = layout.table()[id];
      if (spec.shape.size() == 2 && !model::is_lookup_only(spec, config)) {
        here += layout.part(id).elements();
      }
    }
    all += here;
    auto& largest = in_slot[static_cast<std::size_t>(layout.slot_of(place))];
    largest = std::max(largest, here);
  }
  if (layout.sharding().zero < 3) return all;
  std::int64_t slots = 0;
  for (const auto elements : in_slot) slots += elements;
  return slots;
}

}  // namespace

MemoryPlan plan_memory(const Deck& deck, const comm::GridShape& grid, const comm::Coord& coord) {
  const auto layout = layout_of(deck, sharding_of(deck, grid, coord));
  const auto compute = deck.run.precision;
  const model::ParamStore store(layout, compute, model::Buffer::Kind::kDry);
  const auto bytes = store.bytes();
  MemoryPlan plan;
  plan.parameters = layout.table().elements();
  plan.weights = bytes.weights;
  plan.gradients = bytes.gradients;
  plan.master = bytes.master;
  plan.moments = bytes.moments;
  plan.slots = bytes.slots;
  plan.activations =
      model::activation_bytes(deck.model, layout, compute, pipeline_options(deck, grid)).total();
  if (compute != DType::kF64) {
    plan.packed =
        2 * packed_elements(layout, deck.model) * static_cast<std::int64_t>(dtype_size(compute));
  }
  plan.total = bytes.total() + plan.activations + plan.packed;
  return plan;
}

std::vector<MemoryPlan> plan_stages(const Deck& deck, const comm::GridShape& grid) {
  std::vector<MemoryPlan> plans;
  for (int stage = 0; stage < grid.size(comm::Axis::kPP); ++stage) {
    comm::Coord coord;
    coord[comm::Axis::kPP] = stage;
    plans.push_back(plan_memory(deck, grid, coord));
  }
  return plans;
}

}  // namespace pg::app

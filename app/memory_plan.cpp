#include "app/memory_plan.h"

#include "model/transformer.h"

namespace pg::app {

MemoryPlan plan_memory(const Deck& deck, const comm::GridShape&) {
  const model::ParamTable table(deck.model);
  const model::ParamStore store(table, deck.run.precision, model::Buffer::Kind::kDry);
  MemoryPlan plan;
  plan.parameters = table.elements();
  plan.weights = store.weight_bytes();
  plan.gradients = store.grad_bytes();
  plan.master = store.master_bytes();
  plan.moments = store.moment_bytes();
  plan.activations = static_cast<std::int64_t>(model::activation_bytes(
      deck.model, deck.run.precision, deck.train.micro_batch, deck.train.seq));
  if (deck.run.precision != DType::kF64) {
    for (const auto& spec : table.specs()) {
      if (spec.shape.size() == 2 && !model::is_lookup_only(spec, deck.model)) {
        plan.packed += 2 * spec.elements() * static_cast<std::int64_t>(dtype_size(store.compute()));
      }
    }
  }
  plan.total =
      plan.weights + plan.gradients + plan.master + plan.moments + plan.activations + plan.packed;
  return plan;
}

}  // namespace pg::app

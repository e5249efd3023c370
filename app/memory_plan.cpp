#include "app/memory_plan.h"

namespace pg::app {
namespace {

std::int64_t count_parameters(const model::ModelConfig& m) {
  const std::int64_t biases = m.bias ? 1 : 0;
  const std::int64_t norm = m.hidden * (m.norm == model::NormKind::kLayerNorm ? 1 + biases : 1);
  const std::int64_t gates = m.activation == model::Activation::kSwiGlu ? 2 : 1;
  const auto linear = [&](std::int64_t in, std::int64_t out) { return in * out + biases * out; };
  const auto attention = linear(m.hidden, m.q_width()) + 2 * linear(m.hidden, m.kv_width()) +
                         linear(m.q_width(), m.hidden);
  const auto ffn = gates * linear(m.hidden, m.ffn) + linear(m.ffn, m.hidden);
  const auto positions =
      m.position == model::PositionKind::kLearned ? m.max_seq * m.hidden : std::int64_t{0};
  const auto tables = (m.tie_embeddings ? 1 : 2) * m.vocab * m.hidden;
  return tables + positions + m.layers * (attention + ffn + 2 * norm) + norm;
}

}  // namespace

MemoryPlan plan_memory(const Deck& deck, const comm::GridShape&) {
  // Data parallelism alone replicates everything.
  const auto weight_size = static_cast<std::int64_t>(dtype_size(deck.run.precision));
  const auto sum_size = static_cast<std::int64_t>(dtype_size(accumulator_of(deck.run.precision)));
  MemoryPlan plan;
  plan.parameters = count_parameters(deck.model);
  plan.weights = plan.parameters * weight_size;
  plan.gradients = plan.parameters * sum_size;
  plan.master = deck.run.precision == DType::kBF16 ? plan.parameters * sum_size : 0;
  plan.moments = 2 * plan.parameters * sum_size;
  plan.total = plan.weights + plan.gradients + plan.master + plan.moments;
  return plan;
}

}  // namespace pg::app

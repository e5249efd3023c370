#include "model/flops.h"

namespace pg::model {

bool is_lookup_only(const ParamSpec& spec, const ModelConfig& config) {
  return spec.name == "embed.positions.weight" ||
         (spec.name == "embed.tokens.weight" && !config.tie_embeddings);
}

std::int64_t active_parameters(const ModelConfig& config) {
  const ParamTable table(config);
  std::int64_t active = 0;
  for (const auto& spec : table.specs()) {
    // Experts are alike: the first ones stand for those that were chosen.
    if (spec.expert < config.moe.top_k) active += spec.elements();
  }
  return active;
}

double model_flops_per_token(const ModelConfig& config, std::int64_t seq) {
  double weights = 0.0;
  const ParamTable table(config);
  for (const auto& spec : table.specs()) {
    if (spec.shape.size() == 2 && !is_lookup_only(spec, config)) {
      // Of the experts a token meets top_k.
      const double share = spec.expert < 0 ? 1.0
                                           : static_cast<double>(config.moe.top_k) /
                                                 static_cast<double>(config.moe.experts);
      weights += share * static_cast<double>(spec.elements());
    }
  }
  const auto t = static_cast<double>(seq);
  double seen = (t + 1.0) / 2.0;
  if (config.window > 0 && config.window < seq) {
    const auto w = static_cast<double>(config.window);
    seen = (w * (w + 1.0) / 2.0 + (t - w) * w) / t;
  }
  const double attention =
      12.0 * seen * static_cast<double>(config.q_width()) * static_cast<double>(config.layers);
  return 6.0 * weights + attention;
}

}  // namespace pg::model

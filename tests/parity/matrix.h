// The cases of the parity matrix: every legal combination of grid, ZeRO stage, pipeline schedule,
// recomputation, sequence parallelism and kind of model, and a covering subset of them.
#pragma once

#include <string>
#include <vector>

#include "parity.h"

namespace pg::testing {

// Odd sizes everywhere: 5 layers, vocabulary 61. Llama-style: 8 query heads on 2 KV heads (held
// twice at tp 4, four times at tp 8), a window. GPT-2-style: 6 heads, dropout, tied embeddings, two
// sequences a micro-batch.
enum class Style { kLlama, kGpt2 };
const char* style_name(Style style);
app::Deck matrix_deck(Style style, const std::filesystem::path& tokens, DType precision);

struct MatrixCase {
  Style style = Style::kLlama;
  int dp = 1, tp = 1, pp = 1;
  int zero = 0;
  model::ScheduleKind schedule = model::ScheduleKind::k1F1B;
  int chunks = 1;
  model::RecomputePlan recompute;
  bool sequence_parallel = false;

  int ranks() const { return dp * tp * pp; }
  std::string name() const;  // "llama dp2 tp2 zero3 1f1b full sp"
  app::Deck deck(const std::filesystem::path& tokens, DType precision) const;
  // The value of each factor, for covering.
  std::vector<int> factors() const;
};

// Every legal case on at most `ranks` ranks, in a fixed order.
std::vector<MatrixCase> all_cases(int ranks);
// A subset in which every combination of values of three factors that some case has appears at
// least once: greedy, in a fixed order.
std::vector<MatrixCase> covering(const std::vector<MatrixCase>& all);

}  // namespace pg::testing

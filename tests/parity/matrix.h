// The cases of the parity matrix: grid, ZeRO stage, pipeline schedule, recomputation, sequence
// parallelism and kind of model as one record; every legal combination of the dense axes, and a
// covering subset of any list. Lists with experts and parts of sequences: axes.h.
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

// The feed-forward layers: dense ones, or experts by each kind of routing.
enum class Feed {
  kDense,
  kTopK,          // of 8 experts 2, renormalised; balance and z loss
  kTopKShared,    // probabilities among all; shared experts; every second block
  kTopKCapacity,  // capacity factor 1: tokens are dropped
  kSwitch,        // with a capacity
  kBalanced,      // by biases instead of a loss
  kExpertChoice,  // with a z loss
};
const char* feed_name(Feed feed);

// Which earlier tokens attention sees.
enum class Mask {
  kStyle,  // all of them in GPT-2 style, a window of 5 in Llama style
  kCausal,
  kWindow,     // of 5
  kDocuments,  // those of the own document
  kDocumentsWindow,
};
const char* mask_name(Mask mask);

struct MatrixCase {
  Style style = Style::kLlama;
  int dp = 1, tp = 1, pp = 1;
  int zero = 0;
  model::ScheduleKind schedule = model::ScheduleKind::k1F1B;
  int chunks = 1;
  model::RecomputePlan recompute;
  bool sequence_parallel = false;
  int ep = 1, cp = 1;
  model::ContextMethod context = model::ContextMethod::kRing;
  Feed feed = Feed::kDense;
  Mask mask = Mask::kStyle;
  // Sequences a micro-batch; 0: the sizes of the dense matrix. Otherwise 4 layers, 8
  // sequences of 24 tokens a step and 12 query heads on 2 (Llama) or 12 KV heads, which 2 to 4 cp
  // ranks can cut.
  int sequences = 0;

  int ranks() const { return dp * tp * pp * ep * cp; }
  std::string name() const;  // "llama dp2 tp2 zero3 1f1b full sp"
  app::Deck deck(const std::filesystem::path& tokens, DType precision) const;
  // The value of each factor, below 16, for covering.
  std::vector<int> factors() const;
  // What decides the losses: cases of one model have one reference, whatever their grid.
  std::string model() const;
  // Whether model and batch can be cut like this.
  bool legal() const;
};

// Every legal case on at most `ranks` ranks, in a fixed order.
std::vector<MatrixCase> all_cases(int ranks);
// A subset in which every combination of values of three factors that some case has appears at
// least once: greedy, in a fixed order.
std::vector<MatrixCase> covering(const std::vector<MatrixCase>& all);

}  // namespace pg::testing

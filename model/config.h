// What a decoder-only transformer is made of: the [model] section of a deck as plain values.
// Checked by app/schema before anyone else sees it; the code here may rely on it.
#pragma once

#include <cstdint>

namespace pg::model {

enum class NormKind { kRmsNorm, kLayerNorm };
enum class Activation { kSwiGlu, kGelu };
enum class PositionKind { kRope, kLearned };

// How tokens and experts find each other.
enum class RouterKind {
  kTopK,          // each token takes top_k experts (Shazeer et al. 2017)
  kSwitch,        // one expert a token, weighted with its probability (Fedus et al. 2021)
  kExpertChoice,  // each expert takes its best tokens of a sequence (Zhou et al. 2022)
};

// Mixture of experts in the feed-forward layer of every `every`-th block. Everything but the
// balance by bias is defined for one sequence, so that neither grid nor micro-batch changes it.
struct MoeConfig {
  std::int64_t experts = 0;  // 0: dense
  std::int64_t top_k = 2;    // experts of a token (expert choice: on average)
  std::int64_t ffn = 0;      // width of one expert
  RouterKind router = RouterKind::kTopK;
  // A token's gates are divided by their sum: the softmax over the chosen alone (Mixtral).
  // Otherwise they are probabilities among all experts (Qwen).
  bool renormalize = true;
  // An expert takes the first ceil(capacity_factor * top_k * seq / experts) tokens of a sequence
  // that ask for it; 0: all.
  double capacity_factor = 0.0;
  std::int64_t shared_experts = 0;  // for every token: one feed-forward layer of so many widths
  std::int64_t every = 1;
  double aux_loss = 0.0, z_loss = 0.0;  // factors
  double bias_update = 0.0;             // step of the balance by bias (DeepSeek-V3); 0: off

  bool operator==(const MoeConfig&) const = default;
};

struct ModelConfig {
  std::int64_t layers = 0;
  std::int64_t hidden = 0;
  std::int64_t heads = 0;
  std::int64_t kv_heads = 0;
  std::int64_t head_dim = 0;
  std::int64_t ffn = 0;
  std::int64_t vocab = 0;
  std::int64_t max_seq = 0;
  NormKind norm = NormKind::kRmsNorm;
  Activation activation = Activation::kSwiGlu;
  PositionKind position = PositionKind::kRope;
  double rope_theta = 10000.0;
  double norm_eps = 1e-5;
  bool bias = false;  // biases on every linear but the language-model head, and on LayerNorm
  bool tie_embeddings = false;
  double dropout = 0.0;     // embedding output, attention probabilities, both residual branches
  std::int64_t window = 0;  // sliding attention window in tokens; 0: all earlier tokens
  MoeConfig moe;

  // Whether block `layer`, from 0, has experts: the last of each `every` blocks.
  bool has_experts(std::int64_t layer) const {
    return moe.experts > 0 && (layer + 1) % moe.every == 0;
  }

  std::int64_t q_width() const { return heads * head_dim; }
  std::int64_t kv_width() const { return kv_heads * head_dim; }
  bool operator==(const ModelConfig&) const = default;
};

}  // namespace pg::model

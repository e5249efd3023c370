// What a decoder-only transformer is made of: the [model] section of a deck as plain values.
// Checked by app/schema before anyone else sees it; the code here may rely on it.
#pragma once

#include <cstdint>

namespace pg::model {

enum class NormKind { kRmsNorm, kLayerNorm };
enum class Activation { kSwiGlu, kGelu };
enum class PositionKind { kRope, kLearned };

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

  std::int64_t q_width() const { return heads * head_dim; }
  std::int64_t kv_width() const { return kv_heads * head_dim; }
  bool operator==(const ModelConfig&) const = default;
};

}  // namespace pg::model

// One pre-norm transformer block: x + attention(norm(x)), then x + mlp(norm(x)), or a mixture of
// experts in the mlp's place.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "model/layers/attention.h"
#include "model/layers/mlp.h"
#include "model/layers/moe.h"
#include "model/layers/norm.h"

namespace pg::model {

class Block {
 public:
  Block(const ModelConfig& config, const ParamLayout& layout, std::int64_t index);

  struct Saved {
    Norm::Saved attention_norm, mlp_norm;
    TensorView attention_in, mlp_in;  // [rows, C], what the norms gave; empty: to be made again
    Attention::Saved attention;
    Mlp::Saved mlp;
    Moe::Saved moe;
  };

  // Takes the stream in and returns the stream out. Both branches are written to `branch`[rows,C],
  // one after the other: each is consumed by the next norm before the next is made.
  Stream forward(const LayerContext& ctx, Saved& saved, const Stream& stream,
                 TensorView branch) const;
  // What forward would save of the same stream, without the stream out: enough for backward.
  void remake(const LayerContext& ctx, Saved& saved, const Stream& stream, TensorView branch) const;
  // dr[rows,C]: in, the gradient of the stream out; out, that of the stream in.
  void backward(const LayerContext& ctx, TensorView dr, const Saved& saved) const;

 private:
  void forward_attention(const LayerContext& ctx, Saved& saved, const Stream& stream,
                         TensorView branch) const;
  std::string name_;
  Norm attention_norm_, mlp_norm_;
  Attention attention_;
  std::optional<Mlp> mlp_;  // one of the two
  std::optional<Moe> moe_;
};

}  // namespace pg::model

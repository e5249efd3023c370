#include "model/param_table.h"

#include <cmath>

#include "comm/error.h"

namespace pg::model {

std::int64_t ParamSpec::elements() const {
  std::int64_t n = 1;
  for (const auto extent : shape) n *= extent;
  return n;
}

namespace {

// Adds the parameters of one layer kind after another, under a name prefix.
class Lister {
 public:
  Lister(std::vector<ParamSpec>& specs, bool bias) : specs_(specs), bias_(bias) {}

  void at(std::int64_t place, std::string prefix) {
    place_ = place;
    prefix_ = std::move(prefix);
  }
  void matrix(const char* name, std::int64_t rows, std::int64_t cols, double std,
              bool starts_pack = true) {
    add(name, {rows, cols}, Init::kNormal, std, starts_pack);
  }
  void bias(const char* name, std::int64_t width, bool starts_pack = true) {
    if (bias_) add(name, {width}, Init::kZeros, 0.0, starts_pack);
  }
  void norm(const std::string& name, std::int64_t width, NormKind kind) {
    add(name + ".weight", {width}, Init::kOnes, 0.0, true);
    if (bias_ && kind == NormKind::kLayerNorm)
      add(name + ".bias", {width}, Init::kZeros, 0.0, true);
  }

 private:
  void add(const std::string& name, std::vector<std::int64_t> shape, Init init, double std,
           bool starts_pack) {
    specs_.push_back({prefix_ + name, std::move(shape), init, std, place_, starts_pack});
  }
  std::vector<ParamSpec>& specs_;
  bool bias_;
  std::int64_t place_ = 0;
  std::string prefix_;
};

}  // namespace

ParamTable::ParamTable(const ModelConfig& c) : places_(c.layers + 2) {
  // GPT-2's scheme (Radford et al. 2019): 0.02 everywhere, and the two projections that write into
  // the residual stream smaller by sqrt(2 layers), so that its variance does not grow with depth.
  const double std = 0.02;
  const double residual_std = std / std::sqrt(2.0 * static_cast<double>(c.layers));

  Lister list(specs_, c.bias);
  list.at(0, "embed.");
  list.matrix("tokens.weight", c.vocab, c.hidden, std);
  if (c.position == PositionKind::kLearned) {
    list.matrix("positions.weight", c.max_seq, c.hidden, std);
  }
  for (std::int64_t i = 0; i < c.layers; ++i) {
    list.at(1 + i, fmt::format("blocks.{}.", i));
    list.norm("attention_norm", c.hidden, c.norm);
    list.matrix("attention.q.weight", c.q_width(), c.hidden, std);
    list.matrix("attention.k.weight", c.kv_width(), c.hidden, std, false);
    list.matrix("attention.v.weight", c.kv_width(), c.hidden, std, false);
    list.bias("attention.q.bias", c.q_width());
    list.bias("attention.k.bias", c.kv_width(), false);
    list.bias("attention.v.bias", c.kv_width(), false);
    list.matrix("attention.out.weight", c.hidden, c.q_width(), residual_std);
    list.bias("attention.out.bias", c.hidden);
    list.norm("mlp_norm", c.hidden, c.norm);
    if (c.activation == Activation::kSwiGlu) {
      list.matrix("mlp.gate.weight", c.ffn, c.hidden, std);
      list.matrix("mlp.up.weight", c.ffn, c.hidden, std, false);
      list.bias("mlp.gate.bias", c.ffn);
      list.bias("mlp.up.bias", c.ffn, false);
    } else {
      list.matrix("mlp.up.weight", c.ffn, c.hidden, std);
      list.bias("mlp.up.bias", c.ffn);
    }
    list.matrix("mlp.down.weight", c.hidden, c.ffn, residual_std);
    list.bias("mlp.down.bias", c.hidden);
  }
  list.at(c.layers + 1, "");
  list.norm("final_norm", c.hidden, c.norm);
  if (!c.tie_embeddings) list.matrix("lm_head.weight", c.vocab, c.hidden, std);
}

std::size_t ParamTable::id(std::string_view name) const {
  for (std::size_t i = 0; i < specs_.size(); ++i) {
    if (specs_[i].name == name) return i;
  }
  PG_ASSERT(false, "no parameter {}", name);
  return 0;
}

std::int64_t ParamTable::elements() const {
  std::int64_t n = 0;
  for (const auto& spec : specs_) n += spec.elements();
  return n;
}

}  // namespace pg::model

#include "model/param_table.h"

#include <algorithm>
#include <cmath>
#include <numeric>

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
  void matrix(const char* name, std::int64_t rows, std::int64_t cols, double std, TensorCut cut,
              bool starts_pack = true) {
    add({.name = name,
         .shape = {rows, cols},
         .init = Init::kNormal,
         .std = std,
         .cut = cut,
         .starts_pack = starts_pack});
  }
  void bias(const char* name, std::int64_t width, TensorCut cut, bool starts_pack = true) {
    if (bias_) add({.name = name, .shape = {width}, .cut = cut, .starts_pack = starts_pack});
  }
  void norm(const std::string& name, std::int64_t width, NormKind kind) {
    add({.name = name + ".weight", .shape = {width}, .init = Init::kOnes, .acts_on_stream = true});
    if (bias_ && kind == NormKind::kLayerNorm) {
      add({.name = name + ".bias", .shape = {width}, .acts_on_stream = true});
    }
  }

 private:
  void add(ParamSpec spec) {
    spec.name = prefix_ + spec.name;
    spec.place = place_;
    specs_.push_back(std::move(spec));
  }
  std::vector<ParamSpec>& specs_;
  bool bias_;
  std::int64_t place_ = 0;
  std::string prefix_;
};

}  // namespace

ParamTable::ParamTable(const ModelConfig& c)
    : places_(c.layers + (c.position == PositionKind::kLearned ? 3 : 2)) {
  // GPT-2's scheme (Radford et al. 2019): 0.02 everywhere, and the two projections that write into
  // the residual stream smaller by sqrt(2 layers), so that its variance does not grow with depth.
  const double std = 0.02;
  const double residual_std = std / std::sqrt(2.0 * static_cast<double>(c.layers));
  using Cut = TensorCut;

  Lister list(specs_, c.bias);
  list.at(kTokenPlace, "embed.");
  list.matrix("tokens.weight", c.vocab, c.hidden, std, Cut::kVocabRows);
  for (std::int64_t i = 0; i < c.layers; ++i) {
    list.at(block_place(i), fmt::format("blocks.{}.", i));
    list.norm("attention_norm", c.hidden, c.norm);
    list.matrix("attention.q.weight", c.q_width(), c.hidden, std, Cut::kRows);
    list.matrix("attention.k.weight", c.kv_width(), c.hidden, std, Cut::kKvRows, false);
    list.matrix("attention.v.weight", c.kv_width(), c.hidden, std, Cut::kKvRows, false);
    list.bias("attention.q.bias", c.q_width(), Cut::kRows);
    list.bias("attention.k.bias", c.kv_width(), Cut::kKvRows, false);
    list.bias("attention.v.bias", c.kv_width(), Cut::kKvRows, false);
    list.matrix("attention.out.weight", c.hidden, c.q_width(), residual_std, Cut::kCols);
    list.bias("attention.out.bias", c.hidden, Cut::kNone);
    list.norm("mlp_norm", c.hidden, c.norm);
    if (c.activation == Activation::kSwiGlu) {
      list.matrix("mlp.gate.weight", c.ffn, c.hidden, std, Cut::kRows);
      list.matrix("mlp.up.weight", c.ffn, c.hidden, std, Cut::kRows, false);
      list.bias("mlp.gate.bias", c.ffn, Cut::kRows);
      list.bias("mlp.up.bias", c.ffn, Cut::kRows, false);
    } else {
      list.matrix("mlp.up.weight", c.ffn, c.hidden, std, Cut::kRows);
      list.bias("mlp.up.bias", c.ffn, Cut::kRows);
    }
    list.matrix("mlp.down.weight", c.hidden, c.ffn, residual_std, Cut::kCols);
    list.bias("mlp.down.bias", c.hidden, Cut::kNone);
  }
  list.at(head_place(c), "");
  list.norm("final_norm", c.hidden, c.norm);
  if (!c.tie_embeddings) {
    list.matrix("lm_head.weight", c.vocab, c.hidden, std, Cut::kVocabRows);
  }
  if (c.position == PositionKind::kLearned) {
    list.at(position_place(c), "embed.");
    list.matrix("positions.weight", c.max_seq, c.hidden, std, Cut::kNone);
  }
  by_name_.resize(specs_.size());
  std::iota(by_name_.begin(), by_name_.end(), std::size_t{0});
  std::sort(by_name_.begin(), by_name_.end(),
            [&](std::size_t a, std::size_t b) { return specs_[a].name < specs_[b].name; });
}

std::size_t ParamTable::id(std::string_view name) const {
  const auto found = std::lower_bound(
      by_name_.begin(), by_name_.end(), name,
      [&](std::size_t id, std::string_view wanted) { return specs_[id].name < wanted; });
  if (found != by_name_.end() && specs_[*found].name == name) return *found;
  PG_ASSERT(false, "no parameter {}", name);
  return 0;
}

std::int64_t ParamTable::elements() const {
  std::int64_t n = 0;
  for (const auto& spec : specs_) n += spec.elements();
  return n;
}

}  // namespace pg::model

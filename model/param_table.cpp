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
  void expert(std::int64_t number) { expert_ = number; }
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
    spec.expert = expert_;
    specs_.push_back(std::move(spec));
  }
  std::vector<ParamSpec>& specs_;
  bool bias_;
  std::int64_t place_ = 0, expert_ = -1;
  std::string prefix_;
};

// A feed-forward layer of `width` under the lister's prefix.
void list_mlp(Lister& list, const ModelConfig& c, std::int64_t width, double std,
              double residual_std) {
  using Cut = TensorCut;
  if (c.activation == Activation::kSwiGlu) {
    list.matrix("gate.weight", width, c.hidden, std, Cut::kRows);
    list.matrix("up.weight", width, c.hidden, std, Cut::kRows, false);
    list.bias("gate.bias", width, Cut::kRows);
    list.bias("up.bias", width, Cut::kRows, false);
  } else {
    list.matrix("up.weight", width, c.hidden, std, Cut::kRows);
    list.bias("up.bias", width, Cut::kRows);
  }
  list.matrix("down.weight", c.hidden, width, residual_std, Cut::kCols);
  list.bias("down.bias", c.hidden, Cut::kNone);
}

}  // namespace

ParamTable::ParamTable(const ModelConfig& c)
    : places_(c.moe.experts > 0 ? 2 * c.layers + 3
                                : c.layers + (c.position == PositionKind::kLearned ? 3 : 2)) {
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
    if (!c.has_experts(i)) {
      list.at(block_place(i), fmt::format("blocks.{}.mlp.", i));
      list_mlp(list, c, c.ffn, std, residual_std);
      continue;
    }
    list.matrix("moe.router.weight", c.moe.experts, c.hidden, std, Cut::kNone);
    if (c.moe.shared_experts > 0) {
      list.at(block_place(i), fmt::format("blocks.{}.moe.shared.", i));
      list_mlp(list, c, c.moe.shared_experts * c.moe.ffn, std, residual_std);
    }
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
  for (std::int64_t i = 0; i < c.layers; ++i) {
    for (std::int64_t e = 0; e < c.moe.experts && c.has_experts(i); ++e) {
      list.at(experts_place(c, i), fmt::format("blocks.{}.moe.experts.{}.", i, e));
      list.expert(e);
      list_mlp(list, c, c.moe.ffn, std, residual_std);
    }
  }
  by_name_.resize(specs_.size());
  std::iota(by_name_.begin(), by_name_.end(), std::size_t{0});
  std::sort(by_name_.begin(), by_name_.end(),
            [&](std::size_t a, std::size_t b) { return specs_[a].name < specs_[b].name; });
}

std::string ParamTable::router_bias_name(std::int64_t block) {
  return fmt::format("blocks.{}.moe.router.bias", block);
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

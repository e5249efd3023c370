// Every parameter of a model, listed once and unfused: name, global shape, initial values, decay,
// and the place in the network that uses it. Allocation, initialisation, the optimizer, checkpoints
// and byte counts all read this table; nothing else knows a parameter's name or shape.
//
// Order is the order in memory: the parts of a packed product (q, k, v; gate, up) are neighbours,
// so that one view covers them (model/param_store.h).
//
// A place is a part of the network whose parameters are used, gathered and reduced together: 0 the
// token embedding (alone, since a tied one has a copy beside the head), 1 + i block i, layers + 1
// the final norm and head, layers + 2 learned positions, layers + 3 + i the experts of block i,
// which have replicas of their own.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "model/config.h"

namespace pg::model {

enum class Init { kZeros, kOnes, kNormal };

// Which axis of a parameter tensor parallelism cuts (Shoeybi et al. 2019).
enum class TensorCut {
  kNone,       // every tp rank holds all of it
  kRows,       // outputs: column-parallel products and their biases
  kKvRows,     // outputs by KV head; with fewer heads than ranks, several ranks hold one
  kCols,       // inputs: row-parallel products
  kVocabRows,  // rows of a table over the vocabulary; need not divide
};

struct ParamSpec {
  std::string name;                 // "blocks.3.attention.q.weight"
  std::vector<std::int64_t> shape;  // [out, in], [vocab, hidden], or [width]
  Init init = Init::kZeros;
  double std = 0.0;        // of Init::kNormal
  std::int64_t place = 0;  // see ParamTable
  TensorCut cut = TensorCut::kNone;
  // Under sequence parallelism each tp rank sees its own rows only: gradients are summed over tp.
  bool acts_on_stream = false;
  bool starts_pack = true;   // false: continues a packed product (k after q)
  std::int64_t expert = -1;  // of which expert of its block; -1: not of one

  std::int64_t elements() const;
  // AdamW decays matrices (embeddings included), not norms and biases.
  bool decays() const { return shape.size() >= 2; }
};

class ParamTable {
 public:
  explicit ParamTable(const ModelConfig& config);

  const std::vector<ParamSpec>& specs() const { return specs_; }
  std::size_t size() const { return specs_.size(); }
  const ParamSpec& operator[](std::size_t id) const { return specs_[id]; }
  std::size_t id(std::string_view name) const;  // PG_ASSERTs that it exists
  std::int64_t places() const { return places_; }
  static constexpr std::int64_t kTokenPlace = 0;
  static std::int64_t block_place(std::int64_t block) { return 1 + block; }
  static std::int64_t head_place(const ModelConfig& c) { return c.layers + 1; }
  static std::int64_t position_place(const ModelConfig& c) { return c.layers + 2; }
  static std::int64_t experts_place(const ModelConfig& c, std::int64_t block) {
    return c.layers + 3 + block;
  }
  static bool is_experts_place(const ModelConfig& c, std::int64_t place) {
    return place > position_place(c);
  }
  // State of a block's router that is not trained by gradients: the biases of its balance [E], in
  // the accumulator type (ParamStore::router_bias).
  static std::string router_bias_name(std::int64_t block);
  std::int64_t elements() const;  // all parameters, each counted once

 private:
  std::vector<ParamSpec> specs_;
  std::vector<std::size_t> by_name_;  // ids in the order of their names
  std::int64_t places_ = 0;
};

}  // namespace pg::model

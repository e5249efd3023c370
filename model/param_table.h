// Every parameter of a model, listed once and unfused: name, global shape, initial values, decay,
// and the place in the network that uses it. Allocation, initialisation, the optimizer, checkpoints
// and byte counts all read this table; nothing else knows a parameter's name or shape.
//
// Order is the order in memory: the parts of a packed product (q, k, v; gate, up) are neighbours,
// so that one view covers them (model/param_store.h).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "model/config.h"

namespace pg::model {

enum class Init { kZeros, kOnes, kNormal };

struct ParamSpec {
  std::string name;                 // "blocks.3.attention.q.weight"
  std::vector<std::int64_t> shape;  // [out, in], [vocab, hidden], or [width]
  Init init = Init::kZeros;
  double std = 0.0;        // of Init::kNormal
  std::int64_t place = 0;  // 0: embeddings, 1 + i: block i, layers + 1: final norm and head
  // Starts on a new cache line; false: follows its predecessor without a gap (packed products).
  bool starts_pack = true;

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
  std::int64_t elements() const;  // all parameters, each counted once

 private:
  std::vector<ParamSpec> specs_;
  std::int64_t places_ = 0;
};

}  // namespace pg::model

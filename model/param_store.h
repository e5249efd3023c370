// The parameters that this rank holds and everything that goes with them: weights in the compute
// type, gradients, AdamW's moments, and, under bf16, fp32 master weights. Each kind is one flat
// buffer in table order, so that a layer's gradients are one contiguous message.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "comm/tensor_record.h"
#include "model/buffer.h"
#include "model/param_table.h"
#include "model/tensor.h"

namespace pg::model {

class ParamStore {
 public:
  // Buffer::Kind::kDry: views without storage.
  ParamStore(const ParamTable& table, DType compute, Buffer::Kind kind = Buffer::Kind::kReal);

  const ParamTable& table() const { return table_; }
  DType compute() const { return compute_; }
  DType accumulator() const { return accumulator_of(compute_); }
  bool has_master() const { return compute_ != accumulator(); }

  // Views of parameter `id` in its own shape.
  TensorView weight(std::size_t id) const { return view(weights_, compute_, id, id); }
  TensorView grad(std::size_t id) const { return view(grads_, accumulator(), id, id); }
  TensorView m(std::size_t id) const { return view(m_, accumulator(), id, id); }
  TensorView v(std::size_t id) const { return view(v_, accumulator(), id, id); }
  // The exact values the optimizer updates: the fp32 master, or the weight itself.
  TensorView exact(std::size_t id) const {
    return has_master() ? view(masters_, accumulator(), id, id) : weight(id);
  }
  TensorView master(std::size_t id) const {  // empty without masters
    return has_master() ? exact(id) : TensorView();
  }
  // One view over a pack of neighbours first..last: their rows one after another.
  TensorView weight_pack(std::size_t first, std::size_t last) const {
    return view(weights_, compute_, first, last);
  }
  TensorView grad_pack(std::size_t first, std::size_t last) const {
    return view(grads_, accumulator(), first, last);
  }

  // All gradients of one place (ParamSpec::place), gaps included: flat.
  TensorView grads_of_place(std::int64_t place) const;
  TensorView all_grads() const;

  // Initial values: element e of a tensor depends on (seed, name, e) alone. Also clears the
  // moments.
  void initialise(std::int64_t seed);
  // Weights from masters, after a load.
  void round_weights();

  // What a checkpoint holds of this rank: exact weights under their names, moments as NAME.adam_m
  // and NAME.adam_v. `owner`: whether this rank writes them.
  std::vector<comm::TensorRecord> records(bool owner) const;

  std::int64_t weight_bytes() const { return static_cast<std::int64_t>(weights_.bytes()); }
  std::int64_t grad_bytes() const { return static_cast<std::int64_t>(grads_.bytes()); }
  std::int64_t master_bytes() const { return static_cast<std::int64_t>(masters_.bytes()); }
  std::int64_t moment_bytes() const { return static_cast<std::int64_t>(m_.bytes() + v_.bytes()); }

 private:
  TensorView view(const Buffer& buffer, DType type, std::size_t first, std::size_t last) const;

  ParamTable table_;
  DType compute_;
  std::vector<std::int64_t> offset_;  // in elements, one a parameter, then the total
  Buffer weights_, masters_, grads_, m_, v_;
};

}  // namespace pg::model

// Operands of the operations that are timed: random, since a GPU is faster on zeros, in an arena on
// the GPU; or in a dry one, which counts how much memory a set of them takes.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <utility>
#include <vector>

#include "comm/random.h"
#include "model/arena.h"
#include "model/kernels/kernels.h"

namespace pg::bench {

// Ids below `below` whose frequency falls as 1 / rank, as that of words does.
inline std::vector<std::int32_t> word_ids(std::int64_t n, std::int64_t below) {
  const auto key = comm::random_key(1, "bench/words");
  std::vector<std::int32_t> ids(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const double u = comm::random_bits(key, 0, i) * 0x1p-32;
    const auto id = static_cast<std::int64_t>(std::pow(static_cast<double>(below), u)) - 1;
    ids[i] = static_cast<std::int32_t>(std::min(std::max<std::int64_t>(id, 0), below - 1));
  }
  return ids;
}

class Operands {
 public:
  // `noise`: fp32, flat, normal values on the same device.
  Operands(model::Kernels& kernels, model::Arena& arena, model::TensorView noise)
      : kernels_(kernels), arena_(arena), noise_(noise) {}

  model::Kernels& kernels() { return kernels_; }

  model::TensorView normal(DType type, std::initializer_list<std::int64_t> shape) {
    const auto x = arena_.push(type, shape);
    const auto n = x.elements(), all = noise_.elements();
    const auto flat = x.reshape({n});
    // No two tensors begin with the same values.
    std::int64_t from = (shift_ += 4099) % all;
    for (std::int64_t at = 0; at < n;) {
      const auto length = std::min(n - at, all - from);
      kernels_.copy(flat.slice(0, at, length), noise_.slice(0, from, length));
      at += length;
      from = 0;
    }
    return x;
  }
  model::TensorView zeros(DType type, std::initializer_list<std::int64_t> shape) {
    const auto x = arena_.push(type, shape);
    kernels_.fill_zero(x);
    return x;
  }
  model::TensorView ids(std::vector<std::int32_t> values) {
    const auto n = static_cast<std::int64_t>(values.size());
    const auto x = arena_.push(DType::kI32, {n});
    kernels_.copy(x, model::TensorView(values.data(), DType::kI32, {n}));
    return x;
  }
  // 0, 1, .. below - 1, again and again.
  model::TensorView positions(std::int64_t n, std::int64_t below) {
    std::vector<std::int32_t> values(static_cast<std::size_t>(n));
    for (std::int64_t i = 0; i < n; ++i) {
      values[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(i % below);
    }
    return ids(std::move(values));
  }

 private:
  model::Kernels& kernels_;
  model::Arena& arena_;
  model::TensorView noise_;
  std::int64_t shift_ = 0;
};

}  // namespace pg::bench

// Operands of the tests of expert routing, beside those of operands.h: integer matrices with padded
// rows, and random masks.
#pragma once

#include <algorithm>
#include <array>
#include <vector>

#include "tests/model/kernels/operands.h"

namespace pg::model::testing {

// Integers, at first all `poison`, as is what follows each row.
template <class T>
struct Table {
  static constexpr T kPoison = static_cast<T>(-86);
  std::int64_t n, width, stride;
  std::vector<T> storage;

  Table(std::int64_t rows, std::int64_t columns, std::int64_t padding = 0)
      : n(rows), width(columns), stride(columns + padding), storage(n * stride, kPoison) {}

  T& at(std::int64_t i, std::int64_t j) { return storage[i * stride + j]; }
  T at(std::int64_t i, std::int64_t j) const { return storage[i * stride + j]; }
  TensorView view() {
    const TensorView whole(storage.data(), dtype_of<T>::value, {n, stride});
    return stride == width ? whole : whole.slice(1, 0, width);
  }
  // [sequences, n / sequences, width]
  TensorView by_sequence(std::int64_t sequences) {
    const TensorView whole(storage.data(), dtype_of<T>::value, {sequences, n / sequences, stride});
    return stride == width ? whole : whole.slice(2, 0, width);
  }
  void fill(T x) {
    for (std::int64_t i = 0; i < n; ++i) std::fill_n(&at(i, 0), width, x);
  }
  bool padding_is_untouched() const {
    for (std::int64_t i = 0; i < n; ++i) {
      for (std::int64_t j = width; j < stride; ++j) {
        if (at(i, j) != kPoison) return false;
      }
    }
    return true;
  }
};
using Mask = Table<std::uint8_t>;

// Each entry is set with probability `share`, if it is in `within`.
inline Mask random_mask(std::string_view name, std::int64_t n, std::int64_t width, double share,
                        const Mask* within = nullptr) {
  Mask mask(n, width, 3);
  const comm::RandomKey key = comm::random_key(12, name);
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = 0; j < width; ++j) {
      // A normal value's distribution function is uniform.
      const double uniform =
          0.5 * std::erfc(-comm::random_normal(key, i * width + j) / std::sqrt(2.0));
      mask.at(i, j) = uniform < share && (within == nullptr || within->at(i, j) != 0) ? 1 : 0;
    }
  }
  return mask;
}

using AccumulatorTypes = ::testing::Types<double, float>;

}  // namespace pg::model::testing

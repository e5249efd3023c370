// Operands of the kernel tests: matrices whose rows may be padded, filled from a counter-based
// generator, with NaN in everything that an operation has to write or must not read; and the error
// bounds that results are held to.
#pragma once

#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "comm/random.h"
#include "model/kernels/kernels.h"
#include "tests/harness/sums.h"

namespace pg::model::testing {

template <class T>
using acc_of = std::conditional_t<std::is_same_v<T, double>, double, float>;

// Exact: every compute type fits a double.
template <class T>
double value(T x) {
  return static_cast<double>(static_cast<acc_of<T>>(x));
}

template <class T>
T rounded(double x) {
  return static_cast<T>(static_cast<acc_of<T>>(x));
}

// Unit roundoff: the largest relative error of one rounding to nearest.
template <class T>
constexpr double unit() {
  if constexpr (std::is_same_v<T, double>) return 0x1.0p-53;
  if constexpr (std::is_same_v<T, float>) return 0x1.0p-24;
  return 0x1.0p-8;  // bf16
}

template <class T>
struct Matrix {
  std::int64_t n, width, stride;
  std::vector<T> storage;

  // `padding` elements follow each row; all is NaN.
  Matrix(std::int64_t rows, std::int64_t columns, std::int64_t padding = 0)
      : n(rows),
        width(columns),
        stride(columns + padding),
        storage(n * stride, rounded<T>(std::numeric_limits<double>::quiet_NaN())) {}

  // Normal values around `mean`.
  static Matrix random(std::string_view name, std::int64_t rows, std::int64_t columns,
                       std::int64_t padding = 0, double mean = 0.0, double scale = 1.0) {
    Matrix m(rows, columns, padding);
    const comm::RandomKey key = comm::random_key(11, name);
    for (std::int64_t i = 0; i < rows; ++i) {
      for (std::int64_t j = 0; j < columns; ++j) {
        m.at(i, j) = rounded<T>(mean + scale * comm::random_normal(key, i * columns + j));
      }
    }
    return m;
  }

  T& at(std::int64_t i, std::int64_t j) { return storage[i * stride + j]; }
  const T& at(std::int64_t i, std::int64_t j) const { return storage[i * stride + j]; }
  double operator()(std::int64_t i, std::int64_t j) const { return value(at(i, j)); }

  TensorView view() {
    const TensorView whole(storage.data(), dtype_of<T>::value, {n, stride});
    return stride == width ? whole : whole.slice(1, 0, width);
  }
  TensorView flat() { return TensorView(storage.data(), dtype_of<T>::value, {n * stride}); }

  void fill(double x) {
    for (std::int64_t i = 0; i < n; ++i) {
      for (std::int64_t j = 0; j < width; ++j) at(i, j) = rounded<T>(x);
    }
  }
  bool padding_is_untouched() const {
    for (std::int64_t i = 0; i < n; ++i) {
      for (std::int64_t j = width; j < stride; ++j) {
        if (!std::isnan(value(at(i, j)))) return false;
      }
    }
    return true;
  }
  bool same_bits(const Matrix& other) const {
    return storage.size() == other.storage.size() &&
           std::memcmp(storage.data(), other.storage.data(), storage.size() * sizeof(T)) == 0;
  }
};

inline TensorView view_of(std::vector<std::int32_t>& ids) {
  return TensorView(ids.data(), DType::kI32, {static_cast<std::int64_t>(ids.size())});
}

// |got - want| <= u(T) |want| + roundings * u(accumulator) * magnitude: the store's own rounding,
// and that many roundings in the accumulator type, each at most relative to `magnitude`. `floor`
// covers results below the accumulator's normal range.
template <class T>
void expect_close(T got, double want, double magnitude, double roundings, const std::string& where,
                  double floor = 0.0) {
  const double store = std::is_same_v<T, bf16> ? unit<T>() * std::fabs(want) : 0.0;
  // The store rounds what was computed, not `want`: hence the factor next to 1.
  const double bound = store + 1.01 * roundings * unit<acc_of<T>>() * magnitude + floor;
  // Not EXPECT_LE: NaN must fail.
  EXPECT_TRUE(std::fabs(value(got) - want) <= bound)
      << where << ": got " << value(got) << ", want " << want << ", bound " << bound;
}

// Roundings of a sum of n terms in 32 lanes: each lane's additions, then five levels, and the
// terms' own one.
inline double lane_roundings(std::int64_t n) {
  return static_cast<double>(n) / 32.0 + 7.0;
}

// work() under 1, 2 and 3 OpenMP threads; the thread count is put back.
template <class Work>
void for_each_team(const Work& work) {
  const int before = omp_get_max_threads();
  for (const int threads : {1, 2, 3}) {
    omp_set_num_threads(threads);
    work(threads);
  }
  omp_set_num_threads(before);
}

inline std::string place(std::int64_t i, std::int64_t j) {
  return "[" + std::to_string(i) + ", " + std::to_string(j) + "]";
}

using ComputeTypes = ::testing::Types<double, float, bf16>;

}  // namespace pg::model::testing

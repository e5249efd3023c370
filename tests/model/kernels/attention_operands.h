// Operands of the attention tests: packed rows with NaN beside every view, and comparisons with the
// reference.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "tests/model/kernels/attention_reference.h"

namespace pg::model::testing {

// Rows of a packed activation wider than its parts, as the layers have it; NaN wherever nothing is
// written, so that reading or writing beside a view is found.
class Packed {
 public:
  Packed(DType type, std::int64_t tokens, std::int64_t width)
      : type_(type),
        tokens_(tokens),
        width_(width),
        bytes_(static_cast<std::size_t>(tokens * width) * dtype_size(type)) {
    fill(std::numeric_limits<double>::quiet_NaN());
  }
  TensorView view() { return TensorView(bytes_.data(), type_, {tokens_, width_}); }
  // [B,T,heads,D] at column `begin`.
  TensorView heads(const AttentionCase& c, std::int64_t begin, std::int64_t count) {
    return view().slice(1, begin, count * c.size).split_last(c.size).split_first(c.sequences);
  }
  void write(std::int64_t begin, std::int64_t columns, const std::vector<double>& values) {
    for (std::int64_t i = 0; i < tokens_ * columns; ++i) {
      put(i / columns * width_ + begin + i % columns, values[static_cast<std::size_t>(i)]);
    }
  }
  void fill(double value) {
    for (std::int64_t i = 0; i < tokens_ * width_; ++i) put(i, value);
  }
  double get(std::int64_t row, std::int64_t column) const {
    const auto i = static_cast<std::size_t>(row * width_ + column);
    if (type_ == DType::kF64) return at<double>(i);
    if (type_ == DType::kF32) return static_cast<double>(at<float>(i));
    return static_cast<double>(static_cast<float>(at<bf16>(i)));
  }
  const std::vector<char>& bytes() const { return bytes_; }

 private:
  void put(std::int64_t i, double value) {
    const auto store = [&](auto x) { std::memcpy(&bytes_[i * sizeof(x)], &x, sizeof(x)); };
    if (type_ == DType::kF64) return store(value);
    if (type_ == DType::kF32) return store(static_cast<float>(value));
    store(bf16(static_cast<float>(value)));
  }
  template <class T>
  T at(std::size_t i) const {
    T x;
    std::memcpy(&x, &bytes_[i * sizeof(T)], sizeof(T));
    return x;
  }
  DType type_;
  std::int64_t tokens_, width_;
  std::vector<char> bytes_;
};

inline constexpr std::int64_t kPad = 3;  // odd columns beside every view

// How many elements of columns [begin, begin + columns) of x are not within their bounds; NaN never
// is. The first three are shown, unless they are what a test wants.
inline std::int64_t count_outside(const char* name, const Packed& x, std::int64_t begin,
                                  std::int64_t columns, const Bounded& expected,
                                  bool show = false) {
  std::int64_t outside = 0;
  for (std::size_t i = 0; i < expected.value.size(); ++i) {
    const auto n = static_cast<std::int64_t>(i);
    const double got = x.get(n / columns, begin + n % columns), want = expected.value[i];
    // Equal, for minus infinity is the log-sum-exp of nothing.
    if (got == want || std::abs(got - want) <= expected.bound[i]) continue;
    if (++outside > 3 || !show) continue;
    ADD_FAILURE() << name << "[" << i << "] is " << got << ", not " << want << " +- "
                  << expected.bound[i];
  }
  return outside;
}

inline void expect_within(const char* name, const Packed& x, std::int64_t begin,
                          std::int64_t columns, const Bounded& expected) {
  EXPECT_EQ(count_outside(name, x, begin, columns, expected, /*show=*/true), 0) << name;
}

inline void expect_untouched(const char* name, const Packed& x, std::int64_t rows,
                             std::int64_t begin) {
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t i = 0; i < kPad; ++i) {
      ASSERT_TRUE(std::isnan(x.get(row, begin + i))) << name << " was written beside its view";
    }
  }
}

// The machine epsilon of the arithmetic, and the relative error of a stored result.
struct Precision {
  explicit Precision(DType type)
      : eps(type == DType::kF64 ? 0x1p-52 : 0x1p-23),
        storage(type == DType::kBF16 ? 0x1p-8 : 0.0) {}
  double eps, storage;
};

}  // namespace pg::model::testing

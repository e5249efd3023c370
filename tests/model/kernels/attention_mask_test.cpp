// What a query does not see has no say: other documents, later keys, keys before the window, parts
// without a visible key. And merging outputs, with such empty parts among them.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/model/kernels/operands.h"

namespace pg::model::testing {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kNone = -std::numeric_limits<double>::infinity();

// Self-attention over one sequence, one head of keys for two of queries.
template <class T>
struct Sequence {
  using A = acc_of<T>;
  static constexpr std::int64_t kHeads = 2, kSize = 12;

  explicit Sequence(std::int64_t positions)
      : length(positions),
        q(Matrix<T>::random("q", length, kHeads * kSize, 1)),
        k(Matrix<T>::random("k", length, kSize, 2)),
        v(Matrix<T>::random("v", length, kSize, 3)),
        d_o(Matrix<T>::random("d_o", length, kHeads * kSize)),
        o(length, kHeads * kSize),
        dq(length, kHeads * kSize),
        dk(length, kSize),
        dv(length, kSize),
        lse(kHeads, length) {}

  static TensorView heads(Matrix<T>& x) { return x.view().split_last(kSize).split_first(1); }
  void run(const AttentionShape& shape) {
    const auto kernels = make_cpu_kernels(1);
    const auto sums = lse.view().split_first(1);
    kernels->attention_forward(heads(o), sums, heads(q), heads(k), heads(v), shape, {});
    kernels->attention_backward(heads(dq), heads(dk), heads(dv), heads(d_o), heads(q), heads(k),
                                heads(v), heads(o), sums, shape, {});
  }
  // Keys and values of positions [begin, end).
  void overwrite(std::int64_t begin, std::int64_t end, double key, double value) {
    for (std::int64_t i = begin; i < end; ++i) {
      for (std::int64_t d = 0; d < kSize; ++d) {
        k.at(i, d) = rounded<T>(key);
        v.at(i, d) = rounded<T>(value);
      }
    }
  }

  std::int64_t length;
  Matrix<T> q, k, v, d_o, o, dq, dk, dv;
  Matrix<A> lse;
};

template <class T>
bool same_rows(const Matrix<T>& a, const Matrix<T>& b, std::int64_t begin, std::int64_t end) {
  return std::memcmp(&a.storage[begin * a.stride], &b.storage[begin * b.stride],
                     static_cast<std::size_t>((end - begin) * a.stride) * sizeof(T)) == 0;
}

template <class T>
bool same_lse(const Sequence<T>& a, const Sequence<T>& b, std::int64_t begin, std::int64_t end) {
  for (std::int64_t h = 0; h < Sequence<T>::kHeads; ++h) {
    if (std::memcmp(&a.lse.at(h, begin), &b.lse.at(h, begin),
                    static_cast<std::size_t>(end - begin) * sizeof(a.lse.at(0, 0))) != 0) {
      return false;
    }
  }
  return true;
}

template <class T>
bool finite_rows(const Matrix<T>& x, std::int64_t begin, std::int64_t end) {
  for (std::int64_t i = begin; i < end; ++i) {
    for (std::int64_t j = 0; j < x.width; ++j) {
      if (!std::isfinite(x(i, j))) return false;
    }
  }
  return true;
}

// One row [1, length] of document starts.
std::vector<std::int32_t> starts_of(std::initializer_list<std::int32_t> begins, std::int64_t end) {
  std::vector<std::int32_t> starts;
  for (const auto begin : begins) {
    starts.resize(static_cast<std::size_t>(begin), starts.empty() ? 0 : starts.back());
    starts.push_back(begin);
  }
  starts.resize(static_cast<std::size_t>(end), starts.back());
  return starts;
}
AttentionShape documents(std::vector<std::int32_t>& starts, std::int64_t window) {
  AttentionShape shape{0.29, window};
  shape.visible_from =
      TensorView(starts.data(), DType::kI32, {1, static_cast<std::int64_t>(starts.size())});
  return shape;
}

template <class T>
class AttentionMask : public ::testing::Test {};
TYPED_TEST_SUITE(AttentionMask, ComputeTypes);

// Documents that begin inside panels and blocks; the others' keys are large enough to win every
// softmax that looked at them. Exact also for gradients: what is invisible adds exact zeros.
TYPED_TEST(AttentionMask, other_documents_change_no_bit) {
  constexpr std::int64_t kLength = 300;
  auto starts = starts_of({0, 45, 46, 130, 200}, kLength);
  for (const std::int64_t window : {0, 30}) {
    Sequence<TypeParam> plain(kLength);
    plain.run(documents(starts, window));
    for (const auto& [begin, end] :
         {std::pair<std::int64_t, std::int64_t>{0, 45}, {45, 46}, {46, 130}, {130, 200}}) {
      Sequence<TypeParam> other(kLength);
      other.overwrite(0, begin, 30.0, -1000.0);
      other.overwrite(end, kLength, -30.0, 1000.0);
      other.run(documents(starts, window));
      SCOPED_TRACE(fmt::format("document {} to {}, window {}", begin, end, window));
      EXPECT_TRUE(same_rows(other.o, plain.o, begin, end));
      EXPECT_TRUE(same_lse(other, plain, begin, end));
      EXPECT_TRUE(same_rows(other.dq, plain.dq, begin, end));
      EXPECT_TRUE(same_rows(other.dk, plain.dk, begin, end));
      EXPECT_TRUE(same_rows(other.dv, plain.dv, begin, end));
      // The comparison can fail: the next document did change.
      EXPECT_FALSE(same_rows(other.o, plain.o, 200, kLength));
    }
  }
}

// A NaN spreads to all queries whose panel reads it. It stays where it is, so the keys of documents
// that a panel lies behind are not even read: the work is that of the visible keys.
TYPED_TEST(AttentionMask, documents_that_a_panel_does_not_see_are_not_read) {
  constexpr std::int64_t kLength = 400, kBegin = 192;  // a whole number of panels of any type
  auto starts = starts_of({0, kBegin, 290}, kLength);
  Sequence<TypeParam> x(kLength);
  x.overwrite(0, kBegin, kNan, kNan);
  x.run(documents(starts, 0));
  EXPECT_TRUE(finite_rows(x.o, kBegin, kLength));
  EXPECT_TRUE(finite_rows(x.dq, kBegin, kLength));
  EXPECT_TRUE(finite_rows(x.dk, kBegin, kLength));
  EXPECT_TRUE(finite_rows(x.dv, kBegin, kLength));
  EXPECT_FALSE(finite_rows(x.o, 0, kBegin));
}

// Keys that come later, keys before the window, keys of documents that have ended: o = 0, lse =
// minus infinity, every gradient assigned and exactly 0; with `accumulate` nothing changes.
TYPED_TEST(AttentionMask, parts_without_a_visible_key_are_exactly_empty) {
  constexpr std::int64_t kLength = 150;
  std::vector<std::int32_t> late(kLength, 1150);
  AttentionShape later{0.29}, before{0.29, 851}, ended{0.29};
  later.first_key = kLength;
  before.first_query = ended.first_query = 1000;  // the last key is 851 positions earlier
  ended.visible_from = TensorView(late.data(), DType::kI32, {1, kLength});
  for (const auto& shape : {later, before, ended}) {
    Sequence<TypeParam> x(kLength);
    x.overwrite(0, kLength, kNan, kNan);  // not read either
    x.run(shape);
    for (const auto* result : {&x.o, &x.dq, &x.dk, &x.dv}) {
      for (const auto element : result->storage) ASSERT_EQ(value(element), 0.0);
    }
    for (const auto element : x.lse.storage) ASSERT_EQ(value(element), kNone);

    // As in a ring: the log-sum-exp is finite, of other keys.
    const auto heads = [](Matrix<TypeParam>& m) { return Sequence<TypeParam>::heads(m); };
    x.lse.fill(0.5);
    for (auto* gradient : {&x.dq, &x.dk, &x.dv}) gradient->fill(0.75);
    for (const bool accumulate : {true, false}) {
      make_cpu_kernels(1)->attention_backward(heads(x.dq), heads(x.dk), heads(x.dv), heads(x.d_o),
                                              heads(x.q), heads(x.k), heads(x.v), heads(x.o),
                                              x.lse.view().split_first(1), shape, {}, accumulate);
      for (const auto* gradient : {&x.dq, &x.dk, &x.dv}) {
        for (const auto g : gradient->storage) ASSERT_EQ(value(g), accumulate ? 0.75 : 0.0);
      }
    }
  }
}

template <class A>
class AttentionMerge : public ::testing::Test {};
using AccumulatorTypes = ::testing::Types<double, float>;
TYPED_TEST_SUITE(AttentionMerge, AccumulatorTypes);

// o and other_o [1, n, 1, 5] and lse [1, 1, n] in rows of different strides.
template <class A>
struct Merge {
  explicit Merge(std::int64_t n)
      : o(Matrix<A>::random("o", n, 5, 2)),
        other(Matrix<A>::random("other", n, 5, 1)),
        lse(1, n, 3),
        other_lse(1, n, 1) {}
  void run(int threads = 1) {
    make_cpu_kernels(threads)->attention_merge(by_head(o), sums(lse), by_head(other),
                                               sums(other_lse));
  }
  static TensorView by_head(Matrix<A>& x) { return x.view().split_last(5).split_first(1); }
  static TensorView sums(Matrix<A>& x) { return x.view().split_first(1); }
  Matrix<A> o, other, lse, other_lse;
};

// Any two log-sum-exps, from equal to hopelessly apart. The weights' error is that of the
// difference's exponential, |d| u and a few roundings: below, 8 + |d|, where d counts only up to
// where the smaller weight is 0.
TYPED_TEST(AttentionMerge, is_the_mean_weighted_by_the_sums_of_exponentials) {
  const std::vector<double> values = {-3e4, -700.0, -20.0, -1.0, 0.0, 0.125, 3.0, 88.0, 710.0, 1e5};
  const auto n = static_cast<std::int64_t>(values.size() * values.size());
  for (const int threads : {1, 3}) {
    Merge<TypeParam> x(n);
    for (std::int64_t i = 0; i < n; ++i) {
      x.lse.at(0, i) = static_cast<TypeParam>(values[i / values.size()]);
      x.other_lse.at(0, i) = static_cast<TypeParam>(values[i % values.size()]);
    }
    const auto before = x;
    x.run(threads);
    for (std::int64_t i = 0; i < n; ++i) {
      const double a = before.lse(0, i), b = before.other_lse(0, i), top = std::max(a, b);
      const double sum = std::exp(a - top) + std::exp(b - top);
      const double roundings = 8.0 + std::min(std::fabs(a - b), 800.0);
      expect_close(x.lse.at(0, i), top + std::log(sum), std::fabs(top) + 1.0, 4.0, place(0, i));
      for (std::int64_t d = 0; d < 5; ++d) {
        const double ours = before.o(i, d) * std::exp(a - top) / sum;
        const double theirs = before.other(i, d) * std::exp(b - top) / sum;
        expect_close(x.o.at(i, d), ours + theirs, std::fabs(ours) + std::fabs(theirs), roundings,
                     place(i, d), std::numeric_limits<TypeParam>::min());
      }
    }
    EXPECT_TRUE(x.o.padding_is_untouched() && x.lse.padding_is_untouched());
    EXPECT_TRUE(x.other.same_bits(before.other) && x.other_lse.same_bits(before.other_lse));
  }
}

// Down to the sign of a zero.
TYPED_TEST(AttentionMerge, an_empty_side_leaves_the_other_its_bits) {
  constexpr std::int64_t kRows = 9;
  const auto row_of = [](Merge<TypeParam>& x, double lse, double other_lse) {
    x.o.at(4, 2) = x.other.at(4, 2) = static_cast<TypeParam>(-0.0);
    x.lse.fill(lse);
    x.other_lse.fill(other_lse);
    if (lse == kNone) x.o.fill(0.0);
    if (other_lse == kNone) x.other.fill(0.0);
  };
  for (const auto& [lse, other_lse] :
       {std::pair{1.5, kNone}, std::pair{kNone, 1.5}, std::pair{kNone, kNone}}) {
    Merge<TypeParam> x(kRows);
    row_of(x, lse, other_lse);
    const auto before = x;
    x.run();
    const bool ours = other_lse == kNone;
    for (std::int64_t i = 0; i < kRows; ++i) {
      EXPECT_EQ(x.lse(0, i), ours ? lse : other_lse);
      const void *got = &x.o.at(i, 0), *want = ours ? &before.o.at(i, 0) : &before.other.at(i, 0);
      EXPECT_EQ(std::memcmp(got, want, 5 * sizeof(TypeParam)), 0);
    }
  }
}

TYPED_TEST(AttentionMerge, nan_on_either_side_is_seen) {
  for (const bool ours : {true, false}) {
    for (const double rest : {-2.0, 0.0, 2.0}) {
      Merge<TypeParam> x(3);
      x.lse.fill(ours ? kNan : rest);
      x.other_lse.fill(ours ? rest : kNan);
      x.run();
      for (std::int64_t i = 0; i < 3; ++i) {
        EXPECT_TRUE(std::isnan(x.lse(0, i)) && std::isnan(x.o(i, 0)));
      }
    }
  }
}

}  // namespace
}  // namespace pg::model::testing

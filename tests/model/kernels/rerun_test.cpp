// Recomputed activations are the ones of the first pass: the same operands give the same bits when
// an operation runs again, on copies that lie elsewhere in memory (other strides and alignments).
// The norm runs again from the stored sum, without the branch that was added to it.
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/model/kernels/operands.h"

namespace pg::model::testing {
namespace {

constexpr std::int64_t kRows = 37;
constexpr std::int64_t kWidths[] = {1, 3, 17, 255, 257, 768};

// The same elements, whatever the padding.
template <class T>
bool same_elements(const Matrix<T>& a, const Matrix<T>& b) {
  if (a.n != b.n || a.width != b.width) return false;
  for (std::int64_t i = 0; i < a.n; ++i) {
    const auto bytes = static_cast<std::size_t>(a.width) * sizeof(T);
    if (std::memcmp(&a.at(i, 0), &b.at(i, 0), bytes) != 0) return false;
  }
  return true;
}

template <class T>
Matrix<T> moved(const Matrix<T>& from, std::int64_t padding) {
  Matrix<T> to(from.n, from.width, padding);
  for (std::int64_t i = 0; i < from.n; ++i) {
    for (std::int64_t j = 0; j < from.width; ++j) to.at(i, j) = from.at(i, j);
  }
  return to;
}

template <class T>
class Rerun : public ::testing::Test {};
TYPED_TEST_SUITE(Rerun, ComputeTypes);

TYPED_TEST(Rerun, norm_of_the_saved_sum_is_that_of_the_first_pass) {
  using T = TypeParam;
  using A = acc_of<T>;
  const auto kernels = make_cpu_kernels(0);
  for (const NormKind kind : {NormKind::kRmsNorm, NormKind::kLayerNorm}) {
    for (const std::int64_t width : kWidths) {
      auto residual = Matrix<T>::random("residual", kRows, width, 3, 0.25);
      auto x = Matrix<T>::random("x", kRows, width);
      auto gamma = Matrix<T>::random("gamma", 1, width, 0, 1.0, 0.1);
      auto beta = Matrix<T>::random("beta", 1, width);
      const TensorView shift = kind == NormKind::kLayerNorm ? beta.flat() : TensorView();
      Matrix<T> y(kRows, width, 1), r(kRows, width, 2), again(kRows, width);
      Matrix<A> stats(kRows, 2), stats_again(kRows, 2);
      kernels->norm_forward(kind, y.view(), r.view(), stats.view(), residual.view(), x.view(),
                            gamma.flat(), shift, 1e-5);
      auto saved = moved(r, 5);
      kernels->norm_forward(kind, again.view(), TensorView(), stats_again.view(), saved.view(),
                            TensorView(), gamma.flat(), shift, 1e-5);
      EXPECT_TRUE(same_elements(again, y)) << width;
      EXPECT_TRUE(same_elements(stats_again, stats)) << width;
    }
  }
}

TYPED_TEST(Rerun, activations_give_the_same_bits) {
  using T = TypeParam;
  const auto kernels = make_cpu_kernels(0);
  for (const std::int64_t width : kWidths) {
    auto x = Matrix<T>::random("x", kRows, width, 1, 0.0, 2.0);
    auto up = Matrix<T>::random("up", kRows, width, 2);
    auto x_again = moved(x, 4), up_again = moved(up, 0);
    Matrix<T> y(kRows, width), again(kRows, width, 3);
    kernels->gelu_forward(y.view(), x.view());
    kernels->gelu_forward(again.view(), x_again.view());
    EXPECT_TRUE(same_elements(again, y)) << "gelu, width " << width;
    kernels->swiglu_forward(y.view(), x.view(), up.view());
    kernels->swiglu_forward(again.view(), x_again.view(), up_again.view());
    EXPECT_TRUE(same_elements(again, y)) << "swiglu, width " << width;
  }
}

TYPED_TEST(Rerun, dropout_drops_the_same) {
  using T = TypeParam;
  const auto kernels = make_cpu_kernels(0);
  const std::vector<std::int64_t> samples = {4};
  const Dropout dropout{.rate = 0.3, .key = comm::random_key(3, "rerun"), .samples = samples};
  for (const std::int64_t width : kWidths) {
    auto x = Matrix<T>::random("x", kRows, width, 1);
    auto again = moved(x, 4);
    kernels->dropout(x.view(), dropout);
    kernels->dropout(again.view(), dropout);
    EXPECT_TRUE(same_elements(again, x)) << width;
  }
}

TYPED_TEST(Rerun, attention_gives_the_same_bits) {
  using T = TypeParam;
  using A = acc_of<T>;
  const auto kernels = make_cpu_kernels(0);
  constexpr std::int64_t kSequences = 2, kLength = 70, kHeads = 3, kSize = 20;
  const std::vector<std::int64_t> samples = {4, 9};
  for (const double rate : {0.0, 0.3}) {
    const Dropout dropout{.rate = rate, .key = comm::random_key(3, "rerun"), .samples = samples};
    const auto forward = [&](Matrix<T>& o, Matrix<A>& lse, Matrix<T>& qkv) {
      const auto heads = [&](TensorView x) { return x.split_last(kSize).split_first(kSequences); };
      const auto part = [&](std::int64_t i) {
        return heads(qkv.view().slice(1, i * kHeads * kSize, kHeads * kSize));
      };
      kernels->attention_forward(heads(o.view()), lse.view().split_first(kSequences), part(0),
                                 part(1), part(2), {0.22, 0}, dropout);
    };
    auto qkv = Matrix<T>::random("qkv", kSequences * kLength, 3 * kHeads * kSize, 1);
    auto qkv_again = moved(qkv, 6);
    Matrix<T> o(qkv.n, kHeads * kSize, 2), again(qkv.n, kHeads * kSize);
    Matrix<A> lse(kSequences * kHeads, kLength), lse_again(kSequences * kHeads, kLength);
    forward(o, lse, qkv);
    forward(again, lse_again, qkv_again);
    EXPECT_TRUE(same_elements(again, o)) << rate;
    EXPECT_TRUE(lse_again.same_bits(lse)) << rate;
  }
}

// Products at other addresses but of the same strides: another stride may take another algorithm.
TYPED_TEST(Rerun, products_give_the_same_bits) {
  using T = TypeParam;
  const auto kernels = make_cpu_kernels(0);
  constexpr std::int64_t kOut = 65;
  for (const std::int64_t width : kWidths) {
    auto w = Matrix<T>::random("w", kOut, width);
    auto bias = Matrix<T>::random("bias", 1, kOut);
    const auto x = Matrix<T>::random("x", kRows, width);
    Matrix<T> first(1, 1);
    for (const std::int64_t offset : {0, 1, 5}) {  // in elements
      Matrix<T> x_at(1, offset + kRows * width), y_at(1, offset + kRows * kOut);
      std::copy(x.storage.begin(), x.storage.end(), x_at.storage.begin() + offset);
      const auto rows = [&](Matrix<T>& at, std::int64_t columns) {
        return at.view().slice(1, offset, kRows * columns).reshape({kRows, columns});
      };
      kernels->linear_forward(rows(y_at, kOut), rows(x_at, width), w.view(), bias.flat());
      Matrix<T> y(kRows, kOut);
      std::copy(y_at.storage.begin() + offset, y_at.storage.end(), y.storage.begin());
      if (offset == 0) first = y;
      EXPECT_TRUE(y.same_bits(first)) << "width " << width << ", offset " << offset;
    }
  }
}

}  // namespace
}  // namespace pg::model::testing

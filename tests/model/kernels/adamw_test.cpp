#include <gtest/gtest.h>

#include <limits>

#include "tests/model/kernels/operands.h"

namespace pg::model::testing {
namespace {

// Everything AdamW holds for n weights of storage type W.
template <class W>
struct State {
  using A = acc_of<W>;
  static constexpr bool kHasMaster = !std::is_same_v<W, A>;
  Matrix<W> weight;
  Matrix<A> master, m, v, grad;

  explicit State(std::int64_t n)
      : weight(Matrix<W>::random("w", 1, n)), master(1, n), m(1, n), v(1, n), grad(1, n) {
    for (std::int64_t i = 0; i < n; ++i) {
      // Masters have more digits than the weights that they round to.
      master.at(0, i) = static_cast<A>(weight(0, i) * (1.0 + 1e-4));
    }
    m.fill(0.0);
    v.fill(0.0);
  }
  void draw_gradient(int step) {
    grad = Matrix<A>::random("g" + std::to_string(step), 1, grad.width, 0, 0.0, 0.5);
  }
  void update(Kernels& kernels, const AdamWStep& step, double weight_decay) {
    const AdamWTensors tensors{weight.flat(), kHasMaster ? master.flat() : TensorView(),
                               m.flat(),      v.flat(),
                               grad.flat(),   weight_decay};
    kernels.adamw({&tensors, 1}, step);
  }
  double exact(std::int64_t i) const { return kHasMaster ? master(0, i) : weight(0, i); }
};

template <class T>
class AdamW : public ::testing::Test {};
TYPED_TEST_SUITE(AdamW, ComputeTypes);

TYPED_TEST(AdamW, five_steps_follow_the_formula_of_the_paper) {
  const auto kernels = make_cpu_kernels(0);
  for (const std::int64_t n : {1, 3, 17, 255, 257, 40'001}) {
    State<TypeParam> state(n);
    using A = acc_of<TypeParam>;
    std::vector<double> w(n), m(n), v(n), m_size(n), w_bound(n);
    for (std::int64_t i = 0; i < n; ++i) w[i] = state.exact(i);
    AdamWStep step{.lr = 3e-2, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .grad_scale = 0.75};
    constexpr double kDecay = 0.1;
    for (step.step = 1; step.step <= 5; ++step.step) {
      state.draw_gradient(static_cast<int>(step.step));
      const double t = static_cast<double>(step.step);
      for (std::int64_t i = 0; i < n; ++i) {
        const double g = state.grad(0, i) * step.grad_scale;
        m[i] = step.beta1 * m[i] + (1.0 - step.beta1) * g;
        m_size[i] = step.beta1 * m_size[i] + (1.0 - step.beta1) * std::fabs(g);
        v[i] = step.beta2 * v[i] + (1.0 - step.beta2) * g * g;
        const double m_hat = m[i] / (1.0 - std::pow(step.beta1, t));
        const double v_hat = v[i] / (1.0 - std::pow(step.beta2, t));
        const double denominator = std::sqrt(v_hat) + step.eps;
        w[i] -= step.lr * (m_hat / denominator + kDecay * w[i]);
        // Of the update: at most 4 roundings a step in m (relative to the sum of its absolute
        // terms), 6 in v (halved by the root), 6 in the quotient and its factors. Of w: its own
        // product, difference and factor, 3.
        const double m_hat_size = m_size[i] / (1.0 - std::pow(step.beta1, t));
        w_bound[i] +=
            unit<A>() * ((7.0 * t + 6.0) * step.lr * m_hat_size / denominator +
                         3.0 * std::fabs(w[i]) + 3.0 * step.lr * m_hat_size / denominator);
      }
      state.update(*kernels, step, kDecay);
      for (std::int64_t i = 0; i < n; ++i) {
        expect_close(state.m.at(0, i), m[i], m_size[i], 4.0 * t, "m" + place(t, i));
        expect_close(state.v.at(0, i), v[i], v[i], 6.0 * t, "v" + place(t, i));
        ASSERT_TRUE(std::fabs(state.exact(i) - w[i]) <= w_bound[i])
            << "w" << place(t, i) << " got " << state.exact(i) << " want " << w[i] << " bound "
            << w_bound[i];
        if constexpr (State<TypeParam>::kHasMaster) {
          ASSERT_EQ(state.weight(0, i), value(rounded<TypeParam>(state.exact(i)))) << i;
        }
      }
    }
  }
}

TYPED_TEST(AdamW, updates_are_the_same_bits_for_any_team) {
  const auto kernels = make_cpu_kernels(0);
  State<TypeParam> first(1);
  for_each_team([&](int threads) {
    State<TypeParam> state(70'001);
    for (int t = 1; t <= 2; ++t) {
      state.draw_gradient(t);
      state.update(*kernels, {.lr = 1e-2, .step = t}, 0.1);
    }
    if (threads == 1) first = state;
    EXPECT_TRUE(state.weight.same_bits(first.weight)) << threads;
    EXPECT_TRUE(state.m.same_bits(first.m)) << threads;
    EXPECT_TRUE(state.v.same_bits(first.v)) << threads;
  });
}

TYPED_TEST(AdamW, a_not_finite_gradient_reaches_the_weight) {
  const auto kernels = make_cpu_kernels(0);
  for (const double bad :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    State<TypeParam> state(257);
    state.draw_gradient(1);
    state.grad.at(0, 100) = static_cast<acc_of<TypeParam>>(bad);
    state.update(*kernels, {.lr = 1e-2, .step = 1}, 0.1);
    for (std::int64_t i = 0; i < 257; ++i) {
      EXPECT_EQ(std::isnan(state.weight(0, i)), i == 100) << i;  // inf / inf is NaN
    }
  }
}

TEST(AdamW, the_master_keeps_updates_that_bf16_would_lose) {
  const auto kernels = make_cpu_kernels(0);
  // Steps of 1e-3 on a weight of 1: each is a quarter of the distance that moves a bf16.
  State<bf16> state(1);
  state.weight.fill(1.0);
  state.master.fill(1.0);
  for (int t = 1; t <= 8; ++t) {
    state.grad.fill(1.0);
    state.update(*kernels, {.lr = 1e-3, .beta1 = 0.9, .beta2 = 0.9, .step = t}, 0.0);
  }
  // With a constant gradient every step is lr, so 8 of them arrive at 0.992 (see the bound of five
  // steps for why 1e-6 is ample); its nearest bf16 is 0.9921875.
  EXPECT_NEAR(state.master(0, 0), 0.992, 1e-6);
  EXPECT_EQ(state.weight(0, 0), 0.9921875);
}

}  // namespace
}  // namespace pg::model::testing

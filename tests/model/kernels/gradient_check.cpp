#include "tests/model/kernels/gradient_check.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

namespace pg::model::testing {

namespace {

constexpr double kStep = 0x1.0p-8;  // h: balances h^4 against 1e-16 / h for functions of scale 1
constexpr double kWeakest = 1e-6;

}  // namespace

void expect_gradients_match(const std::function<void()>& forward, std::span<const double> outputs,
                            std::span<const double> weights,
                            std::initializer_list<CheckedInput> inputs, double roundings) {
  ASSERT_EQ(outputs.size(), weights.size());
  double magnitude = 0.0;  // sum of the absolute terms of the last loss
  const auto loss = [&] {
    forward();
    double sum = 0.0;
    magnitude = 0.0;
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      sum += weights[i] * outputs[i];
      magnitude += std::fabs(weights[i] * outputs[i]);
    }
    return sum;
  };
  for (const CheckedInput& input : inputs) {
    ASSERT_EQ(input.values.size(), input.gradient.size()) << input.name;
    double scale = 0.0;
    for (const double g : input.gradient) scale = std::max(scale, std::fabs(g));
    for (std::size_t i = 0; i < input.values.size(); ++i) {
      double& x = input.values[i];
      const double kept = x;
      std::array<double, 3> difference{};  // D(h), D(2h), D(4h)
      for (int level = 0; level < 3; ++level) {
        const double h = kStep * (1 << level);
        x = kept + h;
        const double above = x, loss_above = loss();
        x = kept - h;
        const double below = x, loss_below = loss();
        difference[level] = (loss_above - loss_below) / (above - below);
      }
      x = kept;
      const double fine = (4.0 * difference[0] - difference[1]) / 3.0;
      const double coarse = (4.0 * difference[1] - difference[2]) / 3.0;
      const double truncation = 4.0 * std::fabs(coarse - fine) / 15.0;
      const double rounding =
          roundings * std::numeric_limits<double>::epsilon() * magnitude * 1.5 / kStep;
      const double tolerance = truncation + rounding;
      ASSERT_LE(tolerance, kWeakest * std::max(1.0, scale))
          << input.name << "[" << i << "]: the function is too rough for this check";
      // Not EXPECT_NEAR: a NaN must fail with the place.
      ASSERT_TRUE(std::fabs(input.gradient[i] - fine) <= tolerance)
          << input.name << "[" << i << "]: backward " << input.gradient[i] << ", differences "
          << fine << ", tolerance " << tolerance;
    }
  }
  forward();  // outputs as the caller left them
}

}  // namespace pg::model::testing

// Gradients against central differences in fp64, with a tolerance computed from the function
// itself.
//
// The loss is L = sum_i weights[i] * outputs[i]. For each input element, central differences at
// steps h, 2h and 4h are extrapolated twice (Richardson). With D(h) = L' + a h^2 + b h^4 + ...:
//   R(h) = (4 D(h) - D(2h)) / 3 = L' - 4 b h^4 + ...,  R(2h) - R(h) = -60 b h^4 + ...,
// so R(h) is off by about |R(2h) - R(h)| / 15. Rounding in L, at most `roundings` ulps of
// sum_i |weights[i] outputs[i]|, enters R(h) through (4/3) / h + (1/3) / (2h) = 1.5 / h.
// The tolerance is the rounding part plus four times the truncation part (higher terms), and the
// check fails too when it exceeds kWeakest times the gradient's scale: it could prove nothing then.
#pragma once

#include <functional>
#include <initializer_list>
#include <span>
#include <string>

namespace pg::model::testing {

struct CheckedInput {
  std::string name;
  std::span<double> values;          // perturbed in place and put back
  std::span<const double> gradient;  // dL/dvalues by the backward operation
};

// forward() recomputes `outputs` from the inputs.
void expect_gradients_match(const std::function<void()>& forward, std::span<const double> outputs,
                            std::span<const double> weights,
                            std::initializer_list<CheckedInput> inputs, double roundings = 64.0);

}  // namespace pg::model::testing

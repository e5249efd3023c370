// The dense axes together: the same deck and seed on any legal grid, ZeRO stage, schedule and
// recomputation give the losses and gradients of one rank. Bounds as in parity_test.cpp; 10 steps.
//
//   test_matrix [--all [from [to]]]: every case, not only the covering ones
#include "matrix.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>

namespace pg::testing {
namespace {

constexpr ParityBounds kFp64{1e-9, 1e-6, 1e-9};
constexpr std::int64_t kSteps = 10;

std::filesystem::path tokens() {
  static const auto path = make_tokens(comm::Communicator::world(), "matrix", 9001, 61, 3);
  return path;
}

bool root() {
  return comm::Communicator::world().rank() == 0;
}

const Trace& reference(Style style, DType type) {
  static std::map<std::pair<Style, DType>, Trace> made;
  const auto key = std::make_pair(style, type);
  if (!made.count(key)) made[key] = one_rank(matrix_deck(style, tokens(), type), kSteps);
  return made[key];
}

void run_cases(const std::vector<MatrixCase>& cases) {
  const auto begin = std::chrono::steady_clock::now();
  double worst_gradient = 0, worst_loss = 0;
  for (const auto& c : cases) {
    const auto result = compare(c.deck(tokens(), DType::kF64), c.ranks(),
                                reference(c.style, DType::kF64), kFp64);
    EXPECT_LE(result.worst_gradient, kFp64.gradient) << c.name() << ": " << result.worst_parameter;
    EXPECT_LE(result.worst_loss, kFp64.loss) << c.name() << " at step " << result.worst_step;
    worst_gradient = std::max(worst_gradient, result.worst_gradient);
    worst_loss = std::max(worst_loss, result.worst_loss);
    if (root() && std::getenv("PG_MATRIX_VERBOSE") != nullptr) {
      std::printf("    %-48s gradient %.1e, loss %.1e\n", c.name().c_str(), result.worst_gradient,
                  result.worst_loss);
      std::fflush(stdout);
    }
  }
  if (root()) {
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    std::printf("    %zu cases in %.1f s: worst gradient %.1e of %.0e, worst loss %.1e of %.0e\n",
                cases.size(), seconds.count(), worst_gradient, kFp64.gradient, worst_loss,
                kFp64.loss);
  }
}

TEST(Matrix, one_rank_learns) {
  for (const auto style : {Style::kLlama, Style::kGpt2}) {
    const auto& trace = reference(style, DType::kF64);
    EXPECT_LT(trace.losses.back(), trace.losses.front() - 0.2) << style_name(style);
  }
}

TEST(Matrix, fp64_is_the_same_on_every_covering_case) {
  const auto all = all_cases(comm::Communicator::world().size());
  const auto cases = covering(all);
  if (root()) std::printf("    %zu legal cases, %zu cover all pairs\n", all.size(), cases.size());
  run_cases(cases);
}

}  // namespace
}  // namespace pg::testing

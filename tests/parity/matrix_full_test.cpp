// Every legal case of the matrix, and bf16.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdio>

#include "matrix.h"

namespace pg::testing {
namespace {

constexpr ParityBounds kFp64{1e-9, 1e-6, 1e-9, 1e-9};  // derived in parity_test.cpp

bool root() {
  return comm::Communicator::world().rank() == 0;
}

TEST(MatrixFull, fp64_is_the_same_on_every_legal_case) {
  const auto tokens = make_tokens(comm::Communicator::world(), "matrix_full", 9001, 61, 3);
  const auto begin = std::chrono::steady_clock::now();
  const auto llama = one_rank(matrix_deck(Style::kLlama, tokens, DType::kF64), 10);
  const auto gpt2 = one_rank(matrix_deck(Style::kGpt2, tokens, DType::kF64), 10);
  double worst_gradient = 0, worst_loss = 0, worst_norm = 0;
  const auto cases = all_cases(comm::Communicator::world().size());
  for (const auto& c : cases) {
    const auto result = compare(c.deck(tokens, DType::kF64), c.ranks(),
                                c.style == Style::kLlama ? llama : gpt2, kFp64);
    EXPECT_LE(result.worst_gradient, kFp64.gradient) << c.name() << ": " << result.worst_parameter;
    EXPECT_LE(result.worst_loss, kFp64.loss) << c.name() << " at step " << result.worst_step;
    EXPECT_LE(result.worst_norm, kFp64.norm) << c.name();
    worst_gradient = std::max(worst_gradient, result.worst_gradient);
    worst_loss = std::max(worst_loss, result.worst_loss);
    worst_norm = std::max(worst_norm, result.worst_norm);
  }
  if (root()) {
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    std::printf(
        "    %zu cases in %.1f s: worst gradient %.1e of %.0e, worst loss %.1e and "
        "norm %.1e of %.0e\n",
        cases.size(), seconds.count(), worst_gradient, kFp64.gradient, worst_loss, worst_norm,
        kFp64.loss);
  }
}

}  // namespace
}  // namespace pg::testing

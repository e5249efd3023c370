// The full products: every routing on every ep, ZeRO stage and recomputation in both styles; every
// method on every cp, mask, ZeRO stage and recomputation; each mixed with one of the legal dp, tp,
// pp, schedules and micro-batches (experts with cp too). And
// bf16.
#include <gtest/gtest.h>

#include "axes.h"
#include "case_runner.h"

namespace pg::testing {
namespace {

TEST(AxesFull, every_routing_is_the_same_on_every_ep_zero_stage_and_recomputation) {
  CaseRunner runner("experts_full");
  const auto core = [](const MatrixCase& c) -> std::vector<int> {
    return {static_cast<int>(c.style), static_cast<int>(c.feed), c.ep, c.zero,
            static_cast<int>(c.recompute.mode)};
  };
  const auto cases = one_of_each(expert_cases(comm::Communicator::world().size()), core);
  EXPECT_EQ(cases.size(), 2U * 6 * 3 * 4 * 3);
  runner.expect_parity(cases);
}

TEST(AxesFull, every_method_is_the_same_on_every_cp_mask_zero_stage_and_recomputation) {
  CaseRunner runner("context_full");
  const auto core = [](const MatrixCase& c) -> std::vector<int> {
    return {static_cast<int>(c.style),
            static_cast<int>(c.context),
            c.cp,
            static_cast<int>(c.mask),
            c.zero,
            static_cast<int>(c.recompute.mode)};
  };
  const auto cases = one_of_each(context_cases(comm::Communicator::world().size()), core);
  EXPECT_EQ(cases.size(), 2U * 3 * 3 * 3 * 4 * 3);
  runner.expect_parity(cases);
}

TEST(AxesFull, bf16_on_a_grid_is_as_close_to_fp64_as_on_one_rank) {
  CaseRunner runner("axes_bf16");
  runner.expect_as_close_in_bf16(low_precision_axes());
}

}  // namespace
}  // namespace pg::testing

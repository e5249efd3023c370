// Experts and parts of sequences in fp32. A rounding may send a token to another expert, where two
// of its probabilities agree to that rounding: rarely enough that this seed shows none. bf16, where
// one rank does so too: axes_full_test.cpp.
#include <gtest/gtest.h>

#include "axes.h"
#include "case_runner.h"

namespace pg::testing {
namespace {

TEST(AxesPrecision, fp32_is_the_same_within_rounding) {
  CaseRunner runner("axes_fp32");
  runner.expect_parity_in_fp32(low_precision_axes());
}

}  // namespace
}  // namespace pg::testing

// Sequences cut over ranks: each method, whatever attention may see, gives the losses and gradients
// of whole sequences on one rank. Bounds as in parity_test.cpp; 10 steps.
#include <gtest/gtest.h>

#include <cstdio>

#include "axes.h"
#include "case_runner.h"

namespace pg::testing {
namespace {

CaseRunner& runner() {
  static CaseRunner made("context");
  return made;
}

TEST(Context, fp64_is_the_same_on_every_covering_case) {
  const auto all = context_cases(comm::Communicator::world().size());
  const auto cases = covering(all);
  if (root()) {
    std::printf("    %zu legal cases; %zu have every combination of three factors\n", all.size(),
                cases.size());
  }
  runner().expect_parity(cases);
}

}  // namespace
}  // namespace pg::testing

// Mixtures of experts: whatever the routing, the same deck and seed on any grid give the losses,
// gradients, routers' losses and dropped tokens of one rank. Bounds as in parity_test.cpp; 10
// steps.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>

#include "axes.h"
#include "case_runner.h"

namespace pg::testing {
namespace {

CaseRunner& runner() {
  static CaseRunner made("experts");
  return made;
}

MatrixCase of(Style style, Feed feed) {
  MatrixCase c;
  c.style = style;
  c.feed = feed;
  c.sequences = 1;
  return c;
}

// What the cases below are compared with: runs that learn, with routers at work.
TEST(Experts, one_rank_learns_balances_and_drops) {
  for (const auto style : {Style::kLlama, Style::kGpt2}) {
    for (const auto feed : {Feed::kTopK, Feed::kTopKShared, Feed::kTopKCapacity, Feed::kSwitch,
                            Feed::kBalanced, Feed::kExpertChoice}) {
      const auto& trace = runner().reference(of(style, feed));
      const auto what = std::string(style_name(style)) + " " + feed_name(feed);
      EXPECT_LT(trace.losses.back(), trace.losses.front() - 0.2) << what;
      EXPECT_GT(trace.aux_losses.front(), 0.0) << what;
      const auto [least, most] = std::minmax_element(trace.dropped.begin(), trace.dropped.end());
      if (feed == Feed::kTopKCapacity || feed == Feed::kSwitch) {
        EXPECT_GT(*least, 0.0) << what;
        if (root()) std::printf("    %-16s drops %.3f to %.3f\n", what.c_str(), *least, *most);
      } else {
        EXPECT_EQ(*most, 0.0) << what;
      }
    }
  }
}

TEST(Experts, fp64_is_the_same_on_every_covering_case) {
  const auto all = expert_cases(comm::Communicator::world().size());
  const auto cases = covering(all);
  if (root()) {
    std::printf("    %zu legal cases; %zu have every combination of three factors\n", all.size(),
                cases.size());
  }
  runner().expect_parity(cases);
}

}  // namespace
}  // namespace pg::testing

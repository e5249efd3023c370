// All axes at once, on as many ranks as the program has: experts, documents, parts of sequences,
// tensors and stages, with what each ZeRO stage, schedule and recomputation adds. Bounds as in
// parity_test.cpp; 10 steps.
#include <gtest/gtest.h>

#include "axes.h"
#include "case_runner.h"

namespace pg::testing {
namespace {

using model::ContextMethod;
using model::Recompute;
using model::ScheduleKind;

struct Grid {
  int dp, tp, pp, ep, cp;
};

MatrixCase five(Style style, Feed feed, const Grid& grid, ContextMethod method,
                ScheduleKind schedule, int zero, Recompute mode, bool sequence = true,
                Mask mask = Mask::kDocuments) {
  auto c = with_mask(of_style(style, feed), mask);
  c = with_context(with_experts(c, grid.ep), grid.cp, method);
  c = with_tensor(with_stages(c, grid.pp, schedule), grid.tp, sequence && grid.tp > 1);
  return with_recompute(with_zero(c, grid.dp, zero), mode);
}

std::vector<MatrixCase> cases() {
  constexpr auto kLlama = Style::kLlama, kGpt2 = Style::kGpt2;
  constexpr auto kRing = ContextMethod::kRing, kUlysses = ContextMethod::kUlysses,
                 kAllGather = ContextMethod::kAllGather;
  constexpr auto k1F1B = ScheduleKind::k1F1B, kGPipe = ScheduleKind::kGPipe,
                 kInterleaved = ScheduleKind::kInterleaved;
  constexpr auto kNone = Recompute::kNone, kSelective = Recompute::kSelective,
                 kFull = Recompute::kFull;
  return {
      {five(kLlama, Feed::kTopKShared, {1, 2, 2, 2, 2}, kRing, k1F1B, 3, kFull)},
      {five(kGpt2, Feed::kTopKCapacity, {1, 2, 2, 2, 2}, kUlysses, kInterleaved, 1, kSelective)},
      {five(kLlama, Feed::kBalanced, {2, 2, 1, 2, 2}, kAllGather, k1F1B, 2, kNone, false)},
      {five(kGpt2, Feed::kSwitch, {1, 1, 2, 2, 4}, kRing, kGPipe, 3, kNone, false,
            Mask::kDocumentsWindow)},
      {five(kLlama, Feed::kTopK, {1, 2, 1, 4, 2}, kUlysses, k1F1B, 3, kSelective)},
      {five(kGpt2, Feed::kTopKShared, {2, 1, 1, 2, 4}, kUlysses, k1F1B, 2, kFull)},
      {five(kLlama, Feed::kTopKCapacity, {2, 2, 2, 2, 2}, kRing, k1F1B, 3, kFull)},
      {five(kGpt2, Feed::kBalanced, {2, 2, 2, 2, 2}, kUlysses, kInterleaved, 1, kNone)},
      {five(kLlama, Feed::kTopKShared, {2, 2, 2, 2, 2}, kAllGather, kGPipe, 2, kSelective, false)},
  };
}

TEST(FiveAxes, fp64_is_the_same_as_on_one_rank) {
  const int ranks = comm::Communicator::world().size();
  CaseRunner runner("five_axes" + std::to_string(ranks));
  std::vector<MatrixCase> mine;
  for (const auto& c : cases()) {
    ASSERT_TRUE(c.legal()) << c.name();
    if (c.ranks() == ranks) mine.push_back(c);
  }
  ASSERT_GE(mine.size(), 3U);
  runner.expect_parity(mine);
}

}  // namespace
}  // namespace pg::testing

// The parity matrix with grids that compute on GPUs, against one rank on the CPU: the same bounds
// (parity_test.cpp), since fp64 sums differ between the backends as they do between grids.
//
// Built for the simulated GPU, where a part of the lists runs, and for a real one, which runs all
// of them: ranks then share it, and messages go through pinned memory.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>

#include "comm/gpu.h"
#include "parity/axes.h"
#include "parity/case_runner.h"

namespace pg::testing {
namespace {

using model::ContextMethod;
using model::Recompute;
using model::ScheduleKind;

bool simulated() {
  return comm::Gpu(0).info().name == "simulated GPU";
}

// A list as it is, or on the simulated GPU, which is slow, every n-th of it; with
// PG_DEVICE_PARITY=more (make test-full) four times as many. On a real GPU PG_DEVICE_PARITY=n takes
// every n-th.
std::vector<MatrixCase> share(const std::vector<MatrixCase>& all, std::size_t n) {
  const char* const wish = std::getenv("PG_DEVICE_PARITY");
  if (!simulated()) {
    n = wish == nullptr ? 1 : std::max(1UL, std::strtoul(wish, nullptr, 10));
  } else if (wish != nullptr) {
    n = (n + 3) / 4;
  }
  std::vector<MatrixCase> some;
  for (auto i = std::min(n / 2, all.size() - 1); i < all.size(); i += n) some.push_back(all[i]);
  return some;
}

CaseRunner make_runner(const std::string& name) {
  CaseRunner runner(name, simulated() ? 2 : 10);
  runner.set_device("cuda");
  return runner;
}

int ranks() {
  return comm::Communicator::world().size();
}

// What each feature of a model asks of the kernels, on one rank: everything but messages.
std::vector<MatrixCase> one_rank_cases() {
  std::vector<MatrixCase> cases;
  for (const auto style : {Style::kLlama, Style::kGpt2}) {
    for (const auto feed : {Feed::kDense, Feed::kTopK, Feed::kTopKShared, Feed::kTopKCapacity,
                            Feed::kSwitch, Feed::kBalanced, Feed::kExpertChoice}) {
      cases.push_back(of_style(style, feed));
    }
    for (const auto mask :
         {Mask::kCausal, Mask::kWindow, Mask::kDocuments, Mask::kDocumentsWindow}) {
      cases.push_back(with_mask(of_style(style), mask));
    }
    for (const auto mode : {Recompute::kSelective, Recompute::kFull}) {
      cases.push_back(with_recompute(of_style(style), mode));
    }
  }
  return cases;
}

TEST(DeviceParity, every_feature_on_one_rank) {
  if (ranks() > 1 && simulated()) return;  // the same on each
  auto runner = make_runner("device_parity_one");
  runner.expect_parity(share(one_rank_cases(), 3));
}

TEST(DeviceParity, dense_axes) {
  if (ranks() == 1) return;
  auto runner = make_runner("device_parity_dense");
  runner.expect_parity(share(covering(all_cases(ranks())), 48));
}

TEST(DeviceParity, experts) {
  if (ranks() == 1) return;
  auto runner = make_runner("device_parity_experts");
  runner.expect_parity(share(covering(expert_cases(ranks())), 48));
}

TEST(DeviceParity, parts_of_sequences) {
  if (ranks() == 1) return;
  auto runner = make_runner("device_parity_context");
  auto cases = share(covering(context_cases(ranks())), 32);
  for (const auto style : {Style::kLlama, Style::kGpt2}) {
    cases.push_back(with_context(of_style(style), 2, ContextMethod::kRing));
  }
  runner.expect_parity(cases);
}

TEST(DeviceParity, fp32) {
  if (ranks() > 1 && simulated()) return;
  auto runner = make_runner("device_parity_fp32");
  runner.expect_parity_in_fp32(
      {of_style(Style::kLlama), of_style(Style::kGpt2), of_style(Style::kLlama, Feed::kTopK)});
}

// bf16's kernels round at other places than the CPU's: a run's distance from fp64 is compared with
// the CPU's, the rule of the matrix. Of the losses it takes 12 seeds, for which the simulated GPU
// is too slow; there the gradients alone, thousands of elements of one seed.
TEST(DeviceParity, bf16) {
  if (ranks() > 1 && simulated()) return;
  auto runner = make_runner("device_parity_bf16");
  const std::vector<MatrixCase> cases{of_style(Style::kLlama), of_style(Style::kGpt2),
                                      of_style(Style::kLlama, Feed::kTopK)};
  if (!simulated()) {
    runner.expect_as_close_in_bf16(cases);
    return;
  }
  for (const auto& c : cases) {
    const auto& exact = runner.reference(c);
    const auto cpu = error_of(runner.reference(c, DType::kBF16), exact);
    const auto gpu = error_on_grid(runner.deck(c, DType::kBF16), c.ranks(), exact);
    EXPECT_LT(cpu.gradient, 0.05) << c.name();
    EXPECT_LE(gpu.gradient, 1.5 * cpu.gradient) << c.name();
    EXPECT_GT(gpu.gradient, 0.0) << c.name();
  }
}

// A sum that is left out must be found here too.
TEST(DeviceParity, a_dropped_sum_is_found) {
  if (ranks() < 2) return;
  auto runner = make_runner("device_parity_control");
  model::Sabotage drop;
  drop.drop_replica_sum = true;
  expect_found({{"the gradients' sum over dp", with_zero(of_style(Style::kLlama), 2, 0), drop}},
               runner);
}

}  // namespace
}  // namespace pg::testing

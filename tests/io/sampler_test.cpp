#include "io/sampler.h"

#include <gtest/gtest.h>

#include <set>
#include <vector>

#include "tests/io/token_test_files.h"

namespace pg::io {
namespace {

std::vector<std::int64_t> epoch_of(const Sampler& sampler, std::int64_t epoch) {
  std::vector<std::int64_t> drawn;
  for (std::int64_t i = 0; i < sampler.samples(); ++i) {
    drawn.push_back(sampler.first_token(epoch * sampler.samples() + i));
  }
  return drawn;
}

TEST(Sampler, every_epoch_draws_each_sample_once) {
  std::vector<std::int64_t> sizes = {1, 2, 3, 5, 7, 11, 13, 97, 251, 1009, 4093, 65537};
  for (int k = 1; k <= 12; ++k) {
    for (const std::int64_t d : {-1, 0, 1})
      sizes.push_back(std::max<std::int64_t>(1, (1 << k) + d));
  }
  const std::int64_t seq = 8;
  for (const auto samples : sizes) {
    const Sampler sampler(samples * seq + 1, seq, 42, true);
    ASSERT_EQ(sampler.samples(), samples);
    for (std::int64_t epoch = 0; epoch < 2; ++epoch) {
      const auto drawn = epoch_of(sampler, epoch);
      const std::set<std::int64_t> seen(drawn.begin(), drawn.end());
      ASSERT_EQ(std::ssize(seen), samples);
      ASSERT_EQ(*seen.begin(), 0);
      ASSERT_EQ(*seen.rbegin(), (samples - 1) * seq);
      for (const auto first : seen) ASSERT_EQ(first % seq, 0);
    }
  }
}

TEST(Sampler, samples_of_a_huge_stream_stay_inside_it) {
  const std::int64_t seq = 3, tokens = (std::int64_t{1} << 62) + 17;
  const Sampler sampler(tokens, seq, 1, true);
  std::set<std::int64_t> seen;
  for (std::int64_t i = 0; i < 1000; ++i) {
    const auto first = sampler.first_token(sampler.samples() - 1 - i);
    ASSERT_GE(first, 0);
    ASSERT_LT(first + seq, tokens);
    seen.insert(first);
  }
  EXPECT_EQ(seen.size(), 1000u);
}

TEST(Sampler, epochs_and_seeds_have_different_orders) {
  const Sampler a(1001, 1, 1, true), b(1001, 1, 2, true);
  EXPECT_NE(epoch_of(a, 0), epoch_of(a, 1));
  EXPECT_NE(epoch_of(a, 1), epoch_of(a, 2));
  EXPECT_NE(epoch_of(a, 0), epoch_of(b, 0));
  EXPECT_EQ(epoch_of(a, 1), epoch_of(Sampler(1001, 1, 1, true), 1));
}

// In a random order of n the expected number of neighbours that stay neighbours (drawn[i + 1] ==
// drawn[i] + 1) is (n - 1) / n, nearly Poisson: more than 12 has a probability below 1e-9. The
// expected sum of |drawn[i] - i| is (n^2 - 1) / 3, its deviation n^1.5 * 0.21 (less than 7 % of the
// mean for n = 64): five deviations are a third.
TEST(Sampler, the_order_is_shuffled_in_small_and_large_epochs) {
  for (const std::int64_t n : {64, 100, 1000, 20000}) {
    const auto drawn = epoch_of(Sampler(n + 1, 1, 7, true), 0);
    std::int64_t neighbours = 0, distance = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      const auto at = static_cast<std::size_t>(i);
      if (i + 1 < n && drawn[at + 1] == drawn[at] + 1) ++neighbours;
      distance += std::abs(drawn[at] - i);
    }
    EXPECT_LE(neighbours, 12) << n;
    EXPECT_NEAR(static_cast<double>(distance), (static_cast<double>(n * n) - 1) / 3,
                static_cast<double>(n * n) / 9)
        << n;
  }
}

TEST(Sampler, without_shuffling_samples_come_in_file_order_every_epoch) {
  const Sampler sampler(41, 8, 5, false);
  EXPECT_EQ(epoch_of(sampler, 0), (std::vector<std::int64_t>{0, 8, 16, 24, 32}));
  EXPECT_EQ(epoch_of(sampler, 3), epoch_of(sampler, 0));
}

TEST(Sampler, the_last_token_is_a_target_only) {
  EXPECT_EQ(Sampler(16, 8, 0, true).samples(), 1);
  EXPECT_EQ(Sampler(17, 8, 0, true).samples(), 2);
  EXPECT_EQ(Sampler(9, 8, 0, true).samples(), 1);
}

TEST(Sampler, a_stream_without_one_sample_is_refused) {
  for (const std::int64_t tokens : {0, 1, 8}) {
    expect_error(ExitCode::kData, {"train.seq = 8"}, [&] { Sampler(tokens, 8, 0, true); });
  }
}

}  // namespace
}  // namespace pg::io

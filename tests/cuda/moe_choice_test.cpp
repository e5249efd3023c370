#include <limits>

#include "tests/cuda/padded.h"

namespace pg::model::testing {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr DType kProbabilityTypes[] = {DType::kF64, DType::kF32};

TEST(CudaMoeChoice, experts_are_those_of_the_cpu_with_ties_and_bias) {
  Backends both;
  for (const auto type : kProbabilityTypes) {
    for (const std::int64_t experts : {1, 3, 8, 17, 64, 129, 300}) {
      for (const Layout layout : {kLayouts[0], kLayouts[2]}) {
        const std::int64_t n = experts > 100 ? 9 : 70;
        Padded probs(type, n, experts, layout), chosen(DType::kU8, n, experts, layout);
        for (const std::int64_t k : {std::int64_t{0}, std::int64_t{1}, std::int64_t{2}, experts}) {
          if (k > experts || (k > 2 && experts > 20)) continue;
          for (int bias_type = -1; bias_type < 3; ++bias_type) {
            // Few different values: ties in most rows.
            bias_type % 2 == 0 ? probs.whole.normal("p") : probs.whole.whole("p", -2, 2);
            Mirror bias(kComputeTypes[std::max(bias_type, 0)], {experts});
            bias.whole("bias", -3, 3);
            const auto of = [&](TensorView x) { return bias_type < 0 ? TensorView() : x; };
            chosen.whole.fill(9);
            both.cpu->moe_choose_experts(chosen.host(), probs.host(), of(bias.host()), k);
            both.cuda->moe_choose_experts(chosen.device(), probs.device(), of(bias.device()), k);
            EXPECT_TRUE(same(chosen)) << experts << " experts, k " << k << " " << bias_type;
          }
        }
      }
    }
  }
}

TEST(CudaMoeChoice, nan_and_infinities_choose_as_on_the_cpu) {
  Backends both;
  for (const auto type : kProbabilityTypes) {
    Padded probs(type, 4, 40), chosen(DType::kU8, 4, 40);
    std::vector<double> p;
    for (std::int64_t i = 0; i < 160; ++i) {
      p.push_back(i < 40        ? std::nan("")
                  : i % 7 == 0  ? std::nan("")
                  : i % 5 == 0  ? -kInfinity
                  : i % 11 == 0 ? kInfinity
                                : i % 3);
    }
    probs.whole.values(p);
    for (const std::int64_t k : {1, 5, 39}) {
      both.cpu->moe_choose_experts(chosen.host(), probs.host(), {}, k);
      both.cuda->moe_choose_experts(chosen.device(), probs.device(), {}, k);
      EXPECT_TRUE(same(chosen)) << k;
    }
  }
}

TEST(CudaMoeChoice, tokens_are_those_of_the_cpu) {
  Backends both;
  struct Case {
    std::int64_t sequences, length, experts, count;
  };
  for (const auto type : kProbabilityTypes) {
    for (const Case& c :
         {Case{1, 1, 1, 1}, Case{2, 17, 3, 0}, Case{2, 17, 3, 5}, Case{1, 129, 2, 1},
          Case{1, 129, 2, 128}, Case{1, 64, 2, 64}, Case{2, 700, 1, 350}, Case{1, 40, 35, 4}}) {
      for (const int kind : {0, 1, 2}) {
        const Layout layout = kLayouts[kind];
        const std::int64_t n = c.sequences * c.length;
        Padded scores(type, n, c.experts, layout), chosen(DType::kU8, n, c.experts, layout);
        kind == 0   ? scores.whole.normal("scores", 0.0, 1e-3)
        : kind == 1 ? scores.whole.whole("scores", -3, 3)
                    // Differ by less than the rounding keeps: ties as well.
                    : scores.whole.normal("scores", 1.0, 3e-4);
        chosen.whole.fill(9);
        both.cpu->moe_choose_tokens(chosen.host(c.sequences), scores.host(c.sequences), c.count);
        both.cuda->moe_choose_tokens(chosen.device(c.sequences), scores.device(c.sequences),
                                     c.count);
        EXPECT_TRUE(same(chosen)) << dtype_name(type) << " " << c.length << " tokens, " << c.experts
                                  << " experts, count " << c.count << " kind " << kind;
      }
    }
  }
}

TEST(CudaMoeChoice, tokens_with_scores_that_are_no_numbers) {
  Backends both;
  for (const auto type : kProbabilityTypes) {
    Padded scores(type, 24, 1), chosen(DType::kU8, 24, 1);
    std::vector<double> x(24, 0.0);
    for (std::size_t i = 0; i < 24; i += 3) x[i] = std::nan("");
    x[1] = -kInfinity;
    x[4] = kInfinity;
    x[5] = -0.0;
    x[7] = 1e-310;  // 0 in fp32, and below what rounding keeps in fp64
    x[8] = type == DType::kF64 ? std::numeric_limits<double>::max()
                               : static_cast<double>(std::numeric_limits<float>::max());
    x[10] = -1e-310;
    scores.whole.values(x);
    for (std::int64_t count = 0; count <= 24; count += 1) {
      both.cpu->moe_choose_tokens(chosen.host(1), scores.host(1), count);
      both.cuda->moe_choose_tokens(chosen.device(1), scores.device(1), count);
      EXPECT_TRUE(same(chosen)) << dtype_name(type) << " count " << count;
    }
  }
}

TEST(CudaMoeCapacity, counts_and_drops_are_those_of_the_cpu) {
  Backends both;
  struct Case {
    std::int64_t sequences, rows, experts;
  };
  for (const Case& c : {Case{1, 1, 1}, Case{3, 17, 3}, Case{2, 129, 8}, Case{1, 600, 17},
                        Case{2, 300, 64}, Case{1, 130, 300}}) {
    for (const Layout layout : {kLayouts[0], kLayouts[2]}) {
      const std::int64_t n = c.sequences * c.rows;
      Padded mask(DType::kU8, n, c.experts, layout);
      random_mask(mask, "asks", 0.4);
      Padded counts(DType::kF64, c.sequences, c.experts, layout);
      both.cpu->moe_count(counts.host(), mask.host(c.sequences));
      both.cuda->moe_count(counts.device(), mask.device(c.sequences));
      EXPECT_TRUE(same(counts)) << c.rows << " rows of " << c.experts;
      Padded before(DType::kF64, c.sequences, c.experts, layout);
      before.whole.whole("before", 0, 20);
      for (const std::int64_t capacity : {std::int64_t{0}, std::int64_t{25}, c.rows / 3}) {
        random_mask(mask, "asks", 0.4);
        both.cpu->moe_drop(mask.host(c.sequences), before.host(), capacity);
        both.cuda->moe_drop(mask.device(c.sequences), before.device(), capacity);
        EXPECT_TRUE(same(mask)) << c.rows << " rows of " << c.experts << " by " << capacity;
      }
    }
  }
}

// Runs of sequences: rows [first, first + length) of each.
TEST(CudaMoeCapacity, parts_of_sequences) {
  Backends both;
  Padded mask(DType::kU8, 3 * 200, 5);
  random_mask(mask, "asks", 0.5);
  const auto part = [](TensorView x) { return x.slice(1, 37, 141); };
  Mirror counts(DType::kF64, {3, 5}), before(DType::kF64, {3, 5});
  both.cpu->moe_count(counts.host(), part(mask.host(3)));
  both.cuda->moe_count(counts.device(), part(mask.device(3)));
  EXPECT_TRUE(same(counts));
  before.whole("before", 0, 9);
  both.cpu->moe_drop(part(mask.host(3)), before.host(), 30);
  both.cuda->moe_drop(part(mask.device(3)), before.device(), 30);
  EXPECT_TRUE(same(mask));
  // And the comparison can fail.
  both.cuda->moe_drop(part(mask.device(3)), before.device(), 29);
  EXPECT_FALSE(same(mask));
}

}  // namespace
}  // namespace pg::model::testing

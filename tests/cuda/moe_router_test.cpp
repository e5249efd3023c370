#include <limits>

#include "tests/cuda/padded.h"

namespace pg::model::testing {
namespace {

constexpr DType kProbabilityTypes[] = {DType::kF64, DType::kF32};
constexpr std::int64_t kExperts[] = {1, 3, 8, 13, 17, 40, 64, 129};

// -- products ------------------------------------------------------------------------------------

struct Product {
  std::int64_t n, channels, experts;
};
constexpr Product kProducts[] = {{1, 1, 1},    {3, 17, 3},   {65, 40, 8},  {17, 129, 16},
                                 {70, 72, 17}, {33, 64, 32}, {64, 31, 33}, {129, 200, 130}};

// Whole numbers whose sums are exact in fp32: the same bits in whatever order they are added.
TEST(CudaMoeLogits, products_of_whole_numbers_are_exact) {
  Backends both;
  for (const auto type : kComputeTypes) {
    for (const Product& p : kProducts) {
      for (const Layout layout : kLayouts) {
        const auto text = fmt::format("{} {}x{} by {}, {}", dtype_name(type), p.n, p.channels,
                                      p.experts, layout.shift);
        const auto sum = accumulator(type);
        Padded x(type, p.n, p.channels, layout), w(type, p.experts, p.channels, layout);
        Padded logits(sum, p.n, p.experts, layout);
        x.whole.whole("x", -9, 9);
        w.whole.whole("w", -9, 9);
        both.cpu->moe_logits(logits.host(), x.host(), w.host());
        both.cuda->moe_logits(logits.device(), x.device(), w.device());
        EXPECT_TRUE(same(logits)) << text;

        Padded dlogits(sum, p.n, p.experts, layout), dx(type, p.n, p.channels, layout);
        Padded dw(sum, p.experts, p.channels, layout);
        dlogits.whole.whole("d", -9, 9);
        dx.whole.whole("dx", -9, 9);
        dw.whole.whole("dw", -9, 9);
        both.cpu->moe_logits_backward(dx.host(), dw.host(), dlogits.host(), x.host(), w.host());
        both.cuda->moe_logits_backward(dx.device(), dw.device(), dlogits.device(), x.device(),
                                       w.device());
        EXPECT_TRUE(same(dx)) << text;
        EXPECT_TRUE(same(dw)) << text;
        both.cpu->moe_logits_backward({}, dw.host(), dlogits.host(), x.host(), w.host());
        both.cuda->moe_logits_backward({}, dw.device(), dlogits.device(), x.device(), w.device());
        EXPECT_TRUE(same(dw)) << text;
      }
    }
  }
}

// Many tokens, so that the weights' gradient is summed in several parts.
TEST(CudaMoeLogits, the_weights_gradient_of_many_tokens) {
  Backends both;
  for (const auto type : kComputeTypes) {
    Padded x(type, 1100, 8), w(type, 3, 8), dlogits(accumulator(type), 1100, 3);
    Padded dw(accumulator(type), 3, 8);
    x.whole.whole("x", -9, 9);
    w.whole.whole("w", -9, 9);
    dlogits.whole.whole("d", -9, 9);
    dw.whole.whole("dw", -9, 9);
    both.cpu->moe_logits_backward({}, dw.host(), dlogits.host(), x.host(), w.host());
    both.cuda->moe_logits_backward({}, dw.device(), dlogits.device(), x.device(), w.device());
    EXPECT_TRUE(same(dw)) << dtype_name(type);
  }
}

// Each of `terms` additions of both backends rounds a partial sum that is no larger than the result
// in the mean; roundings are independent, so that they add up like a random walk. Four times that.
double sum_tolerance(DType sum, std::int64_t terms) {
  return 4 * std::sqrt(2.0 * static_cast<double>(terms)) * epsilon_of(sum);
}

TEST(CudaMoeLogits, products_round_as_the_accumulator_does) {
  Backends both;
  for (const auto type : kComputeTypes) {
    const auto sum = accumulator(type);
    constexpr std::int64_t kTokens = 150, kChannels = 300, kWide = 24;
    Padded x(type, kTokens, kChannels), w(type, kWide, kChannels), logits(sum, kTokens, kWide);
    x.whole.normal("x");
    w.whole.normal("w");
    both.cpu->moe_logits(logits.host(), x.host(), w.host());
    EXPECT_TRUE(repeats(logits.whole,
                        [&] { both.cuda->moe_logits(logits.device(), x.device(), w.device()); }));
    EXPECT_LE(deviation(logits), sum_tolerance(sum, kChannels)) << dtype_name(type);

    Padded dlogits(sum, kTokens, kWide), dx(type, kTokens, kChannels);
    Padded dw(sum, kWide, kChannels);
    dlogits.whole.normal("d");
    dx.whole.normal("dx");
    dw.whole.normal("dw");
    both.cpu->moe_logits_backward(dx.host(), dw.host(), dlogits.host(), x.host(), w.host());
    both.cuda->moe_logits_backward(dx.device(), dw.device(), dlogits.device(), x.device(),
                                   w.device());
    EXPECT_LE(deviation(dw), sum_tolerance(sum, kTokens)) << dtype_name(type);
    // Stored in the tokens' type: a sum that lies between two of its numbers may go to either.
    EXPECT_LE(deviation(dx), sum_tolerance(sum, kWide) + 2 * epsilon_of(type)) << dtype_name(type);
  }
}

TEST(CudaMoeLogits, of_a_token_depend_on_no_other_token) {
  Backends both;
  Padded x(DType::kBF16, 90, 96), w(DType::kBF16, 20, 96);
  Padded all(DType::kF32, 90, 20), part(DType::kF32, 7, 20), expected(DType::kF32, 7, 20);
  x.whole.normal("x");
  w.whole.normal("w");
  both.cuda->moe_logits(all.device(), x.device(), w.device());
  both.cuda->moe_logits(part.device(), x.device().slice(0, 61, 7), w.device());
  both.cuda->copy(expected.device(), all.device().slice(0, 61, 7));
  EXPECT_EQ(part.whole.from_device(), expected.whole.from_device());
}

TEST(CudaMoeLogits, one_wrong_element_would_be_seen) {
  Backends both;
  Padded x(DType::kF32, 65, 40), w(DType::kF32, 8, 40), logits(DType::kF32, 65, 8);
  x.whole.whole("x", -9, 9);
  w.whole.whole("w", 1, 9);
  both.cpu->moe_logits(logits.host(), x.host(), w.host());
  Mirror one(DType::kF32, {1, 1});
  one.fill(1.0);
  both.cuda->add(x.device().slice(0, 64, 1).slice(1, 39, 1), one.device());
  both.cuda->moe_logits(logits.device(), x.device(), w.device());
  EXPECT_FALSE(same(logits));
}

// -- from logits to gates ------------------------------------------------------------------------

// Sums of at most 129 terms by both, an exponential (4 roundings), what x - shift <= 24 loses, and
// some products: worst cases, as all terms are positive.
double softmax_tolerance(DType type) {
  return 2 * (129 + 4 + 24 + 4) * epsilon_of(type);
}

TEST(CudaMoeRouter, softmax_and_its_gradient_are_those_of_the_cpu) {
  Backends both;
  for (const auto type : kProbabilityTypes) {
    for (const std::int64_t experts : kExperts) {
      for (const Layout layout : {kLayouts[0], kLayouts[2]}) {
        constexpr std::int64_t kTokens = 37;
        Padded logits(type, kTokens, experts, layout), probs(type, kTokens, experts, layout);
        Mirror lse(type, {kTokens});
        logits.whole.normal("logits", 5.0, 4.0);
        both.cpu->moe_softmax(probs.host(), lse.host(), logits.host());
        EXPECT_TRUE(repeats(probs.whole, [&] {
          both.cuda->moe_softmax(probs.device(), lse.device(), logits.device());
        }));
        EXPECT_LE(deviation(probs), softmax_tolerance(type)) << experts;
        EXPECT_LE(deviation(lse), softmax_tolerance(type)) << experts;

        // From here on from the same probabilities. Of one expert the gradient is that of the
        // z-loss alone; dp - mean loses digits, so the sizes compared are those of p dp.
        probs.whole.upload();
        lse.upload();
        Padded dprobs(type, kTokens, experts, layout), dlogits(type, kTokens, experts, layout);
        dprobs.whole.normal("dprobs");
        both.cpu->moe_softmax_backward(dlogits.host(), dprobs.host(), probs.host(), lse.host(),
                                       0.1);
        both.cuda->moe_softmax_backward(dlogits.device(), dprobs.device(), probs.device(),
                                        lse.device(), 0.1);
        EXPECT_LE(deviation(dlogits), softmax_tolerance(type)) << experts;
      }
    }
  }
}

TEST(CudaMoeRouter, softmax_of_rows_that_are_no_numbers) {
  Backends both;
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  for (const auto type : kProbabilityTypes) {
    Padded logits(type, 5, 3), probs(type, 5, 3);
    Mirror lse(type, {5});
    logits.whole.values({1, std::nan(""), 2, kInfinity, 0, 0, -kInfinity, -kInfinity, -kInfinity,
                         -kInfinity, 3, 3, 1000, 1000, -1000});
    both.cpu->moe_softmax(probs.host(), lse.host(), logits.host());
    both.cuda->moe_softmax(probs.device(), lse.device(), logits.device());
    EXPECT_LE(deviation(probs), softmax_tolerance(type));
    const auto gpu = lse.from_device();
    EXPECT_TRUE(std::isnan(gpu[0]) && std::isnan(gpu[1]));
    EXPECT_EQ(gpu[2], -kInfinity);
    EXPECT_NEAR(gpu[3], lse.at_host(3), 1e-5);
    EXPECT_NEAR(gpu[4], lse.at_host(4), 1e-3);
  }
}

TEST(CudaMoeRouter, gates_and_their_gradient_are_those_of_the_cpu) {
  Backends both;
  for (const auto type : kProbabilityTypes) {
    for (const std::int64_t experts : kExperts) {
      for (const bool renormalize : {true, false}) {
        const Layout layout = kLayouts[experts % 2 == 0 ? 0 : 2];
        constexpr std::int64_t kTokens = 41;
        Padded logits(type, kTokens, experts, layout), probs(type, kTokens, experts, layout);
        Padded chosen(DType::kU8, kTokens, experts, layout);
        Padded kept(DType::kU8, kTokens, experts, layout);
        Padded gates(type, kTokens, experts, layout);
        Mirror lse(type, {kTokens});
        logits.whole.normal("logits", 0.0, 2.0);
        both.cpu->moe_softmax(probs.host(), lse.host(), logits.host());
        probs.whole.upload();
        random_mask(chosen, "chosen", 0.5);
        random_mask(kept, "kept", 0.7, &chosen);
        both.cpu->moe_gates(gates.host(), probs.host(), chosen.host(), kept.host(), renormalize);
        both.cuda->moe_gates(gates.device(), probs.device(), chosen.device(), kept.device(),
                             renormalize);
        EXPECT_LE(deviation(gates), renormalize ? softmax_tolerance(type) : 0.0) << experts;

        Padded dgates(type, kTokens, experts, layout), dprobs(type, kTokens, experts, layout);
        dgates.whole.normal("dgates");
        dprobs.whole.normal("dprobs");
        both.cpu->moe_gates_backward(dprobs.host(), dgates.host(), probs.host(), chosen.host(),
                                     kept.host(), renormalize);
        both.cuda->moe_gates_backward(dprobs.device(), dgates.device(), probs.device(),
                                      chosen.device(), kept.device(), renormalize);
        EXPECT_LE(deviation(dprobs), renormalize ? softmax_tolerance(type) : 0.0) << experts;
      }
    }
  }
}

TEST(CudaMoeRouter, gates_are_zero_where_nothing_is_left_to_share) {
  Backends both;
  Padded probs(DType::kF32, 2, 4), chosen(DType::kU8, 2, 4), gates(DType::kF32, 2, 4);
  probs.whole.values({1, 0, 0, 0, 0.5, 0.5, 0, 0});
  chosen.whole.values({0, 1, 1, 0, 0, 0, 0, 0});
  both.cpu->moe_gates(gates.host(), probs.host(), chosen.host(), chosen.host(), true);
  both.cuda->moe_gates(gates.device(), probs.device(), chosen.device(), chosen.device(), true);
  EXPECT_TRUE(same(gates));
}

TEST(CudaMoeRouter, statistics_and_balance_are_those_of_the_cpu) {
  Backends both;
  for (const auto type : kProbabilityTypes) {
    for (const std::int64_t experts : {1, 3, 8, 17, 64, 300}) {
      for (const auto& [sequences, rows] :
           {std::pair<std::int64_t, std::int64_t>{1, 1}, {3, 17}, {2, 129}, {1, 400}}) {
        const Layout layout = kLayouts[experts % 2 == 0 ? 0 : 2];
        const auto n = sequences * rows;
        Padded probs(type, n, experts, layout), chosen(DType::kU8, n, experts, layout);
        Mirror lse(type, {n});
        Padded stats(DType::kF64, sequences, 2 * experts + 1, layout);
        probs.whole.normal("probs", 0.5, 0.1);
        random_mask(chosen, "chosen", 0.3);
        lse.normal("lse", 1.0, 2.0);
        both.cpu->moe_statistics(stats.host(), chosen.host(), probs.host(), lse.host());
        EXPECT_TRUE(repeats(stats.whole, [&] {
          both.cuda->moe_statistics(stats.device(), chosen.device(), probs.device(), lse.device());
        }));
        // Sums of positive numbers in fp64: each addition rounds once.
        const double tolerance = 2.0 * static_cast<double>(rows) * epsilon_of(DType::kF64);
        EXPECT_LE(deviation(stats), tolerance) << experts << " " << rows;
        Padded counts(DType::kF64, sequences, experts), expected(DType::kF64, sequences, experts);
        both.cpu->copy(counts.host(), stats.host().slice(1, 0, experts));
        both.cuda->copy(counts.device(), stats.device().slice(1, 0, experts));
        EXPECT_TRUE(same(counts)) << experts << " " << rows;

        stats.whole.upload();
        Mirror losses(DType::kF64, {sequences, 1});
        both.cpu->moe_balance_loss(losses.host(), stats.host(), 0.3);
        both.cuda->moe_balance_loss(losses.device(), stats.device(), 0.3);
        EXPECT_LE(deviation(losses), 2.0 * static_cast<double>(experts + 2) * 0x1.0p-53);

        Padded dprobs(type, n, experts, layout);
        dprobs.whole.normal("dprobs");
        both.cpu->moe_balance_backward(dprobs.host(), stats.host().slice(1, 0, experts), 0.01);
        both.cuda->moe_balance_backward(dprobs.device(), stats.device().slice(1, 0, experts), 0.01);
        // A product and a sum in fp64, one rounding to the type on each side.
        EXPECT_LE(deviation(dprobs), 4 * epsilon_of(type)) << experts << " " << rows;
      }
    }
  }
}

}  // namespace
}  // namespace pg::model::testing

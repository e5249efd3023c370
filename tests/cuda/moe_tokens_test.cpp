#include <algorithm>

#include "tests/cuda/padded.h"

namespace pg::model::testing {
namespace {

struct Case {
  std::int64_t tokens, experts, width;
};
constexpr Case kCases[] = {{1, 1, 1},   {3, 8, 17},    {17, 3, 64}, {130, 17, 129},
                           {40, 40, 8}, {9, 64, 1040}, {5, 300, 24}};

TEST(CudaMoeRows, are_those_of_the_cpu) {
  Backends both;
  for (const auto& [tokens, experts] : {std::pair<std::int64_t, std::int64_t>{1, 1},
                                        {3, 17},
                                        {129, 8},
                                        {700, 5},
                                        {300, 64},
                                        {130, 1100}}) {
    for (const Layout layout : {kLayouts[0], kLayouts[2]}) {
      for (const double share : {0.0, 0.2, 1.0}) {
        Padded kept(DType::kU8, tokens, experts, layout);
        Padded rows(DType::kI32, tokens, experts, layout);
        random_mask(kept, "kept", share);
        std::vector<std::int64_t> cpu(static_cast<std::size_t>(experts), -5), gpu(cpu);
        both.cpu->moe_rows(rows.host(), cpu, kept.host());
        both.cuda->moe_rows(rows.device(), gpu, kept.device());
        EXPECT_EQ(cpu, gpu) << tokens << " tokens, " << experts << " experts, " << share;
        EXPECT_TRUE(same(rows)) << tokens << " tokens, " << experts << " experts, " << share;
      }
    }
  }
}

// The rows of a random mask, about two a token, and how many there are.
std::int64_t set_rows(Backends& both, Padded& rows, const Case& c) {
  Padded kept(DType::kU8, c.tokens, c.experts);
  random_mask(kept, "kept", std::min(1.0, 2.0 / static_cast<double>(c.experts)));
  std::vector<std::int64_t> counts(static_cast<std::size_t>(c.experts));
  rows.whole.fill(-7);
  both.cpu->moe_rows(rows.host(), counts, kept.host());
  rows.whole.upload();
  std::int64_t all = 0;
  for (const auto count : counts) all += count;
  return std::max<std::int64_t>(1, all);
}

TEST(CudaMoeTokens, are_copied_or_scaled_as_on_the_cpu) {
  Backends both;
  for (const auto type : kComputeTypes) {
    for (const Case& c : kCases) {
      for (const Layout layout : kLayouts) {
        Padded rows(DType::kI32, c.tokens, c.experts, layout);
        const auto slots = set_rows(both, rows, c);
        Padded x(type, c.tokens, c.width, layout), to(type, slots, c.width, layout);
        Padded gates(accumulator(type), c.tokens, c.experts, layout);
        x.whole.normal("x");
        gates.whole.normal("gates");
        both.cpu->moe_dispatch(to.host(), x.host(), rows.host(), {});
        both.cuda->moe_dispatch(to.device(), x.device(), rows.device(), {});
        EXPECT_TRUE(same(to)) << dtype_name(type) << " " << c.width;
        both.cpu->moe_dispatch(to.host(), x.host(), rows.host(), gates.host());
        both.cuda->moe_dispatch(to.device(), x.device(), rows.device(), gates.device());
        EXPECT_TRUE(same(to)) << dtype_name(type) << " " << c.width;
      }
    }
  }
}

// Whole numbers: exact sums, so the same bits however products and sums are fused.
TEST(CudaMoeTokens, combine_and_gate_gradients_of_whole_numbers_are_exact) {
  Backends both;
  for (const auto type : kComputeTypes) {
    for (const Case& c : kCases) {
      for (const Layout layout : kLayouts) {
        Padded rows(DType::kI32, c.tokens, c.experts, layout);
        const auto slots = set_rows(both, rows, c);
        Padded from(type, slots, c.width, layout), y(type, c.tokens, c.width, layout);
        Padded gates(accumulator(type), c.tokens, c.experts, layout);
        from.whole.whole("from", -9, 9);
        gates.whole.whole("gates", -9, 9);
        for (const bool gated : {false, true}) {
          for (const bool accumulate : {false, true}) {
            y.whole.whole("y", -9, 9);
            const auto of = [&](TensorView g) { return gated ? g : TensorView(); };
            both.cpu->moe_combine(y.host(), from.host(), rows.host(), of(gates.host()), accumulate);
            both.cuda->moe_combine(y.device(), from.device(), rows.device(), of(gates.device()),
                                   accumulate);
            EXPECT_TRUE(same(y)) << dtype_name(type) << " " << c.width << " " << gated
                                 << accumulate;
          }
        }
        Padded dgates(accumulator(type), c.tokens, c.experts, layout);
        y.whole.whole("dy", -9, 9);
        both.cpu->moe_gate_gradient(dgates.host(), y.host(), from.host(), rows.host());
        both.cuda->moe_gate_gradient(dgates.device(), y.device(), from.device(), rows.device());
        EXPECT_TRUE(same(dgates)) << dtype_name(type) << " " << c.width;
      }
    }
  }
}

TEST(CudaMoeTokens, combine_and_gate_gradients_round_as_the_accumulator_does) {
  Backends both;
  for (const auto type : kComputeTypes) {
    for (const Case& c : {Case{130, 17, 129}, Case{9, 64, 1040}}) {
      Padded rows(DType::kI32, c.tokens, c.experts);
      const auto slots = set_rows(both, rows, c);
      const auto sum = accumulator(type);
      Padded from(type, slots, c.width), y(type, c.tokens, c.width);
      Padded gates(sum, c.tokens, c.experts), dgates(sum, c.tokens, c.experts);
      from.whole.normal("from");
      gates.whole.normal("gates");
      y.whole.normal("y");
      both.cpu->moe_combine(y.host(), from.host(), rows.host(), gates.host(), true);
      both.cuda->moe_combine(y.device(), from.device(), rows.device(), gates.device(), true);
      // A token has up to about ten rows: products and sums round less than 32 times on both sides
      // together, and the result once more on each.
      EXPECT_LE(deviation(y), 32 * epsilon_of(sum) + 2 * epsilon_of(type)) << dtype_name(type);
      y.whole.normal("dy");
      both.cpu->moe_gate_gradient(dgates.host(), y.host(), from.host(), rows.host());
      EXPECT_TRUE(repeats(dgates.whole, [&] {
        both.cuda->moe_gate_gradient(dgates.device(), y.device(), from.device(), rows.device());
      }));
      // Roundings of partial sums, that are no larger than the results in the mean, add up like a
      // random walk; four times that.
      EXPECT_LE(deviation(dgates),
                4 * std::sqrt(2.0 * static_cast<double>(c.width)) * epsilon_of(sum))
          << dtype_name(type);
    }
  }
}

TEST(CudaMoeTokens, bits_do_not_depend_on_where_operands_lie) {
  Backends both;
  const Case c{33, 8, 136};
  Padded rows(DType::kI32, c.tokens, c.experts);
  const auto slots = set_rows(both, rows, c);
  Padded from(DType::kBF16, slots, c.width), askew(DType::kBF16, slots, c.width, {1, 2});
  Padded dy(DType::kBF16, c.tokens, c.width);
  Padded first(DType::kF32, c.tokens, c.experts), second(DType::kF32, c.tokens, c.experts);
  from.whole.normal("from");
  dy.whole.normal("dy");
  both.cuda->copy(askew.device(), from.device());
  both.cuda->moe_gate_gradient(first.device(), dy.device(), from.device(), rows.device());
  both.cuda->moe_gate_gradient(second.device(), dy.device(), askew.device(), rows.device());
  EXPECT_EQ(first.whole.from_device(), second.whole.from_device());
}

TEST(CudaMoeTokens, a_wrong_row_would_be_seen) {
  Backends both;
  Padded x(DType::kBF16, 2, 16), y(DType::kBF16, 2, 16), rows(DType::kI32, 2, 3);
  x.whole.normal("x");
  rows.whole.values({0, -1, 1, -1, -1, 1});
  both.cpu->moe_combine(y.host(), x.host(), rows.host(), {}, false);
  rows.whole.values({0, -1, 1, -1, -1, 0});
  both.cuda->moe_combine(y.device(), x.device(), rows.device(), {}, false);
  EXPECT_FALSE(same(y));
}

}  // namespace
}  // namespace pg::model::testing

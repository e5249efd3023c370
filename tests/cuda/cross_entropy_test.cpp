#include <limits>

#include "tests/cuda/padded.h"

namespace pg::model::testing {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr DType kLogitTypes[] = {DType::kF64, DType::kF32};

// A loss is a logarithm of a sum of exponentials, whose relative error is the loss's absolute one:
// the CPU adds 64 of them (and 5 of the lanes) one after another in the accumulator type, the GPU
// 16; each exponential is within 2 units in the last place (4 roundings) on both sides, and so is
// what x - shift <= 16 loses by its rounding (16 roundings). The losses here are above 1.
double loss_tolerance(DType logits) {
  return (69 + 16 + 2 * (4 + 16)) * epsilon_of(logits);
}
// The same for the sum; an exponential of its own and three products more. Then each side rounds
// to the gradient's type.
double gradient_tolerance(DType logits, DType gradient) {
  return loss_tolerance(logits) + 2 * (4 + 16 + 3) * epsilon_of(logits) + 2 * epsilon_of(gradient);
}

// Some of each row's targets are ignored, some are the last of the vocabulary.
void set_targets(Mirror& targets, std::int64_t vocabulary) {
  targets.whole("targets", 0, vocabulary - 1);
  std::vector<double> all;
  for (std::int64_t n = 0; n < targets.elements(); ++n) {
    all.push_back(n % 5 == 3 ? -1 : n % 5 == 4 ? vocabulary - 1 : targets.at_host(n));
  }
  targets.values(all);
}

TEST(CudaCrossEntropy, losses_and_gradients_are_those_of_the_cpu) {
  Backends both;
  for (const auto in : kLogitTypes) {
    for (const auto out : kComputeTypes) {
      for (const std::int64_t vocabulary : {1, 3, 17, 129, 4099}) {
        for (const Layout layout : kLayouts) {
          const std::int64_t n = vocabulary > 1000 ? 5 : 11;
          Padded logits(in, n, vocabulary, layout), dlogits(out, n, vocabulary, layout);
          Mirror losses(DType::kF64, {n}), targets(DType::kI32, {n});
          logits.whole.normal("logits", 0.5, 3.0);
          set_targets(targets, vocabulary);
          both.cpu->cross_entropy(losses.host(), dlogits.host(), logits.host(), targets.host(),
                                  0.25);
          EXPECT_TRUE(repeats(losses, [&] {
            both.cuda->cross_entropy(losses.device(), dlogits.device(), logits.device(),
                                     targets.device(), 0.25);
          }));
          // Of a vocabulary of one the loss is 0, and so is the gradient: up to roundings of 1.
          if (vocabulary > 1) {
            EXPECT_LE(deviation(losses), loss_tolerance(in)) << vocabulary;
            EXPECT_LE(deviation(dlogits), gradient_tolerance(in, out))
                << vocabulary << " " << dtype_name(out) << " " << layout.shift;
          } else {
            for (const double loss : losses.from_device()) EXPECT_EQ(loss, 0.0);
          }
        }
      }
    }
  }
}

TEST(CudaCrossEntropy, a_row_of_many_threads_and_several_chunks) {
  Backends both;
  Padded logits(DType::kF32, 2, 20001), dlogits(DType::kBF16, 2, 20001);
  Mirror losses(DType::kF64, {2}), targets(DType::kI32, {2});
  logits.whole.normal("long", 0.0, 3.0);
  set_targets(targets, 20001);
  both.cpu->cross_entropy(losses.host(), dlogits.host(), logits.host(), targets.host(), 1.0);
  both.cuda->cross_entropy(losses.device(), dlogits.device(), logits.device(), targets.device(),
                           1.0);
  EXPECT_LE(deviation(losses), loss_tolerance(DType::kF32));
  EXPECT_LE(deviation(dlogits), gradient_tolerance(DType::kF32, DType::kBF16));
}

TEST(CudaCrossEntropy, the_gradient_may_overwrite_the_logits_or_be_absent) {
  Backends both;
  for (const auto type : kLogitTypes) {
    for (const Layout layout : kLayouts) {
      Padded logits(type, 6, 301, layout);
      Mirror losses(DType::kF64, {6}), alone(DType::kF64, {6}), targets(DType::kI32, {6});
      logits.whole.normal("logits", 0.0, 2.0);
      set_targets(targets, 301);
      both.cuda->cross_entropy(alone.device(), {}, logits.device(), targets.device(), 0.5);
      both.cpu->cross_entropy(losses.host(), logits.host(), logits.host(), targets.host(), 0.5);
      both.cuda->cross_entropy(losses.device(), logits.device(), logits.device(), targets.device(),
                               0.5);
      EXPECT_EQ(alone.from_device(), losses.from_device());
      EXPECT_LE(deviation(losses), loss_tolerance(type));
      // In the padding deviation() would compare the logits themselves with each other: all else is
      // gradient, whose sum of squares is above 0.25 a row.
      EXPECT_LE(deviation(logits), gradient_tolerance(type, type));
    }
  }
}

TEST(CudaCrossEntropy, bits_do_not_depend_on_where_the_logits_lie) {
  Backends both;
  for (const auto type : kLogitTypes) {
    Padded straight(type, 3, 3001, {0, 7}), askew(type, 3, 3001, {1, 6});
    straight.whole.normal("logits", 0.0, 4.0);
    both.cuda->copy(askew.device(), straight.device());
    Mirror first(DType::kF64, {3}), second(DType::kF64, {3}), targets(DType::kI32, {3});
    Padded of_first(DType::kBF16, 3, 3001), of_second(DType::kBF16, 3, 3001, {3, 0});
    targets.whole("targets", 0, 3000);
    both.cuda->cross_entropy(first.device(), of_first.device(), straight.device(), targets.device(),
                             1.0);
    both.cuda->cross_entropy(second.device(), of_second.device(), askew.device(), targets.device(),
                             1.0);
    EXPECT_EQ(first.from_device(), second.from_device());
    Padded moved(DType::kBF16, 3, 3001);
    both.cuda->copy(moved.device(), of_second.device());
    EXPECT_EQ(of_first.whole.from_device(), moved.whole.from_device());
  }
}

TEST(CudaCrossEntropy, nan_and_infinities_spoil_or_leave_rows_as_on_the_cpu) {
  Backends both;
  for (const auto type : kLogitTypes) {
    constexpr std::int64_t kRows = 8, kWidth = 2500;
    Padded logits(type, kRows, kWidth), dlogits(DType::kF32, kRows, kWidth);
    Mirror losses(DType::kF64, {kRows}), targets(DType::kI32, {kRows});
    std::vector<double> x, ids;
    for (std::int64_t n = 0; n < kRows; ++n) {
      ids.push_back(n == 6 ? -1.0 : 7.0);
      for (std::int64_t i = 0; i < kWidth; ++i) {
        double value = 0.001 * static_cast<double>(i % 1000);
        if (n == 0 && i == 2400) value = std::nan("");
        if (n == 1 && i == 3) value = kInfinity;
        if (n == 2 && i != 7) value = -kInfinity;  // the target alone is left
        if (n == 3) value = -kInfinity;            // nothing is
        if (n == 4 && i < 2300) value = -kInfinity;
        if (n == 5 && i == 2) value = 1e30;
        if (n == 6 && i == 9) value = std::nan("");  // ignored all the same
        x.push_back(value);
      }
    }
    logits.whole.values(x);
    targets.values(ids);
    both.cpu->cross_entropy(losses.host(), dlogits.host(), logits.host(), targets.host(), 1.0);
    both.cuda->cross_entropy(losses.device(), dlogits.device(), logits.device(), targets.device(),
                             1.0);
    const auto loss = losses.from_device();
    EXPECT_TRUE(std::isnan(loss[0]) && std::isnan(loss[1]) && std::isnan(loss[3]));
    EXPECT_EQ(loss[2], 0.0);
    EXPECT_EQ(loss[4], kInfinity);
    EXPECT_EQ(loss[6], 0.0);
    EXPECT_LE(deviation(dlogits), gradient_tolerance(type, DType::kF32));
    for (std::size_t n = 0; n < loss.size(); ++n) {
      const double cpu = losses.at_host(static_cast<std::int64_t>(n));
      EXPECT_TRUE(loss[n] == cpu || (std::isnan(loss[n]) && std::isnan(cpu)) ||
                  std::abs(loss[n] - cpu) <= loss_tolerance(type) * std::abs(cpu))
          << n << " " << loss[n] << " " << cpu;
    }
  }
}

TEST(CudaCrossEntropy, a_wrong_target_would_be_seen) {
  Backends both;
  Padded logits(DType::kF32, 4, 129), dlogits(DType::kBF16, 4, 129);
  Mirror losses(DType::kF64, {4}), targets(DType::kI32, {4}), others(DType::kI32, {4});
  logits.whole.normal("logits");
  targets.values({1, 2, 3, 4});
  others.values({1, 2, 3, 5});
  both.cpu->cross_entropy(losses.host(), dlogits.host(), logits.host(), targets.host(), 1.0);
  both.cuda->cross_entropy(losses.device(), dlogits.device(), logits.device(), others.device(),
                           1.0);
  EXPECT_GT(deviation(losses), loss_tolerance(DType::kF32));
  EXPECT_GT(deviation(dlogits), gradient_tolerance(DType::kF32, DType::kBF16));
}

// Ranks hold 100, 1 and 157 columns; the row's targets lie on any of them.
TEST(CudaSplitCrossEntropy, stats_losses_and_gradients_are_those_of_the_cpu) {
  Backends both;
  constexpr std::int64_t kRows = 13, kRanks = 3, kWidths[kRanks] = {100, 1, 157};
  for (const auto in : kLogitTypes) {
    for (const auto out : kComputeTypes) {
      for (const Layout layout : kLayouts) {
        Mirror all(DType::kF64, {kRanks, kRows, 3}), targets(DType::kI32, {kRows});
        Mirror losses(DType::kF64, {kRows}), merged(DType::kF64, {kRows, 2});
        set_targets(targets, 258);
        std::vector<std::unique_ptr<Padded>> parts;
        std::int64_t first = 0;
        for (std::int64_t rank = 0; rank < kRanks; first += kWidths[rank++]) {
          auto& logits =
              *parts.emplace_back(std::make_unique<Padded>(in, kRows, kWidths[rank], layout));
          logits.whole.normal("part" + std::to_string(rank), 0.0, 3.0);
          const auto of_rank = [&](TensorView x) {
            return x.slice(0, rank, 1).reshape({kRows, 3});
          };
          both.cpu->cross_entropy_stats(of_rank(all.host()), logits.host(), targets.host(), first);
          both.cuda->cross_entropy_stats(of_rank(all.device()), logits.device(), targets.device(),
                                         first);
        }
        EXPECT_LE(deviation(all), loss_tolerance(in));
        both.cpu->cross_entropy_combine(losses.host(), merged.host(), all.host(), targets.host());
        EXPECT_TRUE(repeats(losses, [&] {
          both.cuda->cross_entropy_combine(losses.device(), merged.device(), all.device(),
                                           targets.device());
        }));
        EXPECT_LE(deviation(losses), loss_tolerance(in));
        EXPECT_LE(deviation(merged), loss_tolerance(in));
        first = 0;
        for (std::int64_t rank = 0; rank < kRanks; first += kWidths[rank++]) {
          Padded& logits = *parts[static_cast<std::size_t>(rank)];
          Padded dlogits(out, kRows, kWidths[rank], layout);
          both.cpu->cross_entropy_gradient(dlogits.host(), logits.host(), merged.host(),
                                           targets.host(), first, 0.125);
          both.cuda->cross_entropy_gradient(dlogits.device(), logits.device(), merged.device(),
                                            targets.device(), first, 0.125);
          EXPECT_LE(deviation(dlogits), gradient_tolerance(in, out)) << "rank " << rank;
          if (in != out) continue;
          both.cuda->cross_entropy_gradient(logits.device(), logits.device(), merged.device(),
                                            targets.device(), first, 0.125);
          Padded moved(out, kRows, kWidths[rank]), given(out, kRows, kWidths[rank]);
          both.cuda->copy(moved.device(), logits.device());
          both.cuda->copy(given.device(), dlogits.device());
          EXPECT_EQ(moved.whole.from_device(), given.whole.from_device()) << "in place";
        }
      }
    }
  }
}

TEST(CudaSplitCrossEntropy, parts_without_numbers) {
  Backends both;
  // A part of -inf alone, one with a NaN, and one that is finite.
  Padded logits(DType::kF32, 3, 4);
  logits.whole.values(
      {-kInfinity, -kInfinity, -kInfinity, -kInfinity, 0, std::nan(""), 1, 2, 1, 2, 3, 4});
  Mirror stats(DType::kF64, {3, 3}), targets(DType::kI32, {3});
  targets.values({9, 1, 3});
  both.cpu->cross_entropy_stats(stats.host(), logits.host(), targets.host(), 0);
  both.cuda->cross_entropy_stats(stats.device(), logits.device(), targets.device(), 0);
  EXPECT_LE(deviation(stats), loss_tolerance(DType::kF32));
  const auto gpu = stats.from_device();
  EXPECT_EQ(gpu[0], -kInfinity);
  EXPECT_EQ(gpu[1], 0.0);
  EXPECT_EQ(gpu[3], 2.0);
  EXPECT_TRUE(std::isnan(gpu[4]));
  // Each row as the parts of one: the NaN spoils it.
  Mirror losses(DType::kF64, {1}), merged(DType::kF64, {1, 2}), target(DType::kI32, {1});
  target.values({11});
  both.cuda->cross_entropy_combine(losses.device(), merged.device(),
                                   stats.device().reshape({3, 1, 3}), target.device());
  EXPECT_TRUE(std::isnan(losses.from_device()[0]));
}

}  // namespace
}  // namespace pg::model::testing

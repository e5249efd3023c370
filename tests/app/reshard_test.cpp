// A run saved on one grid goes on on another: after the load each logical tensor has the bits it
// was saved with, the new grid writes the same file byte for byte, and the losses are those of the
// uninterrupted run. And the controls: what is dropped after the load is found.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/app/saved_run.h"

namespace pg::testing {
namespace {

namespace fs = std::filesystem;
using model::Recompute;

constexpr auto kLlama = Style::kLlama, kGpt2 = Style::kGpt2;

fs::path tokens() {
  static const auto path = make_tokens(comm::Communicator::world(), "reshard", 2401, 61, 3);
  return path;
}

const MatrixCase kAllAxes = recomputed(sp(interleaved(on(kLlama, 2, 2, 2, 3))), Recompute::kFull);

std::vector<double> expect_same_run(const Move& move, double loss_bound) {
  return expect_same_run(move, tokens(), loss_bound);
}

// Every dense axis and every ZeRO stage, and what several ranks hold: 2 KV heads on more tp ranks,
// tied tables on two stages. 61 rows of the vocabulary and 5 layers divide by nothing.
TEST(Reshard, a_checkpoint_of_one_grid_continues_on_another) {
  const std::vector<Move> moves = {
      {"one rank to dp 2 zero 1", DType::kF64, on(kLlama, 1, 1, 1, 0), on(kLlama, 2, 1, 1, 1)},
      {"dp 4 zero 3 to tp 2 pp 2", DType::kF64, on(kLlama, 4, 1, 1, 3), on(kLlama, 1, 2, 2, 0)},
      {"tp 4 with KV copies to dp 3 zero 2", DType::kF64, on(kLlama, 1, 4, 1, 0),
       on(kLlama, 3, 1, 1, 2)},
      {"dp 3 zero 2 to tp 8 with KV copies", DType::kF64, on(kLlama, 3, 1, 1, 2),
       on(kLlama, 1, 8, 1, 0)},
      {"pp 4 tied to pp 2 interleaved", DType::kF64, on(kGpt2, 1, 1, 4, 0),
       interleaved(on(kGpt2, 1, 1, 2, 0))},
      {"pp 2 interleaved to pp 5 gpipe", DType::kF64, interleaved(on(kLlama, 1, 1, 2, 0)),
       gpipe(on(kLlama, 1, 1, 5, 0))},
      {"tied on two stages to one rank", DType::kF64, on(kGpt2, 1, 1, 2, 0), on(kGpt2, 1, 1, 1, 0)},
      {"tied on one rank to two stages, zero 3", DType::kF64, on(kGpt2, 1, 1, 1, 0),
       on(kGpt2, 2, 1, 3, 3)},
      {"one rank to every axis", DType::kF64, on(kLlama, 1, 1, 1, 0), kAllAxes},
      {"every axis to one rank", DType::kF64, kAllAxes, on(kLlama, 1, 1, 1, 0)},
      {"vocabulary over tp 2 to tp 3 sp zero 1", DType::kF64, on(kGpt2, 1, 2, 1, 0),
       sp(on(kGpt2, 2, 3, 1, 1))},
      {"vocabulary over tp 6 to tp 2 zero 3", DType::kF64, on(kGpt2, 1, 6, 1, 0),
       on(kGpt2, 3, 2, 1, 3)},
      {"sp off to on", DType::kF64, on(kLlama, 1, 4, 2, 0), sp(on(kLlama, 1, 4, 2, 0))},
      {"recompute off to full", DType::kF64, on(kLlama, 2, 2, 1, 2),
       recomputed(on(kLlama, 2, 2, 1, 2), Recompute::kFull)},
      {"recompute of two layers to selective", DType::kF64,
       recomputed(on(kGpt2, 1, 2, 2, 0), Recompute::kFull, 2),
       recomputed(on(kGpt2, 2, 1, 2, 1), Recompute::kSelective)},
      {"dp 6 zero 3 to dp 4 zero 3", DType::kF64, on(kGpt2, 6, 1, 1, 3), on(kGpt2, 4, 1, 1, 3)},
      {"pp 2 zero 3 to pp 3 zero 2", DType::kF64, on(kLlama, 2, 1, 2, 3), on(kLlama, 2, 1, 3, 2)},
  };
  for (const auto& move : moves) expect_same_run(move, 1e-9);  // parity_test.cpp
}

TEST(Reshard, fp32_checkpoints_continue_within_rounding) {
  const std::vector<Move> moves = {
      {"dp 3 zero 2 to tp 2 pp 3", DType::kF32, on(kLlama, 3, 1, 1, 2), on(kLlama, 1, 2, 3, 0)},
      {"tp 3 pp 2 sp to dp 4 zero 3", DType::kF32, sp(on(kGpt2, 1, 3, 2, 0)),
       on(kGpt2, 4, 1, 1, 3)},
      {"every axis to tp 8", DType::kF32, kAllAxes, on(kLlama, 1, 8, 1, 0)},
  };
  for (const auto& move : moves) expect_same_run(move, 2e-4);  // parity_test.cpp
}

// The exact weights go into the file, so nothing is rounded on the way. The losses: the grid's
// distance from the fp64 run may be at most 1.5 times that of one rank in bf16 (parity_test.cpp);
// two grids are then at most twice that apart.
TEST(Reshard, bf16_checkpoints_continue_as_close_to_fp64_as_one_rank) {
  const std::vector<Move> moves = {
      {"every axis to pp 4", DType::kBF16, kAllAxes, on(kLlama, 1, 1, 4, 0)},
      {"one rank to every axis", DType::kBF16, on(kLlama, 1, 1, 1, 0), kAllAxes},
      {"tied pp 3 zero 1 to dp 4 zero 3", DType::kBF16, on(kGpt2, 2, 1, 3, 1),
       on(kGpt2, 4, 1, 1, 3)},
  };
  for (const auto& move : moves) {
    std::vector<double> exact, single;
    double worst = 0;
    if (root()) {
      const auto deck = [&](DType type) { return matrix_deck(move.to.style, tokens(), type); };
      exact = one_rank(deck(DType::kF64), kStepsBefore + steps_after(DType::kBF16)).losses;
      single = one_rank(deck(DType::kBF16), kStepsBefore + steps_after(DType::kBF16)).losses;
      for (auto* losses : {&exact, &single})
        losses->erase(losses->begin(), losses->begin() + kStepsBefore);
      for (std::size_t i = 0; i < exact.size(); ++i) {
        worst = std::max(worst, std::abs(single[i] - exact[i]) / exact[i]);
      }
    }
    const auto losses = expect_same_run(move, 2 * 1.5 * worst);
    if (!root()) continue;
    EXPECT_LE(deviation(losses, exact), 1.5 * deviation(single, exact)) << move.name;
  }
}

TEST(Reshard, the_same_grid_continues_with_the_same_digits) {
  const std::vector<Move> moves = {
      {"every axis", DType::kF64, kAllAxes, kAllAxes},
      {"every axis", DType::kBF16, kAllAxes, kAllAxes},
      {"dp 3 pp 2 zero 2", DType::kF32, on(kLlama, 3, 1, 2, 2), on(kLlama, 3, 1, 2, 2)},
      {"tied dp 2 pp 3 zero 3", DType::kBF16, on(kGpt2, 2, 1, 3, 3), on(kGpt2, 2, 1, 3, 3)},
      {"tp 6 sp", DType::kF32, sp(on(kGpt2, 1, 6, 1, 0)), sp(on(kGpt2, 1, 6, 1, 0))},
  };
  for (const auto& move : moves) expect_same_run(move, 0.0);
}

// Dropped on the rank that owns it, and on one that holds a copy, where no file shows it.
TEST(ReshardControl, what_one_rank_drops_after_the_load_is_found) {
  using What = Damage::What;
  struct Control {
    const char* name;
    MatrixCase to;
    Damage damage;
    bool copy;  // the checkpoint's owner is another rank
  };
  const std::vector<Control> controls = {
      {"a first moment's piece of ZeRO 1", on(kLlama, 2, 1, 1, 1), {What::kFirstMoment, 1}, false},
      {"a second moment's piece of ZeRO 3",
       on(kLlama, 3, 1, 1, 3),
       {What::kSecondMoment, 2},
       false},
      {"a first moment's rows of tp", on(kLlama, 1, 4, 1, 0), {What::kFirstMoment, 3}, false},
      {"a last stage's weights", on(kLlama, 1, 1, 3, 0), {What::kWeights, 2}, false},
      {"a first moment of a replica", on(kLlama, 2, 1, 1, 0), {What::kFirstMoment, 1}, true},
      {"a second moment of a KV head's copy",
       on(kLlama, 1, 4, 1, 0),
       {What::kSecondMoment, 1, "blocks.0.attention.k"},
       true},
      {"the tied table's first moment on the last stage",
       on(kGpt2, 1, 1, 2, 0),
       {What::kFirstMoment, 1, "embed.tokens"},
       true},
  };
  for (const auto style : {kLlama, kGpt2}) {
    const auto first = save_on(on(style, 1, 1, 1, 0), tokens(), DType::kF64);
    for (const auto& control : controls) {
      if (control.to.style != style) continue;
      const auto sound = load_on(control.to, tokens(), DType::kF64);
      const auto broken = load_on(control.to, tokens(), DType::kF64, control.damage);
      if (!root()) continue;
      EXPECT_EQ(difference(sound, first), "") << control.name;
      EXPECT_LE(worst_loss(sound, first), 1e-9) << control.name;
      EXPECT_EQ(difference(broken, first) == "", control.copy) << control.name;
      const double worst = worst_loss(broken, first);
      EXPECT_GT(worst, 1e3 * 1e-9) << control.name;
      fmt::print("    without {:<50} losses off by {:.1e}\n", control.name, worst);
    }
  }
}

}  // namespace
}  // namespace pg::testing

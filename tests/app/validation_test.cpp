// The validation loss is one number on every grid, and taking it changes nothing: micro-batches
// that no schedule of a training step would have, batches that are not full, and files shorter than
// one batch.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>

#include "io/checkpoint.h"
#include "tests/app/saved_run.h"

namespace pg::testing {
namespace {

namespace fs = std::filesystem;

constexpr auto kLlama = Style::kLlama, kGpt2 = Style::kGpt2;

fs::path tokens() {
  static const auto path = make_tokens(comm::Communicator::world(), "validation", 2401, 61, 3);
  return path;
}

// `samples` sequences of 12 tokens and the one that the last predicts.
fs::path valid_tokens(std::int64_t samples) {
  return make_tokens(comm::Communicator::world(), fmt::format("validation{}", samples),
                     12 * samples + 1, 61, 9);
}

std::vector<MatrixCase> grids() {
  using model::Recompute;
  return {
      on(kLlama, 2, 1, 1, 0),
      on(kLlama, 4, 1, 2, 3),  // 3 micro-batches on 2 stages
      gpipe(on(kLlama, 4, 1, 2, 1)),
      on(kLlama, 1, 1, 5, 0),               // 12 on 5
      interleaved(on(kLlama, 2, 2, 2, 2)),  // 6 in groups of 2; 1 for the last batch
      recomputed(on(kLlama, 1, 8, 1, 0), Recompute::kFull),
      sp(interleaved(on(kLlama, 2, 2, 2, 3))),
      on(kGpt2, 3, 1, 2, 3),
      sp(on(kGpt2, 1, 3, 2, 0)),
      interleaved(on(kGpt2, 2, 1, 2, 2)),
      recomputed(on(kGpt2, 1, 6, 1, 0), Recompute::kSelective),
  };
}

// Weights that a few steps have moved, the same bits on every grid.
fs::path trained(Style style) {
  static std::map<Style, fs::path> made;
  if (!made.contains(style)) {
    const auto folder = scratch_folder("validation") / style_name(style);
    run_half(matrix_deck(style, tokens(), DType::kF64), 1, folder);
    made[style] = folder / io::checkpoint_name(kStepsBefore);
  }
  return made[style];
}

app::EvalResult evaluate(const app::Deck& deck, int ranks, const fs::path& entry) {
  app::EvalResult result;
  if (const auto part = first_ranks(ranks)) {
    comm::ProcessGrid grid(part, app::grid_of(deck, ranks));
    app::Trainer trainer(deck, grid);
    io::load_checkpoint(part, entry, trainer.records());
    trainer.loaded();
    result = trainer.evaluate();
  }
  wait_for_all();
  return result;
}

// Of 12 sequences a batch: four batches and two sequences; less than one batch; a single sequence.
// Bound: a token's loss is a difference of two numbers of size ln(61), each off by some tens of
// eps = 1.1e-16 through 5 layers of reassociated sums of up to 54 terms; the mean over the tokens
// does not add to that: 1e-12 is 9000 eps.
TEST(Validation, the_loss_is_the_same_on_every_grid) {
  for (const std::int64_t samples : {50, 5, 1}) {
    const auto valid = valid_tokens(samples);
    std::map<Style, app::EvalResult> reference;
    for (const auto style : {kLlama, kGpt2}) {
      auto deck = matrix_deck(style, tokens(), DType::kF64);
      deck.data.valid = valid.string();
      deck.train.eval_batches = 100;
      reference[style] = evaluate(deck, 1, trained(style));
      if (root()) {
        EXPECT_EQ(reference[style].tokens, 12 * samples);
        EXPECT_GT(reference[style].loss, 1.0);
      }
    }
    double worst = 0;
    for (const auto& c : grids()) {
      auto deck = c.deck(tokens(), DType::kF64);
      deck.data.valid = valid.string();
      deck.train.eval_batches = 100;
      const auto result = evaluate(deck, c.ranks(), trained(c.style));
      if (!root()) continue;
      const auto& expected = reference[c.style];
      EXPECT_EQ(result.tokens, expected.tokens) << c.name() << ", " << samples;
      EXPECT_NEAR(result.loss, expected.loss, 1e-12 * expected.loss) << c.name() << ", " << samples;
      worst = std::max(worst, std::abs(result.loss - expected.loss) / expected.loss);
    }
    if (root()) fmt::print("    {:2} samples: off by {:.1e} of 1e-12\n", samples, worst);
  }
}

TEST(Validation, between_steps_it_leaves_training_its_digits) {
  const auto valid = valid_tokens(50);
  for (const auto& c :
       {on(kLlama, 4, 1, 2, 3), interleaved(on(kLlama, 2, 1, 2, 2)), sp(on(kLlama, 1, 4, 1, 0)),
        on(kGpt2, 2, 1, 3, 1), sp(on(kGpt2, 2, 2, 1, 3))}) {
    const auto part = first_ranks(c.ranks());
    if (!part) continue;
    std::vector<std::vector<double>> losses;
    std::vector<std::map<std::string, std::vector<double>>> states;
    for (const bool evaluated : {false, true}) {
      auto deck = c.deck(tokens(), DType::kF32);
      deck.data.valid = valid.string();
      comm::ProcessGrid grid(part, app::grid_of(deck, c.ranks()));
      app::Trainer trainer(deck, grid);
      std::vector<double> seen;
      if (evaluated) trainer.evaluate();
      for (int step = 0; step < 3; ++step) {
        const auto result = trainer.step();
        seen.push_back(result.loss);
        seen.push_back(result.grad_norm);
        if (evaluated) trainer.evaluate();
      }
      losses.push_back(seen);
      states.push_back(logical_state(grid, trainer));
    }
    EXPECT_EQ(losses[0], losses[1]) << c.name();
    EXPECT_EQ(states[0], states[1]) << c.name();
  }
}

}  // namespace
}  // namespace pg::testing

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

// `samples` sequences of `seq` tokens and the one that the last predicts.
fs::path valid_tokens(std::int64_t samples, std::int64_t seq = 12) {
  return make_tokens(comm::Communicator::world(), fmt::format("validation{}_{}", samples, seq),
                     seq * samples + 1, 61, 9);
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

// The case's deck without its grid.
app::Deck on_one_rank(const MatrixCase& c) {
  auto deck = c.deck(tokens(), DType::kF64);
  deck.grid = {};
  deck.pipeline = {};
  deck.context = {};
  deck.recompute = {};
  return deck;
}

// With experts and parts of sequences: 8 sequences of 24 tokens a batch.
std::vector<MatrixCase> grids_of_parts() {
  using model::ContextMethod;
  using model::ScheduleKind;
  const auto dense = of_style(kLlama);
  const auto top_k = of_style(kLlama, Feed::kTopKCapacity);
  const auto shared = of_style(kGpt2, Feed::kTopKShared);
  return {
      with_experts(top_k, 4),
      with_tensor(with_zero(with_experts(top_k, 2), 2, 3), 2, true),
      with_stages(with_context(with_experts(top_k, 2), 2, ContextMethod::kRing), 2,
                  ScheduleKind::kInterleaved),
      with_stages(with_experts(shared, 4), 2, ScheduleKind::k1F1B),
      with_zero(with_context(shared, 4, ContextMethod::kUlysses), 2, 1),
      with_context(dense, 3, ContextMethod::kRing),
      with_zero(with_context(dense, 4, ContextMethod::kAllGather), 2, 3),
      with_tensor(with_context(dense, 2, ContextMethod::kUlysses), 2, true),
  };
}

// Weights that a few steps have moved, the same bits on every grid.
fs::path trained(const MatrixCase& c) {
  static std::map<std::string, fs::path> made;
  if (!made.contains(c.model())) {
    const auto folder = scratch_folder("validation") / std::to_string(made.size());
    run_half(on_one_rank(c), 1, folder);
    made[c.model()] = folder / io::checkpoint_name(kStepsBefore);
  }
  return made[c.model()];
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

// Expects the loss of one rank on each grid, over a file of `samples` sequences.
void expect_one_loss(const std::vector<MatrixCase>& cases, std::int64_t samples, double bound) {
  const auto seq = cases.front().deck("", DType::kF64).train.seq;
  const auto valid = valid_tokens(samples, seq);
  const auto loss_of = [&](app::Deck deck, int ranks, const MatrixCase& c) {
    deck.data.valid = valid.string();
    deck.train.eval_batches = 100;
    return evaluate(deck, ranks, trained(c));
  };
  std::map<std::string, app::EvalResult> reference;
  double worst = 0;
  for (const auto& c : cases) {
    if (!reference.contains(c.model())) {
      reference[c.model()] = loss_of(on_one_rank(c), 1, c);
      if (root()) {
        EXPECT_EQ(reference[c.model()].tokens, seq * samples);
        EXPECT_GT(reference[c.model()].loss, 1.0);
      }
    }
    const auto result = loss_of(c.deck(tokens(), DType::kF64), c.ranks(), c);
    if (!root()) continue;
    const auto& expected = reference[c.model()];
    EXPECT_EQ(result.tokens, expected.tokens) << c.name() << ", " << samples;
    EXPECT_NEAR(result.loss, expected.loss, bound * expected.loss) << c.name() << ", " << samples;
    worst = std::max(worst, std::abs(result.loss - expected.loss) / expected.loss);
  }
  if (root()) fmt::print("    {:2} samples: off by {:.1e} of {:.0e}\n", samples, worst, bound);
}

// Of 12 sequences a batch: four batches and two sequences; less than one batch; a single sequence.
// Bound: a token's loss is a difference of two numbers of size ln(61), each off by some tens of
// eps = 1.1e-16 through 5 layers of reassociated sums of up to 54 terms; the mean over the tokens
// does not add to that: 1e-12 is 9000 eps.
TEST(Validation, the_loss_is_the_same_on_every_grid) {
  for (const std::int64_t samples : {50, 5, 1}) expect_one_loss(grids(), samples, 1e-12);
}

// Of 8 sequences a batch, likewise.
TEST(Validation, the_loss_is_the_same_on_every_grid_of_experts_and_parts_of_sequences) {
  for (const std::int64_t samples : {34, 5, 1}) expect_one_loss(grids_of_parts(), samples, 1e-12);
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

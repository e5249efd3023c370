// An evaluation that a stop cuts short: the run stops at once, saves, and the next start evaluates
// what was left over, with the digits of a run that nobody stopped.
#include "app/evaluation.h"

#include <gtest/gtest.h>

#include <csignal>
#include <fstream>
#include <nlohmann/json.hpp>

#include "app/stop_signals.h"
#include "app/train.h"
#include "harness/tiny_run.h"
#include "io/checkpoint.h"

namespace pg::app {
namespace {

namespace fs = std::filesystem;

comm::Communicator world() {
  return comm::Communicator::world();
}

class CutEvaluation : public ::testing::Test {
 protected:
  void SetUp() override {
    clear_stop_signal();
    catch_stop_signals();
  }
  void TearDown() override { clear_stop_signal(); }

  // Evaluations of four batches after steps 3 and 6.
  Deck deck_in(const std::string& name) {
    const auto ranks = std::to_string(world().size());
    static const auto tokens = testing::make_tokens(world(), "evaluated" + ranks, 1201, 61, 5);
    static const auto valid = testing::make_tokens(world(), "evaluation" + ranks, 1201, 61, 6);
    auto deck = testing::gpt2_deck(tokens, DType::kF32);
    deck.data.valid = valid.string();
    deck.train.steps = 6;
    deck.train.eval_every = 3;
    deck.train.eval_batches = 4;
    deck.checkpoint.resume = "auto";
    deck.run.output = testing::no_folder(world(), "evaluation", name);
    return deck;
  }

  // A signal on the last rank before the third batch of the evaluation after this step; 0: none.
  ExitCode train(const Deck& deck, std::int64_t signal_after = 0) {
    TrainControls controls;
    int asked = 0;
    controls.in_evaluation = [&](Trainer& trainer) {
      if (trainer.completed() != signal_after || ++asked != 2) return;
      if (world().rank() == world().size() - 1) std::raise(SIGUSR1);
    };
    const auto code = run_train(deck, world(), {}, controls);
    clear_stop_signal();
    return code;
  }

  // This member of all records that have it, by step, exactly as printed.
  static std::map<std::int64_t, std::string> records(const Deck& deck, const std::string& member) {
    std::map<std::int64_t, std::string> found;
    std::ifstream in(fs::path(deck.run.output) / "metrics.jsonl");
    for (std::string line; std::getline(in, line);) {
      const auto record = nlohmann::json::parse(line);
      if (record.contains(member)) found[record["step"]] += record[member].dump() + " ";
    }
    return found;
  }

  static std::int64_t newest(const Deck& deck) {
    const auto entries = io::list_checkpoints(fs::path(deck.run.output) / "checkpoints");
    return entries.empty() ? 0 : entries.front().step;
  }
};

TEST_F(CutEvaluation, is_done_by_the_next_start_with_the_same_digits) {
  const auto reference = deck_in("reference");
  ASSERT_EQ(train(reference), ExitCode::kDone);
  ASSERT_EQ(records(reference, "valid_loss").size(), 2U);

  for (const std::int64_t step : {3, 6}) {
    const auto deck = deck_in("cut" + std::to_string(step));
    ASSERT_EQ(train(deck, step), ExitCode::kStopped);
    EXPECT_EQ(newest(deck), step);
    EXPECT_FALSE(records(deck, "valid_loss").contains(step));
    const auto why = records(deck, "valid_cut");
    ASSERT_EQ(why.size(), 1U);
    EXPECT_NE(why.at(step).find("SIGUSR1 on rank " + std::to_string(world().size() - 1)),
              std::string::npos)
        << why.at(step);

    ASSERT_EQ(train(deck), ExitCode::kDone);
    EXPECT_EQ(records(deck, "loss"), records(reference, "loss"));
    EXPECT_EQ(records(deck, "valid_loss"), records(reference, "valid_loss"));
    ASSERT_EQ(train(deck), ExitCode::kDone) << "it is done already";
    EXPECT_EQ(records(deck, "valid_loss"), records(reference, "valid_loss"));
  }
}

// Else a slice that is shorter than an evaluation would never come to its first step.
TEST_F(CutEvaluation, is_left_out_when_the_next_start_is_stopped_in_it_too) {
  const auto deck = deck_in("twice");
  ASSERT_EQ(train(deck, 3), ExitCode::kStopped);
  ASSERT_EQ(train(deck, 3), ExitCode::kStopped);
  EXPECT_EQ(records(deck, "loss").size(), 3U);
  EXPECT_EQ(newest(deck), 3);
  ASSERT_EQ(train(deck, 3), ExitCode::kDone);
  EXPECT_EQ(records(deck, "loss").size(), 6U);
  const auto done = records(deck, "valid_loss");
  EXPECT_FALSE(done.contains(3));
  EXPECT_TRUE(done.contains(6));
}

// run.stop_after may lie at the step whose evaluation was cut: it is still done, and a run whose
// steps are all done ends.
TEST_F(CutEvaluation, is_done_by_a_start_that_makes_no_step) {
  for (const std::int64_t step : {3, 6}) {
    auto deck = deck_in("no_step" + std::to_string(step));
    deck.run.stop_after = step;
    ASSERT_EQ(train(deck, step), ExitCode::kStopped);
    EXPECT_FALSE(records(deck, "valid_loss").contains(step));
    EXPECT_EQ(train(deck), step == 6 ? ExitCode::kDone : ExitCode::kStopped);
    EXPECT_TRUE(records(deck, "valid_loss").contains(step));
    EXPECT_EQ(records(deck, "loss").size(), static_cast<std::size_t>(step));
  }
}

TEST_F(CutEvaluation, is_not_what_stop_after_makes) {
  auto deck = deck_in("stop_after");
  deck.run.stop_after = 3;
  ASSERT_EQ(train(deck), ExitCode::kStopped);
  EXPECT_TRUE(records(deck, "valid_loss").contains(3));
  EXPECT_TRUE(records(deck, "valid_cut").empty());
}

}  // namespace
}  // namespace pg::app

// Whole runs through numbers that go wrong: what their records, checkpoints and ends say, and that
// a stop in the middle changes nothing.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "app/train.h"
#include "harness/tiny_run.h"
#include "io/checkpoint.h"

namespace pg::testing {
namespace {

namespace fs = std::filesystem;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
using Steps = std::set<std::int64_t>;
using Record = nlohmann::json;

comm::Communicator world() {
  return comm::Communicator::world();
}

app::Deck deck_in(const std::string& folder, std::int64_t steps) {
  static const auto train = make_tokens(world(), "numerical_run", 2401, 61, 5);
  auto deck = llama_deck(train, DType::kF32);
  deck.train.steps = steps;
  deck.run.output = no_folder(world(), "numerical_run", folder);
  return deck;
}

// One rank's gradient is not finite in these steps.
app::TrainControls poisoned(const Steps& steps) {
  return {[steps](app::Trainer& trainer) {
    model::Sabotage sabotage;
    sabotage.poison = kNaN;
    if (world().rank() == 1 && steps.count(trainer.completed() + 1)) {
      sabotage.poisoned_gradient = "blocks.1.mlp.up.weight";
    }
    trainer.set_sabotage(sabotage);
  }};
}

// The loss of these steps is so many times what it is.
app::TrainControls scaled(const Steps& steps, double factor) {
  return {[steps, factor](app::Trainer& trainer) {
    model::Sabotage sabotage;
    if (steps.count(trainer.completed() + 1)) sabotage.loss_factor = factor;
    trainer.set_sabotage(sabotage);
  }};
}

// The steps' records, without what depends on the clock.
std::vector<Record> records(const app::Deck& deck) {
  std::vector<Record> all;
  std::ifstream in(fs::path(deck.run.output) / "metrics.jsonl");
  for (std::string line; std::getline(in, line);) {
    const auto json = Record::parse(line);
    if (!json.contains("loss")) continue;  // of a save
    Record kept;
    for (const char* key : {"step", "loss", "grad_norm", "lr", "skipped"}) {
      if (json.contains(key)) kept[key] = json[key];
    }
    all.push_back(kept);
  }
  return all;
}

std::map<std::int64_t, std::string> skipped(const app::Deck& deck) {
  std::map<std::int64_t, std::string> steps;
  for (const auto& record : records(deck)) {
    if (record.contains("skipped")) steps[record["step"]] = record["skipped"];
  }
  return steps;
}

Steps saved(const app::Deck& deck) {
  Steps steps;
  for (const auto& entry : io::list_checkpoints(fs::path(deck.run.output) / "checkpoints")) {
    EXPECT_TRUE(io::verify_checkpoint(entry.path).empty());
    steps.insert(entry.step);
  }
  return steps;
}

// Of every tensor in every checkpoint.
bool all_finite(const app::Deck& deck) {
  comm::ProcessGrid grid(world(), app::grid_of(deck, world().size()));
  app::Trainer trainer(deck, grid);
  for (const auto& entry : io::list_checkpoints(fs::path(deck.run.output) / "checkpoints")) {
    io::load_checkpoint(grid.communicator(), entry.path, trainer.records());
    for (const auto& [name, values] : logical_state(grid, trainer)) {
      for (const double value : values) {
        if (!std::isfinite(value)) return false;
      }
    }
  }
  return true;
}

std::string failure(const app::Deck& deck, const app::TrainControls& controls) {
  try {
    app::run_train(deck, world(), {}, controls);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kNumerical) << error.what();
    EXPECT_EQ(error.ranks(), world().size());
    std::ifstream in(fs::path(deck.run.output) / "exit.json");
    const auto json = Record::parse(in);
    EXPECT_EQ(json["code"], 7);
    EXPECT_EQ(json["reason"], error.what());
    return error.what();
  }
  ADD_FAILURE() << "the run did not fail";
  return "";
}

// What a stop saves among skipped steps may be a run that goes wrong: it replaces nothing.
TEST(NumericalRun, a_stop_among_skipped_steps_leaves_older_checkpoints) {
  for (const bool bad : {true, false}) {
    auto deck = deck_in("stop_among_skipped", 9);
    deck.checkpoint.every = 2;
    deck.checkpoint.keep = 1;
    deck.run.stop_after = 6;
    const auto controls = bad ? poisoned({5, 6}) : poisoned({});
    ASSERT_EQ(app::run_train(deck, world(), {}, controls), ExitCode::kStopped);
    EXPECT_EQ(saved(deck), bad ? (Steps{4, 6}) : (Steps{6}));
  }
}

TEST(NumericalRun, a_skipped_step_is_in_the_records_and_saves_wait_for_the_next_update) {
  auto deck = deck_in("records", 7);
  deck.checkpoint.every = 3;
  ASSERT_EQ(app::run_train(deck, world(), {}, poisoned({3, 4, 7})), ExitCode::kDone);
  const auto all = records(deck);
  ASSERT_EQ(all.size(), 7U);
  for (std::size_t i = 0; i < all.size(); ++i) {
    EXPECT_EQ(all[i]["step"], i + 1);
    EXPECT_TRUE(all[i]["loss"].is_number());  // only the backward was bad
    const bool bad = i == 2 || i == 3 || i == 6;
    EXPECT_EQ(all[i]["grad_norm"].is_null(), bad) << i;
    EXPECT_EQ(all[i].contains("skipped"), bad) << i;
    if (bad) {
      EXPECT_EQ(all[i]["skipped"], "not finite");
    }
  }
  EXPECT_EQ(saved(deck), (Steps{5, 6, 7}));
  EXPECT_TRUE(all_finite(deck));
}

TEST(NumericalRun, skips_in_a_row_end_with_exit_7_and_healthy_checkpoints) {
  auto deck = deck_in("given_up", 40);
  deck.checkpoint.every = 2;
  deck.checkpoint.keep = 2;
  deck.train.max_skips = 3;
  const auto what = failure(deck, poisoned({4, 7, 8, 9, 10}));
  EXPECT_NE(what.find("step 9: loss"), std::string::npos) << what;
  EXPECT_NE(what.find("3 steps in a row"), std::string::npos) << what;
  EXPECT_NE(what.find("4 in all"), std::string::npos) << what;
  EXPECT_EQ(saved(deck), (Steps{5, 6}));
  EXPECT_TRUE(all_finite(deck));
}

// A run whose weights explode in step 5, finite at first.
app::Deck explodes(const std::string& folder) {
  auto deck = deck_in(folder, 40);
  deck.optimizer.clip = 0;
  deck.schedule.kind = app::LrKind::kConstant;
  deck.schedule.warmup = 0;
  deck.schedule.min_lr = 0;
  deck.checkpoint.every = 2;
  deck.checkpoint.keep = 1;
  deck.run.stop_after = 4;
  EXPECT_EQ(app::run_train(deck, world()), ExitCode::kStopped);
  deck.run.stop_after = 0;
  deck.checkpoint.resume = "latest";
  deck.optimizer.lr = 1e30;
  deck.checkpoint.overrides = {"optimizer.lr", "train.steps"};
  return deck;
}

// What the weights were before is not pushed out by what they are.
TEST(NumericalRun, a_run_that_diverges_keeps_the_checkpoints_from_before) {
  const auto deck = explodes("diverges");
  failure(deck, {});
  EXPECT_EQ(saved(deck), Steps{4});
  EXPECT_TRUE(all_finite(deck));
}

TEST(NumericalRun, a_bad_last_step_ends_a_run_whose_weights_are_good) {
  for (const bool in_loss : {false, true}) {
    auto deck = deck_in("last", 4);
    ASSERT_EQ(app::run_train(deck, world(), {}, in_loss ? scaled({4}, kNaN) : poisoned({4})),
              ExitCode::kDone);
    EXPECT_EQ(skipped(deck), (std::map<std::int64_t, std::string>{{4, "not finite"}}));
    EXPECT_EQ(saved(deck), Steps{4});
  }
}

TEST(NumericalRun, a_bad_last_step_is_no_end_when_the_weights_are_to_blame) {
  auto deck = explodes("last_diverges");
  deck.train.steps = 6;  // 5 explodes, 6 is not finite
  const auto what = failure(deck, {});
  EXPECT_NE(what.find("step 6: loss"), std::string::npos) << what;
  EXPECT_NE(what.find("such weights do not end a run"), std::string::npos) << what;
  EXPECT_EQ(saved(deck), Steps{4});
}

constexpr double kSigma = 6;

TEST(NumericalRun, a_spike_gets_no_update_and_without_a_sigma_it_does) {
  auto deck = deck_in("spike", 30);
  deck.train.spike_sigma = kSigma;
  ASSERT_EQ(app::run_train(deck, world(), {}, scaled({26}, 20)), ExitCode::kDone);
  EXPECT_EQ(skipped(deck), (std::map<std::int64_t, std::string>{{26, "spike"}}));
  const auto guarded = records(deck);
  deck = deck_in("no_spike", 30);
  ASSERT_EQ(app::run_train(deck, world(), {}, scaled({26}, 20)), ExitCode::kDone);
  EXPECT_TRUE(skipped(deck).empty());
  const auto free = records(deck);
  EXPECT_EQ(guarded[25]["loss"], free[25]["loss"]);
  EXPECT_NE(guarded[26]["loss"], free[26]["loss"]);
}

// Spikes and NaNs on both sides of two stops, one of them between two skipped steps.
app::TrainControls mixed(bool forget = false) {
  return {[forget](app::Trainer& trainer) {
    const auto step = trainer.completed() + 1;
    if (forget && step == 26) trainer.set_guard("");
    model::Sabotage sabotage;
    sabotage.poison = kNaN;
    if (step == 4 || step == 5) sabotage.poisoned_gradient = "final_norm.weight";
    if (step == 25 || step == 30) sabotage.loss_factor = 20;
    trainer.set_sabotage(sabotage);
  }};
}

TEST(NumericalRun, a_stopped_and_resumed_run_skips_the_same_steps) {
  auto deck = deck_in("straight", 34);
  deck.train.spike_sigma = kSigma;
  ASSERT_EQ(app::run_train(deck, world(), {}, mixed()), ExitCode::kDone);
  const auto expected = records(deck);
  ASSERT_EQ(skipped(deck),
            (std::map<std::int64_t, std::string>{
                {4, "not finite"}, {5, "not finite"}, {25, "spike"}, {30, "spike"}}));

  deck = deck_in("stopped", 34);
  deck.train.spike_sigma = kSigma;
  for (const std::int64_t stop : {4, 25, 0}) {
    deck.run.stop_after = stop;
    ASSERT_EQ(app::run_train(deck, world(), {}, mixed()),
              stop > 0 ? ExitCode::kStopped : ExitCode::kDone);
    deck.checkpoint.resume = "latest";
  }
  EXPECT_EQ(records(deck), expected);

  // The control: a guard that has forgotten what it saw.
  deck = deck_in("forgets", 34);
  deck.train.spike_sigma = kSigma;
  ASSERT_EQ(app::run_train(deck, world(), {}, mixed(/*forget=*/true)), ExitCode::kDone);
  EXPECT_EQ(skipped(deck).count(30), 0U);
  EXPECT_NE(records(deck), expected);
}

// A row of skipped steps goes on where it was stopped.
TEST(NumericalRun, the_count_in_a_row_survives_a_stop) {
  auto deck = deck_in("row", 20);
  deck.train.max_skips = 4;
  deck.run.stop_after = 5;
  const auto controls = poisoned({3, 4, 5, 6, 7, 8});
  ASSERT_EQ(app::run_train(deck, world(), {}, controls), ExitCode::kStopped);
  EXPECT_EQ(saved(deck), Steps{5});
  deck.run.stop_after = 0;
  deck.checkpoint.resume = "latest";
  const auto what = failure(deck, controls);
  EXPECT_NE(what.find("step 6: loss"), std::string::npos) << what;
}

// A bit of one replica's weights, right before step 3.
app::TrainControls flipped() {
  return {[](app::Trainer& trainer) {
    if (world().rank() != 1 || trainer.completed() != 2) return;
    auto& params = trainer.params();
    auto* const weights = params.weight(params.table().id("blocks.0.mlp.up.weight")).data<float>();
    reinterpret_cast<std::uint32_t*>(weights)[3] ^= 1U << 29;
    trainer.kernels().weights_changed();
  }};
}

TEST(NumericalRun, a_flipped_weight_ends_with_exit_7_and_is_never_saved) {
  auto deck = deck_in("flipped", 9);
  deck.checkpoint.every = 2;
  deck.run.replica_check = 100;  // never due but before a save
  const auto what = failure(deck, flipped());
  EXPECT_NE(what.find("blocks.0.mlp.up.weight"), std::string::npos) << what;
  EXPECT_EQ(saved(deck), Steps{2});
  EXPECT_EQ(records(deck).size(), 4U);

  deck = deck_in("flipped_each", 9);
  deck.run.replica_check = 3;
  EXPECT_NE(failure(deck, flipped()).find("step 3: "), std::string::npos);
  EXPECT_EQ(records(deck).size(), 2U);
  EXPECT_TRUE(saved(deck).empty());

  // The control: nobody looks, and the run ends well, with other losses.
  deck = deck_in("unseen", 9);
  ASSERT_EQ(app::run_train(deck, world(), {}, flipped()), ExitCode::kDone);
  const auto unseen = records(deck);
  deck = deck_in("sound", 9);
  deck.run.replica_check = 1;
  ASSERT_EQ(app::run_train(deck, world()), ExitCode::kDone);
  EXPECT_EQ(records(deck)[1], unseen[1]);
  EXPECT_NE(records(deck)[8]["loss"], unseen[8]["loss"]);
}

}  // namespace
}  // namespace pg::testing

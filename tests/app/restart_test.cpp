// A stopped and resumed run is the uninterrupted run, digit for digit: stops inside an epoch and
// across its end, with dropout, gradient accumulation and validation. And the controls: forget a
// moment or the cursor, and the same comparison fails.
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>

#include "app/train.h"
#include "harness/tiny_run.h"
#include "io/checkpoint.h"
#include "io/run_folder.h"

namespace pg::testing {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kAfter = 20;  // losses compared after each stop

comm::Communicator world() {
  return comm::Communicator::world();
}

// 1,201 tokens are 100 samples of 12: with 24 a step an epoch ends in every fifth step.
fs::path tokens() {
  static const auto path =
      make_tokens(world(), "restart" + std::to_string(world().size()), 1201, 61, 5);
  return path;
}

app::Deck deck_in(const std::string& folder, DType precision) {
  auto deck = gpt2_deck(tokens(), precision);
  deck.train.steps = 30;
  deck.run.output = no_folder(world(), "restart", folder);
  return deck;
}

// The loss of each step exactly as metrics.jsonl prints it.
std::map<std::int64_t, std::string> losses_of(const app::Deck& deck) {
  std::map<std::int64_t, std::string> losses;
  std::ifstream in(fs::path(deck.run.output) / "metrics.jsonl");
  for (std::string line; std::getline(in, line);) {
    const auto record = nlohmann::json::parse(line);
    if (!record.contains("loss")) continue;
    const auto begin = line.find("\"loss\": ") + 8;
    const auto step = record["step"].get<std::int64_t>();
    EXPECT_FALSE(losses.contains(step)) << "two records of step " << step;
    losses[step] = line.substr(begin, line.find(',', begin) - begin);
  }
  return losses;
}

int exit_json(const app::Deck& deck) {
  std::ifstream in(fs::path(deck.run.output) / "exit.json");
  return nlohmann::json::parse(in)["code"].get<int>();
}

class Restart : public ::testing::TestWithParam<DType> {};

TEST_P(Restart, a_stopped_and_resumed_run_prints_the_same_digits) {
  auto reference = deck_in("reference", GetParam());
  ASSERT_EQ(app::run_train(reference, world()), ExitCode::kDone);
  const auto expected = losses_of(reference);
  ASSERT_EQ(expected.size(), 30U);

  for (const std::int64_t stop : {1, 4, 5, 10}) {
    auto deck = deck_in("stop" + std::to_string(stop), GetParam());
    deck.run.stop_after = stop;
    ASSERT_EQ(app::run_train(deck, world()), ExitCode::kStopped);
    EXPECT_EQ(exit_json(deck), 75);
    EXPECT_EQ(losses_of(deck).size(), static_cast<std::size_t>(stop));
    const auto entries = io::list_checkpoints(fs::path(deck.run.output) / "checkpoints");
    ASSERT_EQ(entries.size(), 1U);
    EXPECT_EQ(entries[0].step, stop);

    deck.run.stop_after = 0;
    deck.checkpoint.resume = "latest";
    ASSERT_EQ(app::run_train(deck, world()), ExitCode::kDone);
    EXPECT_EQ(exit_json(deck), 0);
    EXPECT_EQ(losses_of(deck), expected) << "stopped after " << stop;
  }
}

TEST_P(Restart, a_finished_run_resumes_to_done_at_once) {
  auto deck = deck_in("finished", GetParam());
  deck.train.steps = 2;
  deck.schedule.warmup = 1;
  ASSERT_EQ(app::run_train(deck, world()), ExitCode::kDone);
  deck.checkpoint.resume = "auto";
  EXPECT_EQ(app::run_train(deck, world()), ExitCode::kDone);
  EXPECT_EQ(losses_of(deck).size(), 2U);
}

// What is left out on purpose after the load.
enum class Forget { kNothing, kFirstMoment, kSecondMoment, kCursor, kStep };

// Losses of kAfter steps after a save at step 5 into a fresh trainer.
std::vector<double> resumed_losses(const app::Deck& deck, Forget forget) {
  comm::ProcessGrid grid(world(), app::grid_of(deck, world().size()));
  const fs::path folder = fs::path(deck.run.output) / "checkpoints";
  io::CheckpointInfo info;
  fs::path entry;
  {
    app::Trainer first(deck, grid);
    for (int i = 0; i < 5; ++i) first.step();
    info.step = first.completed();
    info.next_sample = first.next_sample();
    info.provenance = "{}";
    if (grid.root()) fs::create_directories(folder);
    entry = io::save_checkpoint(grid.communicator(), folder, info, first.records_to_save());
  }
  app::Trainer second(deck, grid);
  io::load_checkpoint(grid.communicator(), entry, second.records());
  second.loaded();
  second.set_progress(forget == Forget::kStep ? 0 : info.step,
                      forget == Forget::kCursor ? 0 : info.next_sample);
  auto& params = second.params();
  for (std::size_t id = 0; id < params.table().size(); ++id) {
    if (forget == Forget::kFirstMoment) second.kernels().fill_zero(params.kept_m(id));
    if (forget == Forget::kSecondMoment) second.kernels().fill_zero(params.kept_v(id));
  }
  std::vector<double> losses;
  for (std::int64_t i = 0; i < kAfter; ++i) losses.push_back(second.step().loss);
  return losses;
}

TEST_P(Restart, the_comparison_fails_when_a_part_of_the_state_is_dropped) {
  auto deck = deck_in("control", GetParam());
  std::vector<double> expected;
  {
    comm::ProcessGrid grid(world(), app::grid_of(deck, world().size()));
    app::Trainer straight(deck, grid);
    for (int i = 0; i < 5; ++i) straight.step();
    for (std::int64_t i = 0; i < kAfter; ++i) expected.push_back(straight.step().loss);
  }
  EXPECT_EQ(resumed_losses(deck, Forget::kNothing), expected);
  for (const auto forget :
       {Forget::kFirstMoment, Forget::kSecondMoment, Forget::kCursor, Forget::kStep}) {
    EXPECT_NE(resumed_losses(deck, forget), expected) << static_cast<int>(forget);
  }
}

INSTANTIATE_TEST_SUITE_P(Precisions, Restart,
                         ::testing::Values(DType::kF64, DType::kF32, DType::kBF16),
                         [](const auto& instance) {
                           return std::string(dtype_name(instance.param));
                         });

TEST(Resume, other_data_is_refused) {
  auto deck = deck_in("otherdata", DType::kF32);
  deck.run.stop_after = 2;
  ASSERT_EQ(app::run_train(deck, world()), ExitCode::kStopped);
  deck.data.train =
      make_tokens(world(), "other" + std::to_string(world().size()), 1201, 61, 6).string();
  deck.checkpoint.resume = "latest";
  try {
    app::run_train(deck, world());
    FAIL() << "resumed on other data";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kCheckpoint) << error.what();
  }
}

TEST(Resume, another_model_or_seed_of_the_same_shapes_is_refused_by_name) {
  auto deck = deck_in("othermodel", DType::kF32);
  deck.run.stop_after = 2;
  ASSERT_EQ(app::run_train(deck, world()), ExitCode::kStopped);
  deck.checkpoint.resume = "latest";
  const auto refused = [&](const app::Deck& changed, const std::string& key) {
    try {
      app::run_train(changed, world());
      ADD_FAILURE() << "resumed with another " << key;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kCheckpoint);
      EXPECT_NE(std::string(error.what()).find(key + ":"), std::string::npos) << error.what();
    }
  };
  auto changed = deck;
  changed.run.seed += 1;
  refused(changed, "run.seed");
  changed = deck;  // 4 heads of 7 and 7 of 4 have the same matrices
  changed.model.heads = changed.model.kv_heads = 7;
  changed.model.head_dim = 4;
  refused(changed, "model.heads");
  changed = deck;
  changed.model.norm_eps *= 2;
  refused(changed, "model.norm_eps");
  // What an override names may change, and has changed for good.
  deck.run.stop_after = 3;
  deck.model.dropout = 0.0;
  deck.optimizer.lr = 2e-3;
  refused(deck, "model.dropout");
  deck.checkpoint.overrides = {"model.dropout"};
  refused(deck, "optimizer.lr");
  deck.checkpoint.overrides = {"model.dropout", "optimizer.lr"};
  EXPECT_EQ(app::run_train(deck, world()), ExitCode::kStopped);
  deck.run.stop_after = 4;
  deck.checkpoint.overrides.clear();
  EXPECT_EQ(app::run_train(deck, world()), ExitCode::kStopped);
}

TEST(Resume, another_routing_of_the_same_shapes_is_refused_by_name) {
  auto deck = deck_in("otherrouting", DType::kF32);
  deck.model.moe = {.experts = 4, .ffn = 16};
  deck.run.stop_after = 2;
  ASSERT_EQ(app::run_train(deck, world()), ExitCode::kStopped);
  deck.checkpoint.resume = "latest";
  auto changed = deck;
  changed.model.moe.top_k = 3;
  try {
    app::run_train(changed, world());
    ADD_FAILURE() << "resumed with another routing";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kCheckpoint);
    EXPECT_TRUE(std::string(error.what())
                    .ends_with("\nmoe.top_k: 3, was 2\ncheckpoint.override: those it names may "
                               "differ: moe.top_k"))
        << error.what();
  }
  deck.run.stop_after = 3;
  deck.model.moe.aux_loss = 0.01;
  deck.checkpoint.overrides = {"moe.aux_loss"};
  EXPECT_EQ(app::run_train(deck, world()), ExitCode::kStopped);
}

TEST(Resume, an_older_checkpoint_is_refused_while_the_folder_holds_newer_ones) {
  auto deck = deck_in("branch", DType::kF32);
  deck.checkpoint.every = 2;
  deck.run.stop_after = 4;
  ASSERT_EQ(app::run_train(deck, world()), ExitCode::kStopped);
  deck.checkpoint.resume = deck.run.output + "/checkpoints/step-000000002";
  deck.run.stop_after = 3;
  EXPECT_THROW(app::run_train(deck, world()), Error);
  // Into a folder of its own it may branch off, and even a stop at once leaves something to resume.
  const auto old = deck.run.output;
  deck = deck_in("branched", DType::kF32);
  deck.checkpoint.resume = old + "/checkpoints/step-000000002";
  deck.run.stop_after = 2;
  EXPECT_EQ(app::run_train(deck, world()), ExitCode::kStopped);
  EXPECT_EQ(io::list_checkpoints(fs::path(deck.run.output) / "checkpoints").at(0).step, 2);
}

// As a process leaves it that was killed between the two renames of a save of the same step.
TEST(Resume, an_entry_that_was_moved_aside_is_found_again) {
  auto deck = deck_in("aside", DType::kF32);
  deck.run.stop_after = 2;
  ASSERT_EQ(app::run_train(deck, world()), ExitCode::kStopped);
  const auto entry = fs::path(deck.run.output) / "checkpoints/step-000000002";
  const auto group = comm::make_mpi_group(world(), "aside");
  const auto move_aside = [&] {
    if (group->rank() == 0) {
      fs::rename(entry, entry.parent_path() / ".step-000000002.4711.replaced");
      fs::remove(fs::path(deck.run.output) / "metrics.jsonl");
    }
    group->barrier();
  };
  move_aside();
  EXPECT_THROW(app::run_train(deck, world()), Error);  // no fresh start beside it
  move_aside();
  deck.checkpoint.resume = "auto";
  deck.run.stop_after = 3;
  ASSERT_EQ(app::run_train(deck, world()), ExitCode::kStopped);
  EXPECT_EQ(losses_of(deck).size(), 1U);
  EXPECT_TRUE(fs::exists(entry));
}

TEST(Resume, a_checkpoint_of_another_grid_continues_the_same_run) {
  const int ranks = world().size();
  if (ranks == 1) return;  // needs two grids
  auto reference = deck_in("onegrid", DType::kF64);
  ASSERT_EQ(app::run_train(reference, world()), ExitCode::kDone);

  // The first five steps on rank 0 alone, the others on all ranks.
  auto deck = deck_in("twogrids", DType::kF64);
  deck.run.stop_after = 5;
  const auto group = comm::make_mpi_group(world(), "test");
  if (group->rank() == 0) {
    EXPECT_EQ(app::run_train(deck, comm::Communicator::self()), ExitCode::kStopped);
  }
  group->barrier();
  deck.run.stop_after = 0;
  deck.checkpoint.resume = "latest";
  ASSERT_EQ(app::run_train(deck, world()), ExitCode::kDone);

  const auto expected = losses_of(reference), got = losses_of(deck);
  ASSERT_EQ(got.size(), expected.size());
  for (const auto& [step, loss] : expected) {
    // fp64: the parity bound.
    EXPECT_NEAR(std::stod(got.at(step)), std::stod(loss), 1e-9 * std::stod(loss)) << step;
  }
}

}  // namespace
}  // namespace pg::testing

// Whole runs on a GPU, with files: stopped and resumed they print the same digits, and a checkpoint
// goes on wherever it is loaded, on the CPU or on another grid of GPUs.
//
// Built for the simulated GPU and for a real one.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "app/memory_plan.h"
#include "app/parallel_plan.h"
#include "app/train.h"
#include "app/trainer.h"
#include "comm/gpu.h"
#include "harness/tiny_run.h"
#include "io/checkpoint.h"
#include "io/run_folder.h"

namespace pg::testing {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kSteps = 4, kStop = 2;

comm::Communicator world() {
  return comm::Communicator::world();
}

app::Deck deck_in(const std::string& folder, DType precision, const std::string& device) {
  static const auto tokens =
      make_tokens(world(), "device_run" + std::to_string(world().size()), 1201, 61, 5);
  auto deck = gpt2_deck(tokens, precision);
  deck.run.device = device;
  deck.train.steps = kSteps;
  deck.schedule.warmup = 1;
  deck.run.output = no_folder(world(), "device_run", folder);
  return deck;
}

// The text of each step's loss.
std::vector<std::string> losses_of(const app::Deck& deck) {
  std::vector<std::string> losses;
  std::ifstream in(fs::path(deck.run.output) / "metrics.jsonl");
  for (std::string line; std::getline(in, line);) {
    if (!nlohmann::json::parse(line).contains("loss")) continue;
    const auto begin = line.find("\"loss\": ") + 8;
    losses.push_back(line.substr(begin, line.find(',', begin) - begin));
  }
  return losses;
}

void stop_at(app::Deck deck) {
  deck.run.stop_after = kStop;
  ASSERT_EQ(app::run_train(deck, world()), ExitCode::kStopped);
}

class DeviceRunIn : public ::testing::TestWithParam<DType> {};

TEST_P(DeviceRunIn, a_stopped_and_resumed_run_prints_the_same_digits) {
  const auto straight = deck_in("straight", GetParam(), "cuda");
  ASSERT_EQ(app::run_train(straight, world()), ExitCode::kDone);
  const auto expected = losses_of(straight);
  ASSERT_EQ(expected.size(), static_cast<std::size_t>(kSteps));

  auto deck = deck_in("stopped", GetParam(), "cuda");
  // One precision while training goes on, from page-locked memory.
  deck.checkpoint.async = GetParam() == DType::kBF16;
  if (deck.checkpoint.async) deck.checkpoint.every = kStop - 1;
  // As a run that is repeated: with the choices that the first one made.
  const auto choices = fs::path(straight.run.output) / "choices.json";
  const auto kept = io::RunFolder(straight.run.output).read_choices();
  ASSERT_EQ(kept.size(), static_cast<std::size_t>(world().size()));
  EXPECT_FALSE(kept[0].empty());
  const auto group = comm::make_mpi_group(world(), "copy");
  if (group->rank() == 0) {
    fs::create_directories(deck.run.output);
    fs::copy_file(choices, fs::path(deck.run.output) / "choices.json");
  }
  group->barrier();
  stop_at(deck);
  deck.checkpoint.resume = "latest";
  ASSERT_EQ(app::run_train(deck, world()), ExitCode::kDone);
  EXPECT_EQ(losses_of(deck), expected);
  EXPECT_EQ(io::RunFolder(deck.run.output).read_choices(), kept);
}

INSTANTIATE_TEST_SUITE_P(Precisions, DeviceRunIn, ::testing::Values(DType::kF32, DType::kBF16),
                         [](const auto& p) { return std::string(dtype_name(p.param)); });

// In fp64 both devices' sums agree to rounding (parity_test.cpp says how far).
TEST(DeviceRun, a_checkpoint_goes_on_where_it_is_loaded) {
  const auto straight = deck_in("on_the_cpu", DType::kF64, "cpu");
  ASSERT_EQ(app::run_train(straight, world()), ExitCode::kDone);
  const auto expected = losses_of(straight);
  for (const auto& [from, to] : {std::pair{"cuda", "cpu"}, std::pair{"cpu", "cuda"}}) {
    auto deck = deck_in(std::string("from_") + from, DType::kF64, from);
    stop_at(deck);
    deck.run.device = to;
    deck.checkpoint.resume = "latest";
    ASSERT_EQ(app::run_train(deck, world()), ExitCode::kDone);
    const auto losses = losses_of(deck);
    ASSERT_EQ(losses.size(), expected.size());
    for (std::size_t i = 0; i < losses.size(); ++i) {
      EXPECT_NEAR(std::stod(losses[i]) / std::stod(expected[i]), 1.0, 1e-9)
          << from << " to " << to << ", step " << i + 1;
    }
  }
}

// On a GPU the head's logits lie apart, and more of them at once: the plan is for where it
// computes.
TEST(DeviceRun, planned_activations_are_the_arena_s_high_water) {
  for (const auto type : {DType::kF64, DType::kF32, DType::kBF16}) {
    const auto deck = deck_in("memory", type, "cuda");
    comm::Gpu gpu(0);
    comm::ProcessGrid grid(world(), app::grid_of(deck, world().size()), &gpu);
    app::Trainer trainer(deck, grid);
    trainer.step();
    const auto plan = app::plan_memory(deck, grid.shape(), grid.coord());
    EXPECT_EQ(trainer.arena_high_water(), plan.activations) << dtype_name(type);
    auto elsewhere = deck;
    elsewhere.run.device = "cpu";
    EXPECT_NE(app::plan_memory(elsewhere, grid.shape(), grid.coord()).activations,
              plan.activations);
  }
}

}  // namespace
}  // namespace pg::testing

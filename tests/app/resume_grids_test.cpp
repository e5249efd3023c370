// The `train` command's own path from grid to grid: stops, exit codes, one metrics file over all of
// them, and what may not change on the way.
#include <gtest/gtest.h>

#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "app/train.h"
#include "io/checkpoint.h"
#include "tests/app/saved_run.h"

namespace pg::testing {
namespace {

namespace fs = std::filesystem;

constexpr auto kLlama = Style::kLlama, kGpt2 = Style::kGpt2;
constexpr std::int64_t kSteps = 9;

fs::path tokens() {
  static const auto path = make_tokens(comm::Communicator::world(), "resume_grids", 2401, 61, 3);
  return path;
}

// A deck of this grid in a folder of its own, which rank 0 empties when asked.
app::Deck deck_on(const MatrixCase& c, DType type, const std::string& folder, bool fresh) {
  auto deck = c.deck(tokens(), type);
  deck.train.steps = kSteps;
  deck.run.output = (scratch_folder("resume_grids") / folder).string();
  deck.checkpoint.resume = fresh ? "none" : "latest";
  wait_for_all();  // nobody looks at it any more
  if (fresh && root()) fs::remove_all(deck.run.output);
  wait_for_all();
  return deck;
}

// run_train on the first ranks: its exit code, also when it throws, the same on all.
ExitCode run(const app::Deck& deck, int ranks, std::string* message = nullptr) {
  std::int64_t code = 0;
  if (const auto part = first_ranks(ranks)) {
    try {
      code = static_cast<std::int64_t>(app::run_train(deck, part));
    } catch (const Error& error) {
      code = static_cast<std::int64_t>(error.code());
      if (message != nullptr) *message = error.what();
    }
  }
  const auto world = comm::make_mpi_group(comm::Communicator::world(), "run");
  return static_cast<ExitCode>(comm::all_reduce(*world, code, comm::ReduceOp::kMax));
}

nlohmann::json exit_record(const app::Deck& deck) {
  std::ifstream in(fs::path(deck.run.output) / "exit.json");
  return nlohmann::json::parse(in);
}

// Step to loss; one record a step.
std::map<std::int64_t, double> losses_of(const app::Deck& deck) {
  std::map<std::int64_t, double> losses;
  std::ifstream in(fs::path(deck.run.output) / "metrics.jsonl");
  for (std::string line; std::getline(in, line);) {
    const auto record = nlohmann::json::parse(line);
    if (!record.contains("loss")) continue;
    const auto step = record["step"].get<std::int64_t>();
    EXPECT_TRUE(losses.emplace(step, record["loss"].get<double>()).second)
        << "two records of step " << step;
  }
  return losses;
}

const MatrixCase kTensorPipeline =
    recomputed(sp(interleaved(on(kLlama, 1, 2, 2, 3))), model::Recompute::kFull);

TEST(ResumeGrids, a_run_moves_over_three_grids_as_one_run) {
  const auto reference = deck_on(on(kLlama, 1, 1, 1, 0), DType::kF64, "whole", true);
  ASSERT_EQ(run(reference, 1), ExitCode::kDone);

  struct Leg {
    MatrixCase on;
    std::int64_t stop_after;
  };
  app::Deck deck;
  for (const auto& leg : {Leg{on(kLlama, 3, 1, 1, 2), 2}, Leg{kTensorPipeline, 5},
                          Leg{on(kLlama, 1, 8, 1, 0), 6}, Leg{on(kLlama, 1, 1, 4, 0), 0}}) {
    deck = deck_on(leg.on, DType::kF64, "moved", leg.stop_after == 2);
    deck.run.stop_after = leg.stop_after;
    const auto expected = leg.stop_after == 0 ? ExitCode::kDone : ExitCode::kStopped;
    ASSERT_EQ(run(deck, leg.on.ranks()), expected) << leg.on.name();
    if (!root()) continue;
    EXPECT_EQ(exit_record(deck)["code"], static_cast<int>(expected));
    const auto last = leg.stop_after == 0 ? kSteps : leg.stop_after;
    EXPECT_EQ(losses_of(deck).size(), static_cast<std::size_t>(last)) << leg.on.name();
    EXPECT_EQ(io::list_checkpoints(fs::path(deck.run.output) / "checkpoints").front().step, last);
  }
  if (root()) {
    const auto expected = losses_of(reference), got = losses_of(deck);
    ASSERT_EQ(got.size(), expected.size());
    for (const auto& [step, loss] : expected) {
      EXPECT_NEAR(got.at(step), loss, 1e-9 * loss) << step;  // parity_test.cpp
    }
  }
  // Finished is finished on any grid.
  deck = deck_on(kTensorPipeline, DType::kF64, "moved", false);
  EXPECT_EQ(run(deck, kTensorPipeline.ranks()), ExitCode::kDone);
  if (root()) {
    EXPECT_EQ(losses_of(deck).size(), static_cast<std::size_t>(kSteps));
  }
}

TEST(ResumeGrids, grid_schedule_and_recomputation_may_change_but_not_the_model) {
  auto deck = deck_on(on(kGpt2, 2, 1, 2, 1), DType::kF32, "refused", true);
  deck.run.stop_after = 1;
  ASSERT_EQ(run(deck, 4), ExitCode::kStopped);

  const auto to = recomputed(interleaved(on(kGpt2, 1, 3, 2, 3)), model::Recompute::kSelective, 2);
  const auto refused = [&](const std::string& key, const std::function<void(app::Deck&)>& change) {
    auto other = deck_on(to, DType::kF32, "refused", false);
    change(other);
    std::string message;
    const auto code = run(other, to.ranks(), &message);
    if (!root()) return;
    EXPECT_EQ(code, ExitCode::kCheckpoint) << key;
    EXPECT_NE(message.find(key + ": "), std::string::npos) << key << "\n" << message;
    EXPECT_EQ(exit_record(other)["code"], 4) << key;
  };
  refused("model.norm_eps", [](auto& d) { d.model.norm_eps *= 2; });
  refused("model.window", [](auto& d) { d.model.window = 4; });
  refused("model.tie_embeddings", [](auto& d) { d.model.tie_embeddings = false; });
  refused("run.seed", [](auto& d) { ++d.run.seed; });
  refused("train.seq", [](auto& d) { d.train.seq = 6; });
  refused("model.dropout", [](auto& d) { d.model.dropout = 0.0; });
  refused("run.precision", [](auto& d) { d.run.precision = DType::kF64; });

  // The grid may change, precision with the same exact weights too, and what an override names.
  auto other = deck_on(to, DType::kBF16, "refused", false);
  other.run.stop_after = 2;
  other.train.micro_batch = 2;
  other.model.dropout = 0.0;
  other.checkpoint.overrides = {"model.dropout"};
  EXPECT_EQ(run(other, to.ranks()), ExitCode::kStopped);
}

}  // namespace
}  // namespace pg::testing

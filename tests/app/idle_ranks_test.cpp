// Fewer nodes than before: the largest grid that fits trains, with the same digits as on a world of
// just those ranks, the others sleep and end as it ends. Three ranks, two of them in use.
#include <gtest/gtest.h>

#include <chrono>
#include <ctime>
#include <fstream>
#include <thread>

#include "app/check.h"
#include "app/ranks_in_use.h"
#include "app/train_on_ranks.h"
#include "harness/tiny_run.h"
#include "tests/app/decks.h"

namespace pg::testing {
namespace {

namespace fs = std::filesystem;

comm::Communicator world() {
  return comm::Communicator::world();
}

app::Deck deck_in(const std::string& folder) {
  static const auto tokens = make_tokens(world(), "idle", 1201, 61, 5);
  auto deck = llama_deck(tokens, DType::kF32);
  deck.train.steps = 4;
  deck.schedule.warmup = 1;
  deck.train.global_batch = 8;  // 3 ranks do not divide it
  deck.run.output = no_folder(world(), "idle", folder);
  return deck;
}

std::string losses_of(const app::Deck& deck) {
  std::ifstream in(fs::path(deck.run.output) / "metrics.jsonl");
  std::string losses;
  for (std::string line; std::getline(in, line);) {
    const auto begin = line.find("\"loss\": ");
    if (begin == line.npos) continue;  // the record of a save
    losses += line.substr(begin, line.find(',', begin) - begin) + "\n";
  }
  return losses;
}

// On ranks 0 and 1 alone.
void train_on_two(const app::Deck& deck) {
  const auto part = world().split(world().rank() < 2 ? 0 : -1, world().rank());
  if (part) {
    EXPECT_EQ(app::run_train(deck, part), ExitCode::kDone);
  }
  comm::make_mpi_group(world(), "two")->barrier();
}

void expect_the_same_run_with_an_idle_rank(const std::string& name, std::int64_t tp) {
  auto reference = deck_in(name + "_reference");
  reference.grid.tp = tp;
  train_on_two(reference);

  auto deck = deck_in(name);
  deck.grid.tp = tp;
  deck.checkpoint.resume = "auto";
  ASSERT_EQ(app::ranks_in_use(deck, 3), 2);
  deck.run.stop_after = 2;
  EXPECT_EQ(app::train_on_ranks(deck, world(), {}), ExitCode::kStopped);
  deck.run.stop_after = 0;
  EXPECT_EQ(app::train_on_ranks(deck, world(), {}), ExitCode::kDone);
  EXPECT_EQ(losses_of(deck), losses_of(reference));
  EXPECT_NE(losses_of(deck), "");
}

TEST(IdleRanks, a_rank_too_many_for_tp_2_changes_no_digit) {
  expect_the_same_run_with_an_idle_rank("tp", 2);
}

TEST(IdleRanks, a_rank_that_the_batch_has_no_place_for_changes_no_digit) {
  expect_the_same_run_with_an_idle_rank("dp", 1);
}

TEST(IdleRanks, they_end_with_the_code_of_a_failure) {
  auto deck = deck_in("failure");
  deck.checkpoint.resume = "auto";
  deck.data.train = "nowhere.h5";
  if (world().rank() == 2) {
    EXPECT_EQ(app::train_on_ranks(deck, world(), {}), ExitCode::kData);
    return;
  }
  try {
    app::train_on_ranks(deck, world(), {});
    ADD_FAILURE() << "trained on nothing";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kData) << error.what();
    EXPECT_EQ(error.ranks(), 3);  // all leave with it: nobody aborts the job
  }
}

TEST(IdleRanks, sleep_takes_no_processor_time) {
  if (world().rank() == 0) std::this_thread::sleep_for(std::chrono::seconds(1));
  const auto begin = std::clock();
  world().barrier_asleep(std::chrono::milliseconds(20));
  const double busy = static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
  EXPECT_LT(busy, 0.3);  // a barrier that spins: the second that rank 0 is late
}

// 4 heads, 2 layers, batches of 4 micro-batches of 2.
TEST(IdleRanks, the_largest_legal_dp_is_taken) {
  const auto in_use = [](const std::vector<std::string>& overrides, int ranks) {
    auto all = overrides;
    all.push_back("checkpoint.resume=latest");
    const auto deck = app::parse_deck(app::kLeastDeck, "d.toml", all, app::Purpose::kTrain, ranks);
    const auto used = app::ranks_in_use(deck, ranks);
    EXPECT_EQ(app::grid_of(deck, used).world(), used);
    const auto idle = "# idle    " + std::to_string(ranks - used) + " of";
    EXPECT_EQ(app::check_report(deck, ranks).find(idle) != std::string::npos, used < ranks);
    return used;
  };
  EXPECT_EQ(in_use({}, 4), 4);
  EXPECT_EQ(in_use({}, 3), 2);
  EXPECT_EQ(in_use({}, 1000), 4);
  EXPECT_EQ(in_use({"grid.tp=2"}, 7), 4);
  EXPECT_EQ(in_use({"grid.tp=2"}, 8), 8);
  EXPECT_EQ(in_use({"grid.tp=4", "grid.pp=2"}, 9), 8);
  EXPECT_EQ(in_use({"grid.ep=2", "moe.experts=4"}, 7), 4);
  EXPECT_EQ(in_use({"grid.cp=2", "grid.tp=2"}, 15), 8);
  // Interleaved: micro-batches of a rank are a multiple of the stages.
  EXPECT_EQ(
      in_use({"grid.pp=2", "pipeline.chunks=2", "pipeline.schedule=interleaved", "model.layers=4"},
             9),
      4);
}

TEST(IdleRanks, what_no_dp_fits_is_refused_with_the_sizes) {
  const auto refused = [](std::vector<std::string> overrides, int ranks) {
    overrides.push_back("checkpoint.resume=auto");
    return app::refusal_of(overrides, ranks);
  };
  EXPECT_NE(refused({"grid.tp=4"}, 3).find("grid.tp: "), std::string::npos);
  EXPECT_NE(refused({"grid.tp=4"}, 3).find("does not fit 3 ranks"), std::string::npos);
  EXPECT_NE(refused({"grid.ep=8", "moe.experts=8"}, 9)
                .find("8 is not a multiple of "
                      "dp*ep*micro_batch = 1*8*2 = 16"),
            std::string::npos)
      << refused({"grid.ep=8", "moe.experts=8"}, 9);
  // A grid.dp that is given is meant; a fresh run is a mistake, not a loss of nodes.
  EXPECT_NE(refused({"grid.dp=3"}, 4).find("grid.dp"), std::string::npos);
  EXPECT_NE(app::refusal_of({}, 3).find("dp*ep*micro_batch = 3*1*2"), std::string::npos);
  EXPECT_NE(app::refusal_of({"grid.tp=2"}, 3).find("does not fit 3 ranks"), std::string::npos);
}

}  // namespace
}  // namespace pg::testing

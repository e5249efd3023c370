// Training with saves beside it: the same digits and the same bytes as with blocking ones, what is
// kept, what metrics.jsonl says, and the exit of a run whose save fails.
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>

#include "app/hint_checks.h"
#include "app/memory_plan.h"
#include "app/parallel_plan.h"
#include "app/train.h"
#include "harness/tiny_run.h"
#include "io/checkpoint.h"

namespace pg::testing {
namespace {

namespace fs = std::filesystem;

comm::Communicator world() {
  return comm::Communicator::world();
}

class AsyncSave : public ::testing::Test {
 protected:
  app::Deck deck_in(const std::string& folder, bool async) {
    static const auto tokens =
        make_tokens(world(), "async" + std::to_string(world().size()), 2401, 61, 5);
    auto deck = llama_deck(tokens, DType::kF64);
    deck.train.steps = 11;
    deck.checkpoint.every = 2;
    deck.checkpoint.async = async;
    deck.grid.zero = 1;
    deck.run.output = no_folder(world(), "async_save", folder);
    return deck;
  }
  static fs::path checkpoints(const app::Deck& deck) {
    return fs::path(deck.run.output) / "checkpoints";
  }
  static std::string bytes_of(const fs::path& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  static std::vector<nlohmann::json> records(const app::Deck& deck, const char* key) {
    std::vector<nlohmann::json> all;
    std::ifstream in(fs::path(deck.run.output) / "metrics.jsonl");
    for (std::string line; std::getline(in, line);) {
      const auto record = nlohmann::json::parse(line);
      if (record.contains(key)) all.push_back(record);
    }
    return all;
  }
  static std::vector<std::string> names(const app::Deck& deck) {
    std::vector<std::string> all;
    for (const auto& item : fs::directory_iterator(checkpoints(deck))) {
      all.push_back(item.path().filename().string());
    }
    std::sort(all.begin(), all.end());
    return all;
  }
  const std::unique_ptr<comm::Group> group_ = comm::make_mpi_group(world(), "test");
};

TEST_F(AsyncSave, losses_and_file_bytes_are_those_of_blocking_saves) {
  std::map<std::string, std::string> states;
  std::vector<nlohmann::json> losses;
  for (const bool async : {false, true}) {
    const auto deck = deck_in(async ? "async" : "blocking", async);
    ASSERT_EQ(app::run_train(deck, world()), ExitCode::kDone);
    group_->barrier();
    std::map<std::string, std::string> found;
    for (const auto& name : names(deck)) {
      EXPECT_TRUE(io::verify_checkpoint(checkpoints(deck) / name).empty());
      found[name] = bytes_of(checkpoints(deck) / name / "state.h5");
    }
    EXPECT_EQ(found.size(), 6U);  // 2, 4, ... 10 and the last, 11
    std::vector<nlohmann::json> seen;
    for (const auto& record : records(deck, "loss")) seen.push_back(record["loss"]);
    if (!async) {
      states = found;
      losses = seen;
    }
    EXPECT_EQ(seen, losses);
    EXPECT_TRUE(found == states);

    const auto saves = records(deck, "save_s");
    ASSERT_EQ(saves.size(), 6U);
    for (const auto& save : saves) {
      EXPECT_FALSE(save.contains("loss"));
      EXPECT_EQ(save["save_bytes"], states.begin()->second.size());
      EXPECT_GT(save["save_s"], 0.0);
      EXPECT_GT(save["save_work_s"], 0.0);
      EXPECT_GT(save["save_stall_s"], 0.0);
      EXPECT_LE(save["save_stall_s"].get<double>(), save["save_s"].get<double>() + 0.5);
    }
    EXPECT_EQ(saves[0]["step"], 2);
    EXPECT_EQ(saves[5]["step"], 11);
  }
}

TEST_F(AsyncSave, the_deck_says_which_ones_stay) {
  auto deck = deck_in("kept", true);
  deck.checkpoint.every = 1;
  deck.checkpoint.keep = 2;
  deck.checkpoint.keep_every = 4;
  deck.checkpoint.verify = true;
  deck.checkpoint.hints = {"striping_factor=2"};
  deck.checkpoint.alignment = 65536;
  ASSERT_EQ(app::run_train(deck, world()), ExitCode::kDone);
  group_->barrier();
  EXPECT_EQ(names(deck), (std::vector<std::string>{"step-000000004", "step-000000008",
                                                   "step-000000010", "step-000000011"}));
}

TEST_F(AsyncSave, a_save_that_fails_in_the_background_ends_the_run_with_5_on_all_ranks) {
  for (const bool async : {false, true}) {
    const auto deck = deck_in(async ? "failing_async" : "failing", async);
    // The directory of checkpoints goes away once step 2 is saved, and a file takes its name.
    app::TrainControls controls;
    controls.before_step = [&](app::Trainer& trainer) {
      if (trainer.completed() != 3 || group_->rank() != 0) return;
      fs::rename(checkpoints(deck), fs::path(deck.run.output) / "moved");
      std::ofstream(checkpoints(deck)) << "in the way";
    };
    int code = 0;
    try {
      app::run_train(deck, world(), {}, controls);
    } catch (const Error& error) {
      code = static_cast<int>(error.code());
      EXPECT_EQ(error.ranks(), world().size());
    }
    EXPECT_EQ(code, 5);
    group_->barrier();
    std::ifstream in(fs::path(deck.run.output) / "exit.json");
    EXPECT_EQ(nlohmann::json::parse(in)["code"], 5);
  }
}

TEST_F(AsyncSave, what_was_copied_is_finished_when_training_fails) {
  auto deck = deck_in("diverging", true);
  deck.train.max_skips = 1;
  app::TrainControls controls;
  controls.before_step = [&](app::Trainer& trainer) {
    if (trainer.completed() != 2) return;
    for (auto& record : trainer.records()) {  // right after the save of step 2 began
      for (auto& slab : record.slabs) static_cast<double*>(slab.data)[0] = NAN;
    }
  };
  int code = 0;
  try {
    app::run_train(deck, world(), {}, controls);
  } catch (const Error& error) {
    code = static_cast<int>(error.code());
  }
  EXPECT_EQ(code, 7);
  group_->barrier();
  EXPECT_EQ(names(deck), std::vector<std::string>{"step-000000002"});
  EXPECT_TRUE(io::verify_checkpoint(checkpoints(deck) / "step-000000002").empty());
}

TEST_F(AsyncSave, the_copy_is_counted_in_the_memory_plan) {
  auto deck = deck_in("planned", false);
  const auto shape = app::grid_of(deck, world().size());
  std::int64_t all = 0;
  for (int rank = 0; rank < world().size(); ++rank) {
    const auto coord = shape.coord(comm::WorldRank{rank});
    deck.checkpoint.async = false;
    const auto without = app::plan_memory(deck, shape, coord);
    EXPECT_EQ(without.saving, 0);
    deck.checkpoint.async = true;
    const auto with = app::plan_memory(deck, shape, coord);
    EXPECT_EQ(with.total - without.total, with.saving);
    all += with.saving;
  }
  // Weights and two moments in fp64, each written by one rank.
  EXPECT_EQ(all, 3 * 8 * app::plan_memory(deck, shape, shape.coord(comm::WorldRank{0})).parameters);
}

TEST(Hints, what_has_no_effect_or_no_form_is_refused_by_name) {
  EXPECT_EQ(app::hints_problem({}), "");
  EXPECT_EQ(app::hints_problem({"striping_factor=16", "striping_unit=16777216"}), "");
  const auto refused = [](const std::vector<std::string>& hints, const std::string& part) {
    EXPECT_NE(app::hints_problem(hints).find(part), std::string::npos)
        << part << " is not in: " << app::hints_problem(hints);
  };
  for (const char* name :
       {"cb_nodes", "cb_buffer_size", "romio_cb_write", "romio_ds_write", "collective_buffering"}) {
    refused({std::string(name) + "=4"}, std::string("\"") + name + "\" would have no effect");
  }
  for (const char* bad : {"", "striping_factor", "=4", "striping_factor=", "striping factor=4"}) {
    refused({bad}, "is not NAME=VALUE");
  }
  refused({"striping_unit=1", "striping_unit=1"}, "\"striping_unit\" is given twice");
  refused({std::string(32, 'n') + "=1"}, "at most 31");
}

}  // namespace
}  // namespace pg::testing

// FAULTS.md case 4: data that fails under one rank, while it is opened, read or evaluated, ends all
// ranks with the same error. Each rank has token files of its own; those of the last one break.
#include <gtest/gtest.h>

#include "app/train.h"
#include "app/trainer.h"
#include "harness/tiny_run.h"

namespace pg::testing {
namespace {

namespace fs = std::filesystem;

class DataOnOneRank : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto train = make_tokens(world_, "one_rank" + ranks(), 1201, 61, 5);
    const auto valid = make_tokens(world_, "one_rank_valid" + ranks(), 601, 61, 6);
    folder_ = scratch_folder("one_rank") / (ranks() + "_" + std::to_string(world_.rank()));
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    fs::copy_file(train, folder_ / "train.h5");
    fs::copy_file(valid, folder_ / "valid.h5");
    deck_ = llama_deck(folder_ / "train.h5", DType::kF32);
    deck_.data.valid = (folder_ / "valid.h5").string();
    deck_.run.output = no_folder(world_, "one_rank", "run");
  }
  std::string ranks() const { return std::to_string(world_.size()); }
  bool breaks() const { return world_.rank() == world_.size() - 1; }

  template <class Work>
  void expect_everyones(const std::string& what, Work&& work) {
    try {
      work();
      ADD_FAILURE() << "went on";
    } catch (const Error& error) {
      const std::string text = error.what();
      EXPECT_EQ(error.code(), ExitCode::kData) << text;
      EXPECT_EQ(error.ranks(), world_.size()) << text;
      EXPECT_TRUE(text.starts_with("rank " + std::to_string(world_.size() - 1) + " (")) << text;
      EXPECT_NE(text.find(what), std::string::npos) << text;
    }
  }

  comm::Communicator world_ = comm::Communicator::world();
  fs::path folder_;
  app::Deck deck_;
};

TEST_F(DataOnOneRank, is_missing) {
  if (breaks()) fs::remove(folder_ / "train.h5");
  expect_everyones("train.h5", [&] { app::run_train(deck_, world_); });
}

TEST_F(DataOnOneRank, is_cut_short) {
  if (breaks()) fs::resize_file(folder_ / "valid.h5", 1500);
  expect_everyones("valid.h5", [&] { app::run_train(deck_, world_); });
}

TEST_F(DataOnOneRank, shrinks_between_steps) {
  comm::ProcessGrid grid(world_, app::grid_of(deck_, world_.size()));
  app::Trainer trainer(deck_, grid);
  trainer.step();
  if (breaks()) fs::resize_file(folder_ / "train.h5", 1500);
  expect_everyones("train.h5: /tokens: nothing is at byte", [&] {
    for (int i = 0; i < 10; ++i) trainer.step();
  });
}

TEST_F(DataOnOneRank, shrinks_before_an_evaluation) {
  comm::ProcessGrid grid(world_, app::grid_of(deck_, world_.size()));
  app::Trainer trainer(deck_, grid);
  trainer.step();
  trainer.evaluate();
  if (breaks()) fs::resize_file(folder_ / "valid.h5", 1500);
  expect_everyones("valid.h5: /tokens: nothing is at byte", [&] { trainer.evaluate(); });
}

}  // namespace
}  // namespace pg::testing

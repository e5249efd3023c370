// One deck for all ranks: what rank 0 read, whatever the others see.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "comm/mpi_session.h"
#include "tests/app/decks.h"

namespace pg::app {
namespace {

class ReadDeck : public testing::Test {
 protected:
  void SetUp() override {
    world_ = comm::make_mpi_group(comm::Communicator::world(), "deck test");
    // A file of each rank's own: only rank 0's may matter.
    path_ = std::filesystem::temp_directory_path() /
            ("pg_read_deck_" + std::to_string(::getpid()) + ".toml");
  }
  void TearDown() override { std::filesystem::remove(path_); }

  void write(const std::string& text) const { std::ofstream(path_) << text; }
  bool root() const { return world_->rank() == 0; }

  void expect_same_on_all(const std::string& mine) const {
    for (const auto& other : comm::all_gather(*world_, mine)) EXPECT_EQ(other, mine);
  }

  // The message that read_deck throws here; empty when it does not.
  std::string message(const std::vector<std::string>& overrides = {}) const {
    try {
      read_deck(world_.get(), path_, overrides, Purpose::kTrain, world_->size());
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kDeck);
      return error.what();
    }
    return "";
  }

  std::unique_ptr<comm::Group> world_;
  std::filesystem::path path_;
};

// A batch that every rank count of these tests divides.
const std::vector<std::string> kFits = {"train.global_batch=12", "optimizer.lr=1.1e-3"};

TEST_F(ReadDeck, only_rank_0_needs_to_see_the_file) {
  if (root()) write(kLeastDeck);
  const auto deck = read_deck(world_.get(), path_, kFits, Purpose::kTrain, world_->size());
  expect_same_on_all(deck.resolved);
  EXPECT_EQ(deck.optimizer.lr, 1.1e-3);
  // Equal as values too, not only as text.
  EXPECT_TRUE(parse_deck(deck.resolved, "d.toml", {}, Purpose::kTrain, world_->size()) == deck);
}

TEST_F(ReadDeck, a_deck_that_only_rank_0_cannot_read_fails_on_all) {
  if (!root()) write(kLeastDeck);
  const auto text = message(kFits);
  EXPECT_NE(text.find("cannot read the deck: No such file"), std::string::npos) << text;
  expect_same_on_all(text);
}

TEST_F(ReadDeck, other_text_or_overrides_on_other_ranks_do_not_matter) {
  write(root() ? std::string(kLeastDeck) : std::string("[model]\nlayers = nonsense\n"));
  const auto deck =
      read_deck(world_.get(), path_, root() ? kFits : std::vector<std::string>{"model.layers=77"},
                Purpose::kTrain, world_->size());
  expect_same_on_all(deck.resolved);
  EXPECT_EQ(deck.model.layers, 2);
}

TEST_F(ReadDeck, all_ranks_throw_the_same_problems) {
  if (root()) write(std::string(kLeastDeck) + "[grid]\ndp = 5\nfoo = 1\n");
  const auto text = message();
  EXPECT_NE(text.find(":14:6: grid.dp: dp 5"), std::string::npos) << text;
  EXPECT_NE(text.find(":15:1: grid.foo: unknown key"), std::string::npos) << text;
  expect_same_on_all(text);
}

}  // namespace
}  // namespace pg::app

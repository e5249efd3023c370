// How ranks agree that a run stops, and when its wall limit does.
#include "app/stop.h"

#include <gtest/gtest.h>

#include <csignal>
#include <fstream>

#include "app/stop_signals.h"
#include "harness/tiny_run.h"

namespace pg::app {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

class StopTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::scratch_folder("stop" + std::to_string(world_->size()));
    if (root()) fs::remove(folder_ / "stop");
    world_->barrier();
    clear_stop_signal();
    catch_stop_signals();
  }
  void TearDown() override { clear_stop_signal(); }
  bool root() const { return world_->rank() == 0; }
  int last() const { return world_->size() - 1; }

  Stop stop(std::int64_t seconds_ago = 0) {
    return {deck_, *world_, folder_, Clock::now() - std::chrono::seconds(seconds_ago),
            [this](const std::string& text) { said_ += text; }};
  }

  std::unique_ptr<comm::Group> world_ =
      comm::make_mpi_group(comm::Communicator::world(), "stop test");
  Deck deck_;
  fs::path folder_;
  std::string said_;
};

TEST_F(StopTest, goes_on_while_nobody_says_otherwise) {
  auto s = stop();
  EXPECT_EQ(s.agreed(0, {}), "");
  EXPECT_EQ(s.agreed(1, {.save = 1e6, .save_due = true, .step = 1e6, .evaluation = 1e6}), "");
}

TEST_F(StopTest, a_signal_on_one_rank_is_everyones_and_named) {
  for (const int signal : {SIGUSR1, SIGTERM}) {
    for (int rank = 0; rank < world_->size(); ++rank) {
      auto s = stop();
      EXPECT_EQ(s.agreed(0, {}), "");
      if (world_->rank() == rank) {
        std::raise(signal);
        std::raise(signal);  // a second one does no harm
      }
      EXPECT_EQ(s.agreed(1, {.step = 1}), std::string(signal == SIGTERM ? "SIGTERM" : "SIGUSR1") +
                                              " on rank " + std::to_string(rank) + " (" +
                                              comm::host_name() + ")");
      clear_stop_signal();
      EXPECT_EQ(s.agreed(2, {.step = 1}), "");
    }
  }
}

TEST_F(StopTest, a_signal_everywhere_is_named_once_for_the_lowest_rank) {
  auto s = stop();
  std::raise(SIGUSR1);
  EXPECT_EQ(s.agreed(1, {.step = 1}), "SIGUSR1 on rank 0 (" + comm::host_name() + ")");
}

TEST_F(StopTest, the_stop_file_is_obeyed_once) {
  const auto file = folder_ / "stop";
  auto s = stop();
  if (root()) std::ofstream(file) << "";
  EXPECT_EQ(s.agreed(1, {.step = 1}), "file " + file.string());
  EXPECT_FALSE(root() && fs::exists(file));
  EXPECT_EQ(s.agreed(2, {.step = 1}), "");
}

TEST_F(StopTest, a_stop_file_from_before_the_start_is_removed_and_told) {
  const auto file = folder_ / "stop";
  if (root()) std::ofstream(file) << "";
  world_->barrier();
  auto s = stop();
  EXPECT_EQ(s.agreed(0, {}), "");
  EXPECT_FALSE(root() && fs::exists(file));
  EXPECT_EQ(said_.find("removed, not obeyed") != said_.npos, root()) << said_;
}

TEST_F(StopTest, a_stop_file_that_a_requeued_job_finds_is_obeyed) {
  if (root()) std::ofstream(folder_ / "stop");
  setenv("SLURM_RESTART_COUNT", "2", 1);
  auto s = stop();
  unsetenv("SLURM_RESTART_COUNT");
  EXPECT_EQ(said_, "");
  EXPECT_EQ(s.agreed(0, {}), "file " + (folder_ / "stop").string());
  EXPECT_EQ(s.agreed(1, {.step = 1}), "");
}

TEST_F(StopTest, stop_after_counts_steps) {
  deck_.run.stop_after = 3;
  auto s = stop();
  EXPECT_EQ(s.agreed(2, {.step = 1}), "");
  EXPECT_EQ(s.agreed(3, {.step = 1}), "run.stop_after = 3");
}

// 1,000 s at all, 500 of them left.
TEST_F(StopTest, the_wall_limit_leaves_room_for_a_step_and_the_saves) {
  deck_.run.wall_limit = 1000;
  const auto stops = [&](const Ahead& ahead) {
    auto s = stop(500);
    return s.agreed(1, ahead).find("run.wall_limit = 1000: ") == 0;
  };
  // 1.25 * what is ahead + 1 s.
  EXPECT_FALSE(stops({.save = 300, .step = 90}));
  EXPECT_TRUE(stops({.save = 300, .step = 110}));
  EXPECT_TRUE(stops({.save = 300, .save_due = true, .step = 1}));
  EXPECT_FALSE(stops({.save = 190, .save_due = true, .step = 1}));
  EXPECT_FALSE(stops({.save = 1, .step = 390}));
  EXPECT_TRUE(stops({.save = 1, .step = 390, .evaluation = 20}));
}

TEST_F(StopTest, the_longest_recent_step_counts_until_it_is_long_ago) {
  deck_.run.wall_limit = 1000;
  auto s = stop(500);
  EXPECT_EQ(s.agreed(1, {.step = 300}), "");
  EXPECT_NE(s.agreed(2, {.save = 150, .step = 1}), "");
  for (int step = 3; step < 40; ++step) EXPECT_EQ(s.agreed(step, {.step = 1}), "");
  EXPECT_EQ(s.agreed(40, {.save = 150, .step = 1}), "");
}

TEST_F(StopTest, only_what_cannot_wait_cuts_an_evaluation_short) {
  deck_.run.stop_after = 3;
  auto s = stop();
  EXPECT_EQ(s.agreed_in_evaluation(1e6, 1e6), "");
  if (world_->rank() == last()) std::raise(SIGTERM);
  EXPECT_EQ(s.agreed_in_evaluation(0, 0),
            "SIGTERM on rank " + std::to_string(last()) + " (" + comm::host_name() + ")");
  clear_stop_signal();
  if (root()) std::ofstream(folder_ / "stop") << "";
  EXPECT_EQ(s.agreed_in_evaluation(0, 0), "file " + (folder_ / "stop").string());

  // 1,000 s at all, 500 of them left, for 1.25 * (save + batch) + 1 s.
  deck_.run.wall_limit = 1000;
  auto limited = stop(500);
  EXPECT_EQ(limited.agreed_in_evaluation(300, 90), "");
  EXPECT_EQ(limited.agreed_in_evaluation(300, 110).find("run.wall_limit = 1000: "), 0U);
}

TEST_F(StopTest, the_wall_limit_lets_each_slice_make_a_step) {
  deck_.run.wall_limit = 10;
  auto s = stop(500);  // long past
  EXPECT_EQ(s.agreed(7, {}), "");
  EXPECT_NE(s.agreed(8, {.step = 1e-3}), "");
}

}  // namespace
}  // namespace pg::app

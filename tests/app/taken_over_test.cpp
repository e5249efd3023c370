// What a run still writes into a folder that another job took over, and what a lost machine leaves:
// the test stands in for the C library where files are synced.
#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <fstream>
#include <functional>
#include <iterator>
#include <string_view>

#include "app/train.h"
#include "harness/tiny_run.h"
#include "io/checkpoint.h"

namespace {

std::atomic<bool> armed{false};
std::function<void()> at_sync;       // once, while armed
std::atomic<int> synced_records{0};  // how often metrics.jsonl was
std::atomic<int> synced_decks{0};

void note_sync(int fd) {
  std::array<char, 4096> path{};
  const auto link = "/proc/self/fd/" + std::to_string(fd);
  const auto n = ::readlink(link.c_str(), path.data(), path.size());
  const std::string_view name(path.data(), n < 0 ? 0 : static_cast<std::size_t>(n));
  if (name.ends_with("/metrics.jsonl")) ++synced_records;
  if (name.ends_with("/deck.toml.tmp")) ++synced_decks;
}

}  // namespace

extern "C" int fsync(int fd) {
  note_sync(fd);
  if (armed.exchange(false)) at_sync();
  return static_cast<int>(::syscall(SYS_fsync, fd));
}
extern "C" int fdatasync(int fd) {
  note_sync(fd);
  return static_cast<int>(::syscall(SYS_fdatasync, fd));
}

namespace pg::testing {
namespace {

namespace fs = std::filesystem;

comm::Communicator world() {
  return comm::Communicator::world();
}

class TakenOver : public ::testing::Test {
 protected:
  app::Deck deck_in(const std::string& folder) {
    static const auto tokens =
        make_tokens(world(), "taken" + std::to_string(world().size()), 2401, 61, 5);
    auto deck = llama_deck(tokens, DType::kF64);
    deck.train.steps = 6;
    deck.checkpoint.every = 2;
    deck.checkpoint.keep = 1;
    deck.run.output = no_folder(world(), "taken_over", folder);
    output_ = deck.run.output;
    return deck;
  }
  void another_job_comes() const {
    std::ofstream(output_ / "theirs") << "the lock of another job\n";
    fs::rename(output_ / "theirs", output_ / ".lock");
    std::ofstream(output_ / "exit.json") << "theirs";
  }
  std::string contents(const char* name) const {
    std::ifstream in(output_ / name, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  std::vector<std::int64_t> saved() const {
    std::vector<std::int64_t> steps;
    for (const auto& entry : io::list_checkpoints(output_ / "checkpoints")) {
      steps.push_back(entry.step);
    }
    return steps;
  }
  // The run ends with 5 on all ranks, and leaves what the other job has.
  void expect_to_end(const app::Deck& deck, const app::TrainControls& controls) const {
    try {
      app::run_train(deck, world(), {}, controls);
      ADD_FAILURE() << "goes on";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kSave);
      EXPECT_EQ(error.ranks(), world().size());
      EXPECT_NE(std::string_view(error.what()).find("another job took "), std::string_view::npos)
          << error.what();
    }
    group_->barrier();
    EXPECT_EQ(contents("exit.json"), "theirs");
    EXPECT_EQ(contents(".lock"), "the lock of another job\n");
  }

  fs::path output_;
  const std::unique_ptr<comm::Group> group_ = comm::make_mpi_group(world(), "test");
};

// The save of step 2 is on its way when the folder is lost: it is abandoned.
TEST_F(TakenOver, nothing_is_written_beside_another_job) {
  auto deck = deck_in("between_steps");
  deck.checkpoint.async = true;
  app::TrainControls controls;
  controls.before_step = [&](app::Trainer& trainer) {
    if (trainer.completed() == 2 && group_->rank() == 0) another_job_comes();
    group_->barrier();
  };
  expect_to_end(deck, controls);
  EXPECT_TRUE(saved().empty());
  const auto lines = contents("metrics.jsonl");
  EXPECT_EQ(std::count(lines.begin(), lines.end(), '\n'), 2);
}

// While the data of step 4 are synced.
TEST_F(TakenOver, a_save_is_not_published_and_nothing_is_pruned) {
  auto deck = deck_in("within_a_save");
  deck.checkpoint.async = false;
  app::TrainControls controls;
  controls.before_step = [&](app::Trainer& trainer) {
    if (trainer.completed() == 3 && group_->rank() == 0) {
      at_sync = [&] { another_job_comes(); };
      armed = true;
    }
  };
  expect_to_end(deck, controls);
  EXPECT_FALSE(armed);
  EXPECT_EQ(saved(), std::vector<std::int64_t>{2});
}

TEST_F(TakenOver, records_are_on_disk_before_the_checkpoint_is) {
  auto deck = deck_in("synced");
  synced_records = synced_decks = 0;
  ASSERT_EQ(app::run_train(deck, world()), ExitCode::kDone);
  if (group_->rank() == 0) {
    EXPECT_GE(synced_records, 3);  // steps 2, 4 and 6
    EXPECT_EQ(synced_decks, 1);
  } else {
    EXPECT_EQ(synced_records, 0);
  }
}

}  // namespace
}  // namespace pg::testing

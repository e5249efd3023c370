// Pruning that is killed, and keep = 1 beside saves in the background: at every moment there is an
// entry that verifies, no older than the newest that was ever complete.
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <thread>

#include "../io/checkpoint_state.h"
#include "io/checkpoint_saver.h"

// Storage that removes nothing from a folder of this name, as one does that fell read-only. (What
// std::filesystem::remove_all calls.)
static std::string stuck;
extern "C" int unlinkat(int folder, const char* name, int flags) {
  const auto path = std::filesystem::read_symlink("/proc/self/fd/" + std::to_string(folder));
  if (!stuck.empty() && path.string().find(stuck) != std::string::npos) {
    errno = EIO;
    return -1;
  }
  return static_cast<int>(::syscall(SYS_unlinkat, folder, name, flags));
}

namespace pg::io {
namespace {

namespace fs = std::filesystem;

class CheckpointPrune : public testing::Test {
 protected:
  const std::unique_ptr<comm::Group> group_ = comm::make_self_group("test");
  const TestDirectory directory_{*group_};
  TestState state_{tiny_plans(), 0, 1};

  fs::path save(std::int64_t step) {
    return save_checkpoint(comm::Communicator::world(), directory_, test_info(step),
                           state_.tensors());
  }
  std::vector<std::int64_t> steps() const {
    std::vector<std::int64_t> all;
    for (const auto& found : list_checkpoints(directory_)) all.push_back(found.step);
    return all;
  }
  std::int64_t newest() const {
    std::vector<std::string> notes;
    const auto found = find_checkpoint(*group_, directory_, "latest", notes);
    return *checkpoint_step(found->path.filename().string());
  }
  void damage(std::int64_t step, const char* file) {
    const auto path = directory_.path() / checkpoint_name(step) / file;
    fs::resize_file(path, fs::file_size(path) - 1);
  }
};

TEST_F(CheckpointPrune, multiples_of_keep_every_stay_beside_the_newest) {
  for (int step = 1; step <= 9; ++step) save(step);
  prune_checkpoints(directory_, {.keep = 2, .keep_every = 4});
  EXPECT_EQ(steps(), (std::vector<std::int64_t>{9, 8, 4}));
  save(10);
  prune_checkpoints(directory_, {.keep = 2, .keep_every = 4});
  EXPECT_EQ(steps(), (std::vector<std::int64_t>{10, 9, 8, 4}));
  prune_checkpoints(directory_, {.keep = 0, .keep_every = 4});
  EXPECT_EQ(steps().size(), 4U);
}

TEST_F(CheckpointPrune, nothing_goes_for_a_newest_one_that_is_not_sound) {
  for (const char* file : {"manifest.json", "state.h5", "run.json"}) {
    for (int step = 1; step <= 3; ++step) save(step);
    damage(3, file);
    const auto what =
        error_of(ExitCode::kSave, [&] { prune_checkpoints(directory_, {.keep = 1}); });
    expect_contains(what, file);
    EXPECT_EQ(steps(), (std::vector<std::int64_t>{3, 2, 1}));
    EXPECT_EQ(newest(), 2);
  }
}

TEST_F(CheckpointPrune, one_that_is_not_sound_takes_no_place_among_the_newest) {
  for (const char* file : {"manifest.json", "state.h5"}) {
    for (int step = 1; step <= 5; ++step) save(step);
    damage(4, file);
    prune_checkpoints(directory_, {.keep = 2});
    EXPECT_EQ(steps(), (std::vector<std::int64_t>{5, 4, 3}));
    // Once two sound ones are newer, it goes like any other.
    save(6);
    prune_checkpoints(directory_, {.keep = 2});
    EXPECT_EQ(steps(), (std::vector<std::int64_t>{6, 5}));
    for (const int step : {5, 6}) fs::remove_all(directory_.path() / checkpoint_name(step));
  }
}

TEST_F(CheckpointPrune, what_cannot_be_removed_is_a_warning_and_the_save_counts) {
  for (const bool async : {false, true}) {
    for (const bool renaming : {false, true}) {
      save(1);
      const auto hidden = ".step-000000001." + std::to_string(::getpid()) + ".pruned";
      CheckpointSaver saver(comm::Communicator::world(), directory_, {.async = async, .keep = 1},
                            [&](std::string_view phase) {
                              // A folder with something in it is in the way of the name.
                              if (renaming && phase == "prune") {
                                fs::create_directories(directory_.path() / hidden / "in the way");
                              }
                              if (!renaming && phase == "pruned") stuck = hidden;
                            });
      saver.start(test_info(2), state_.tensors());
      const auto report = saver.finish();
      stuck.clear();
      ASSERT_TRUE(report);
      ASSERT_EQ(report->warnings.size(), 1U);
      expect_contains(report->warnings[0],
                      (directory_.path() / (renaming ? "step-000000001" : hidden)).string() + ": ");
      EXPECT_EQ(newest(), 2);
      EXPECT_EQ(steps().size(), renaming ? 2U : 1U);
      // The next save tries again.
      save_checkpoint(comm::Communicator::world(), directory_, test_info(3), state_.tensors(), {},
                      {.keep = 1});
      EXPECT_EQ(names_in(directory_), std::vector<std::string>{"step-000000003"});
      fs::remove_all(directory_.path() / checkpoint_name(3));
    }
  }
}

TEST_F(CheckpointPrune, a_process_killed_before_or_after_any_rename_loses_nothing_it_should_keep) {
  state_.fill(1);
  for (int killed_at = 0; killed_at < 6; ++killed_at) {
    for (int step = 1; step <= 4; ++step) save(step);
    const auto child = ::fork();
    if (child == 0) {
      int phase = 0;
      prune_checkpoints(directory_, {.keep = 1}, [&](std::string_view) {
        if (phase++ == killed_at) ::_exit(9);
      });
      ::_exit(0);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_EQ(WEXITSTATUS(status), 9) << "the pruning has no phase " << killed_at;
    EXPECT_EQ(newest(), 4) << killed_at;
    for (const auto& entry : list_checkpoints(directory_)) {
      EXPECT_TRUE(verify_checkpoint(entry.path).empty()) << "half of an entry is in sight";
    }
    EXPECT_EQ(steps().size(), static_cast<std::size_t>(4 - (killed_at + 1) / 2));
    // The next save and its pruning tidy up.
    CheckpointSaver saver(comm::Communicator::world(), directory_, {.keep = 1});
    saver.start(test_info(5), state_.tensors());
    saver.finish();
    EXPECT_EQ(names_in(directory_), std::vector<std::string>{"step-000000005"});
    fs::remove_all(directory_.path() / checkpoint_name(5));
  }
}

TEST_F(CheckpointPrune, keep_1_in_the_background_always_leaves_one_that_verifies) {
  state_.fill(1);
  std::int64_t complete = 0;
  int looks = 0;
  const auto look = [&](std::string_view phase) {
    ++looks;
    if (complete > 0) {
      EXPECT_GE(newest(), complete) << phase;
    }
  };
  CheckpointSaver saver(comm::Communicator::world(), directory_, {.async = true, .keep = 1}, look);
  for (int step = 1; step <= 4; ++step) {
    saver.start(test_info(step), state_.tensors());
    while (!saver.poll()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    complete = step;
  }
  EXPECT_GT(looks, 4 * 6);
  EXPECT_EQ(names_in(directory_), std::vector<std::string>{"step-000000004"});
}

TEST_F(CheckpointPrune, a_pruning_that_fails_leaves_the_new_entry) {
  state_.fill(1);
  for (const bool async : {false, true}) {
    save(1);
    CheckpointSaver saver(comm::Communicator::world(), directory_, {.async = async, .keep = 1},
                          [](std::string_view phase) {
                            if (phase == "prune") throw fail(ExitCode::kSave, "no");
                          });
    saver.start(test_info(2), state_.tensors());
    error_of(ExitCode::kSave, [&] { saver.finish(); });
    EXPECT_EQ(steps(), (std::vector<std::int64_t>{2, 1}));
    EXPECT_EQ(newest(), 2);
  }
}

}  // namespace
}  // namespace pg::io

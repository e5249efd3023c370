// Which entries there are, which one a run resumes from, which ones are pruned, and room checks.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <thread>

#include "checkpoint_state.h"
#include "io/checkpoint_commit.h"
#include "io/manifest.h"
#include "io/raw_file.h"

namespace pg::io {
namespace {

namespace fs = std::filesystem;

class CheckpointEntries : public testing::Test {
 protected:
  const std::unique_ptr<comm::Group> group_ = comm::make_self_group("test");
  const TestDirectory directory_{*group_};
  TestState state_{tiny_plans(), 0, 1};

  fs::path save(std::int64_t step) {
    state_.fill(1);
    return save_checkpoint(comm::Communicator::world(), directory_, test_info(step),
                           state_.tensors());
  }
  void damage(std::int64_t step) {
    auto bytes = bytes_of(entry(step) / "state.h5");
    bytes[bytes.size() / 2] ^= 1;
    put_bytes(entry(step) / "state.h5", bytes);
  }
  fs::path entry(std::int64_t step) const { return directory_.path() / checkpoint_name(step); }
  std::vector<std::int64_t> steps() const {
    std::vector<std::int64_t> all;
    for (const auto& found : list_checkpoints(directory_)) all.push_back(found.step);
    return all;
  }
  std::optional<fs::path> find(const std::string& resume) {
    notes_.clear();
    const auto found = find_checkpoint(*group_, directory_, resume, notes_);
    return found ? std::optional(found->path) : std::nullopt;
  }
  std::vector<std::string> notes_;
};

TEST_F(CheckpointEntries, numbers_not_text_decide_which_is_newest) {
  for (const auto* name :
       {"step-000000900", "step-000001000", "step-12345678901", "step-000000000",
        // Foreign: other spellings, unfinished saves, anything else.
        "step-900", "step-0000001000", "step-00000100x", "step-", "step--00000001",
        ".step-000002000.77", "best", "step-99999999999999999999"}) {
    fs::create_directory(directory_.path() / name);
  }
  put_bytes(directory_.path() / "notes.txt", "foreign");
  EXPECT_EQ(steps(), (std::vector<std::int64_t>{12345678901, 1000, 900, 0}));
  EXPECT_TRUE(list_checkpoints(directory_.path() / "missing").empty());
  error_of(ExitCode::kCheckpoint, [&] { list_checkpoints(directory_.path() / "notes.txt"); });
}

TEST_F(CheckpointEntries, what_was_saved_is_read_back) {
  const auto path = save(12);
  EXPECT_TRUE(verify_checkpoint(path).empty());
  const auto info = read_checkpoint_info(path);
  EXPECT_EQ(info.step, 12);
  EXPECT_EQ(info.next_sample, 96);
  EXPECT_EQ(info.data_fingerprint, test_info(12).data_fingerprint);
  EXPECT_EQ(info.deck, test_info(12).deck);
  EXPECT_EQ(info.provenance, test_info(12).provenance);
  std::vector<std::string> names;
  for (const auto& tensor : read_checkpoint_tensors(path)) names.push_back(tensor.name);
  EXPECT_EQ(names, (std::vector<std::string>{"adam.m.blocks.0.q.weight", "blocks.0.q.weight",
                                             "norm.weight"}));
}

TEST_F(CheckpointEntries, equal_states_are_equal_bytes_whatever_the_time) {
  const auto first = bytes_of(save(1) / "state.h5");
  std::this_thread::sleep_for(std::chrono::milliseconds(1100));  // HDF5 stamps whole seconds
  EXPECT_TRUE(first == bytes_of(save(2) / "state.h5"));
}

TEST_F(CheckpointEntries, the_size_is_known_before_saving) {
  for (const int blocks : {0, 1, 10, 100, 400}) {
    std::vector<TensorPlan> plans = tiny_plans();
    for (int b = 0; b < blocks; ++b) {
      const auto name = "blocks." + std::to_string(b) + ".attention.output.weight";
      plans.push_back({name, DType::kF32, {257, b % 10 == 0 ? 1025 : 9}, Cut::kRows});
    }
    TestState state(plans, 0, 1);
    const auto path =
        save_checkpoint(comm::Communicator::world(), directory_, test_info(1), state.tensors());
    std::int64_t bytes = 0;
    for (const auto& file : fs::directory_iterator(path)) {
      bytes += static_cast<std::int64_t>(file.file_size());
    }
    const auto planned = checkpoint_bytes(state.tensors());
    const auto tensors = static_cast<std::int64_t>(plans.size());
    EXPECT_GE(planned, bytes) << blocks << " blocks";
    // The header's promise; one tensor in ten has a MiB.
    EXPECT_LE(planned, bytes + tensors * 1024 + (tensors / 10 + 1) * 4096 + 100 * 1024) << blocks;
  }
}

TEST_F(CheckpointEntries,
       auto_and_latest_take_the_newest_intact_one_and_say_what_they_passed_over) {
  for (const int step : {900, 1000, 1100}) save(step);
  EXPECT_EQ(find("auto"), entry(1100));
  EXPECT_TRUE(notes_.empty());
  damage(1100);
  fs::remove(entry(1000) / "manifest.json");
  fs::create_directory(directory_.path() / ".step-000001200.42");
  for (const auto* resume : {"auto", "latest"}) {
    EXPECT_EQ(find(resume), entry(900));
    ASSERT_EQ(notes_.size(), 3u);
    expect_contains(notes_[0], "unfinished");
    expect_contains(notes_[1], "step-000001100 passed over");
    expect_contains(notes_[1], "state.h5");
    expect_contains(notes_[2], "step-000001000 passed over");
    expect_contains(notes_[2], "manifest.json");
  }
  EXPECT_EQ(find("none"), std::nullopt);
}

TEST_F(CheckpointEntries, a_replacement_that_is_undone_leaves_no_moment_without_an_entry) {
  const auto final = directory_.path() / "step-000000001";
  const auto temporary = directory_.path() / ".step-000000001.1";
  fs::create_directory(final);
  fs::create_directory(temporary);
  write_file(final / "old", "");
  if (::renameat2(AT_FDCWD, final.c_str(), AT_FDCWD, temporary.c_str(), RENAME_EXCHANGE) != 0) {
    GTEST_SKIP() << "names cannot be exchanged here";
  }
  fs::rename(temporary / "old", final / "old");
  std::atomic<bool> ends = false;
  std::atomic<int> missing = 0, looks = 0;
  std::thread watcher([&] {
    while (!ends) {
      missing += ::access(final.c_str(), F_OK) != 0;
      ++looks;
    }
  });
  for (int i = 0; i < 2000 || looks < 1000; ++i) {
    Publication publication(temporary, final);
    publication.undo();
  }
  ends = true;
  watcher.join();
  EXPECT_EQ(missing, 0) << "of " << looks;
  EXPECT_TRUE(fs::exists(final / "old"));
  EXPECT_EQ(names_in(directory_),
            (std::vector<std::string>{".step-000000001.1", "step-000000001"}));
}

TEST_F(CheckpointEntries, damaged_ones_only_are_refused_and_never_a_fresh_start) {
  for (const int step : {1, 2}) {
    save(step);
    damage(step);
  }
  for (const auto* resume : {"auto", "latest"}) {
    const auto what = error_of(ExitCode::kCheckpoint, [&] { find(resume); });
    expect_contains(what, "none of its 2 checkpoints is intact");
  }
  // Whatever bears the name of an entry counts as one that was there.
  fs::remove_all(entry(1));
  fs::remove_all(entry(2));
  fs::create_symlink("nowhere", entry(3));
  error_of(ExitCode::kCheckpoint, [&] { find("auto"); });
  fs::remove(entry(3));
  put_bytes(entry(3), "a file");
  error_of(ExitCode::kCheckpoint, [&] { find("auto"); });
}

TEST_F(CheckpointEntries, without_any_only_auto_starts_afresh) {
  fs::create_directory(directory_.path() / ".step-000000100.42");
  EXPECT_EQ(find("auto"), std::nullopt);
  error_of(ExitCode::kCheckpoint, [&] { find("latest"); });
  error_of(ExitCode::kCheckpoint, [&] { find(entry(100).string()); });
  error_of(ExitCode::kCheckpoint, [&] { find(""); });
}

TEST_F(CheckpointEntries, a_given_path_is_taken_or_refused_without_a_fallback) {
  save(5);
  save(6);
  EXPECT_EQ(find(entry(5).string()), entry(5));
  EXPECT_EQ(find(entry(5).string() + "/"), entry(5).string() + "/");
  const auto relative = fs::relative(entry(5)).string();
  EXPECT_EQ(find(relative), relative);
  fs::rename(entry(5), directory_.path() / "best");  // a copy under a name of the user's
  EXPECT_EQ(find((directory_.path() / "best").string()), directory_.path() / "best");
  damage(6);
  error_of(ExitCode::kCheckpoint, [&] { find(entry(6).string()); });
  error_of(ExitCode::kCheckpoint, [&] { find(directory_.path().string()); });
}

TEST_F(CheckpointEntries, an_entry_under_the_number_of_another_is_refused) {
  save(5);
  fs::rename(entry(5), entry(7));
  expect_contains(error_of(ExitCode::kCheckpoint, [&] { find("auto"); }), "renamed");
}

TEST_F(CheckpointEntries, foreign_files_inside_an_entry_are_reported_and_do_no_harm) {
  const auto path = save(5);
  put_bytes(path / "notes.txt", "mine");
  EXPECT_EQ(verify_checkpoint(path), std::vector<std::string>{"notes.txt"});
  EXPECT_EQ(find("latest"), path);
  ASSERT_EQ(notes_.size(), 1u);
  expect_contains(notes_[0], "notes.txt");
}

TEST_F(CheckpointEntries, pruning_keeps_the_newest_and_leaves_foreign_files) {
  for (const int step : {8, 9, 10, 11}) save(step);
  put_bytes(directory_.path() / "notes.txt", "mine");
  prune_checkpoints(directory_, {.keep = 0});
  EXPECT_EQ(steps().size(), 4u);
  prune_checkpoints(directory_, {.keep = 2});
  EXPECT_EQ(steps(), (std::vector<std::int64_t>{11, 10}));
  prune_checkpoints(directory_, {.keep = 1});
  prune_checkpoints(directory_, {.keep = 1});
  EXPECT_EQ(names_in(directory_), (std::vector<std::string>{"notes.txt", "step-000000011"}));
}

TEST_F(CheckpointEntries, pruning_counts_no_damaged_entry_that_a_resume_passed_over) {
  save(9);
  save(20);
  damage(20);
  ASSERT_EQ(find("auto"), entry(9));
  save(10);
  prune_checkpoints(directory_, {.keep = 1, .last_saved = 10});
  EXPECT_EQ(steps(), (std::vector<std::int64_t>{20, 10}));
  EXPECT_EQ(find("auto"), entry(10));
}

TEST_F(CheckpointEntries, too_little_space_is_refused_with_both_sizes) {
  require_space(directory_.path() / "new" / "deep", 1000);
  EXPECT_TRUE(fs::is_directory(directory_.path() / "new" / "deep"));
  EXPECT_TRUE(fs::is_empty(directory_.path() / "new" / "deep"));
  const auto what =
      error_of(ExitCode::kSave, [&] { require_space(directory_, std::int64_t{1} << 60); });
  expect_contains(what, directory_.path().string());
  expect_contains(what, "1024.00 PiB (1152921504606846976 bytes) are needed");
  expect_contains(what, "are free");
}

TEST_F(CheckpointEntries, a_directory_that_takes_no_file_is_refused_before_any_save) {
  put_bytes(directory_.path() / "file", "x");
  const auto under_a_file = directory_.path() / "file" / "checkpoints";
  expect_contains(error_of(ExitCode::kSave, [&] { require_space(under_a_file, 1); }), "file");
  error_of(ExitCode::kSave, [&] {
    save_checkpoint(comm::Communicator::world(), under_a_file, test_info(1), state_.tensors());
  });
  // /proc takes no files, not even from root.
  expect_contains(error_of(ExitCode::kSave, [&] { require_space("/proc/self", 4096); }),
                  "4.00 KiB");
}

}  // namespace
}  // namespace pg::io

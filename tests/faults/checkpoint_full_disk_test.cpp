// A disk that fills up during a save, really (a tmpfs of 1 MiB, see checkpoint.cmake) or by
// RLIMIT_FSIZE: exit 5 on all ranks, the old checkpoint intact, the partial one never listed, and
// no rank left in a collective.
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "../io/checkpoint_state.h"
#include "comm/agree.h"
#include "io/checkpoint_saver.h"

namespace pg::io {
namespace {

namespace fs = std::filesystem;
using comm::Communicator;

class CheckpointFullDisk : public testing::Test {
 protected:
  const Communicator world_ = Communicator::world();
  const std::unique_ptr<comm::Group> group_ = comm::make_mpi_group(world_, "test");
  const TestDirectory directory_{*group_};

  // A state that fits into 1 MiB once, not twice: 600 KiB, cut by rows.
  TestState state() const {
    return TestState(
        {{"a", DType::kF32, {150, 512}, Cut::kRows}, {"b", DType::kF32, {150, 512}, Cut::kColumns}},
        world_.rank(), world_.size());
  }

  void save_small(std::int64_t step) {
    TestState small(tiny_plans(), world_.rank(), world_.size());
    small.fill(1);
    save_checkpoint(world_, directory_, test_info(step), small.tensors());
    group_->barrier();
  }

  // What must hold after a failed save of step 2.
  void expect_only_step_1() {
    group_->barrier();
    EXPECT_EQ(names_in(directory_), std::vector<std::string>{"step-000000001"});
    EXPECT_TRUE(verify_checkpoint(directory_.path() / "step-000000001").empty());
    group_->barrier();
  }
};

TEST_F(CheckpointFullDisk, a_phase_that_fails_on_any_rank_fails_the_save_on_all) {
  save_small(1);
  TestState small(tiny_plans(), world_.rank(), world_.size());
  for (const auto* phase : {"layout", "data", "sync", "digest", "publish", "published"}) {
    for (int rank = 0; rank < world_.size(); ++rank) {
      const auto what = error_of(ExitCode::kSave, [&] {
        save_checkpoint(world_, directory_, test_info(2), small.tensors(), [&](auto reached) {
          if (reached == phase && rank == world_.rank()) {
            throw fail(ExitCode::kData, "injected in {}", phase);
          }
        });
      });
      expect_contains(what, std::string("injected in ") + phase);
      if (world_.size() > 1) expect_contains(what, "rank " + std::to_string(rank) + " (");
      expect_only_step_1();
      // A save of a step that exists leaves the old one as it was.
      error_of(ExitCode::kSave, [&] {
        save_checkpoint(world_, directory_, test_info(1), small.tensors(), [&](auto reached) {
          if (reached == phase && rank == world_.rank()) throw fail(ExitCode::kSave, "injected");
        });
      });
      expect_only_step_1();
    }
  }
  small.clear();
  load_checkpoint(world_, directory_.path() / "step-000000001", small.tensors());
  EXPECT_EQ(small.wrong(1), 0);
}

// Writes past `bytes` fail with EFBIG, as they do with ENOSPC on a full disk, while one lives.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit{bytes, before_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() { setrlimit(RLIMIT_FSIZE, &before_); }

 private:
  rlimit before_{};
};

TEST_F(CheckpointFullDisk, a_file_that_may_not_grow_is_refused_before_any_data_is_written) {
  save_small(1);
  auto large = state();
  bool data_phase = false;
  std::string what;
  {
    const FileSizeLimit limit(100 << 10);
    what = error_of(ExitCode::kSave, [&] {
      save_checkpoint(world_, directory_, test_info(2), large.tensors(),
                      [&](auto phase) { data_phase |= phase == "data"; });
    });
  }
  EXPECT_FALSE(data_phase);
  expect_contains(what, "state.h5");
  expect_contains(what, "File too large");
  expect_contains(what, "needed");
  expect_only_step_1();
}

TEST_F(CheckpointFullDisk, a_write_that_fails_on_any_ranks_fails_the_save_on_all) {
  save_small(1);
  auto large = state();
  // Bit r of `mask`: rank r's writes past 100 KiB fail from the first tensor on. Rank 0's row slab
  // of 300 / ranks KiB may lie below; its column slabs, and all slabs of others, do not.
  const unsigned all = (1u << world_.size()) - 1;
  for (unsigned mask = 1; mask <= all; ++mask) {
    std::optional<FileSizeLimit> limit;
    const auto what = error_of(ExitCode::kSave, [&] {
      save_checkpoint(world_, directory_, test_info(2), large.tensors(), [&](auto phase) {
        if (phase == "data" && (mask >> world_.rank() & 1u) && !limit) limit.emplace(100 << 10);
      });
    });
    limit.reset();
    expect_contains(what, "writing ");
    expect_only_step_1();
  }
}

// The same beside the work: the threads' writes fail, and every rank hears of it in the same poll.
TEST_F(CheckpointFullDisk, a_write_that_fails_in_the_background_fails_the_save_on_all) {
  save_small(1);
  auto large = state();
  const unsigned all = (1u << world_.size()) - 1;
  for (const unsigned mask : {1u, 1u << (world_.size() - 1), all}) {
    std::optional<FileSizeLimit> limit;
    CheckpointSaver saver(world_, directory_, {.async = true}, [&](auto phase) {
      if (phase == "data" && (mask >> world_.rank() & 1u) && !limit) limit.emplace(100 << 10);
    });
    std::int64_t polls = 0;
    const auto what = error_of(ExitCode::kSave, [&] {
      saver.start(test_info(2), large.tensors());
      for (;; ++polls) {
        if (saver.poll()) return;
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
    });
    limit.reset();
    expect_contains(what, "writing ");
    expect_contains(what, "File too large");
    EXPECT_EQ(comm::all_reduce(*group_, polls, comm::ReduceOp::kMin),
              comm::all_reduce(*group_, polls, comm::ReduceOp::kMax));
    expect_only_step_1();
  }
}

TEST_F(CheckpointFullDisk, a_last_write_that_is_cut_short_fails_the_save_on_all) {
  save_small(1);
  auto large = state();
  for (const rlim_t missing : {1, 4, 1000}) {
    std::optional<FileSizeLimit> limit;
    const auto what = error_of(ExitCode::kSave, [&] {
      save_checkpoint(world_, directory_, test_info(2), large.tensors(), [&](auto phase) {
        if (phase != "data" || limit) return;
        for (const auto& name : names_in(directory_)) {
          if (!name.starts_with(".step-")) continue;
          limit.emplace(fs::file_size(directory_.path() / name / "state.h5") - missing);
        }
      });
    });
    limit.reset();
    expect_contains(what, "writing b");
    expect_only_step_1();
  }
}

TEST_F(CheckpointFullDisk, a_long_write_that_fails_on_one_rank_leaves_none_waiting) {
  // 96 MiB a rank; all but the first 1 MiB of the file fails. Collective transfers hang here (Open
  // MPI 4.1, three ranks).
  TestState huge({{"a", DType::kF64, {12 * world_.size(), 1 << 20}, Cut::kRows}}, world_.rank(),
                 world_.size());
  if (std::getenv("PG_TEST_DIRECTORY")) GTEST_SKIP() << "larger than the small disk";
  for (const bool only_last : {false, true}) {
    std::optional<FileSizeLimit> limit;
    error_of(ExitCode::kSave, [&] {
      save_checkpoint(world_, directory_, test_info(2), huge.tensors(), [&](auto phase) {
        const bool mine = !only_last || world_.rank() == world_.size() - 1;
        if (phase == "data" && mine) limit.emplace(1 << 20);
      });
    });
    limit.reset();
    group_->barrier();
  }
}

TEST_F(CheckpointFullDisk, a_disk_that_is_full_fails_the_save_and_gets_its_space_back) {
  if (!std::getenv("PG_TEST_DIRECTORY")) GTEST_SKIP() << "needs a small disk of its own";
  save_small(1);
  auto large = state();
  large.fill(1);
  // It fits once ...
  save_checkpoint(world_, directory_, test_info(3), large.tensors());
  // ... and not twice, in either way.
  for (const bool async : {false, true}) {
    CheckpointSaver saver(world_, directory_, {.async = async});
    const auto what = error_of(ExitCode::kSave, [&] {
      saver.start(test_info(4), large.tensors());
      saver.finish();
    });
    expect_contains(what, "No space left on device");
    expect_contains(what, "KiB");
  }
  group_->barrier();
  EXPECT_EQ(names_in(directory_), (std::vector<std::string>{"step-000000001", "step-000000003"}));
  EXPECT_TRUE(verify_checkpoint(directory_.path() / "step-000000003").empty());
  group_->barrier();
  if (world_.rank() == 0) fs::remove_all(directory_.path() / "step-000000003");
  group_->barrier();
  save_checkpoint(world_, directory_, test_info(4), large.tensors());
}

TEST_F(CheckpointFullDisk, a_disk_that_fills_up_between_layout_and_data_fails_the_write) {
  if (!std::getenv("PG_TEST_DIRECTORY")) GTEST_SKIP() << "needs a small disk of its own";
  save_small(1);
  auto large = state();
  const auto filler = directory_.path().parent_path() / "filler";
  bool stolen = false;
  const auto what = error_of(ExitCode::kSave, [&] {
    save_checkpoint(world_, directory_, test_info(2), large.tensors(), [&](auto phase) {
      if (phase != "data" || stolen) return;
      stolen = true;
      if (world_.rank() != 0) return;
      // As on a file system that cannot reserve: give the file's blocks back, then take them all.
      for (const auto& name : names_in(directory_)) {
        if (!name.starts_with(".step-")) continue;
        const auto path = directory_.path() / name / "state.h5";
        const int fd = ::open(path.c_str(), O_RDWR);
        EXPECT_EQ(::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 8192, 2 << 20), 0);
        ::close(fd);
      }
      const int fd = ::open(filler.c_str(), O_WRONLY | O_CREAT, 0666);
      const std::string block(4096, 'x');
      while (::write(fd, block.data(), block.size()) > 0) {
      }
      ::close(fd);
    });
  });
  group_->barrier();
  if (world_.rank() == 0) fs::remove(filler);
  EXPECT_TRUE(stolen);
  expect_contains(what, "writing a");
  expect_only_step_1();
}

}  // namespace
}  // namespace pg::io

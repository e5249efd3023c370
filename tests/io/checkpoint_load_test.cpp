// Verifying and loading over several ranks: who reads how much, by the operating system's count,
// and that one rank's failure is everyone's.
#include <fcntl.h>
#include <unistd.h>

#include "checkpoint_state.h"
#include "io/checkpoint_reads.h"
#include "io/manifest.h"

namespace pg::io {
namespace {

namespace fs = std::filesystem;

// What this process has read so far, whatever it was: bytes and calls.
struct Reads {
  std::int64_t bytes = 0, calls = 0;
};
Reads reads_so_far() {
  std::ifstream in("/proc/self/io");
  Reads reads;
  std::string key;
  for (std::int64_t value = 0; in >> key >> value;) {
    if (key == "rchar:") reads.bytes = value;
    if (key == "syscr:") reads.calls = value;
  }
  EXPECT_GT(reads.bytes, 0) << "/proc/self/io tells nothing";
  return reads;
}
// The count's own reading, HDF5's metadata and MPI's messages are a few KiB.
constexpr std::int64_t kOtherBytes = 256 << 10;
// Calls of MPI's progress engine are not many while every rank reads.
constexpr std::int64_t kOtherCalls = 400;

// 24 MiB in all, so that there are several chunks and long runs.
std::vector<TensorPlan> large_plans(Cut cut) {
  std::vector<TensorPlan> plans;
  for (int i = 0; i < 6; ++i) {
    plans.push_back({"blocks." + std::to_string(i), DType::kF32, {1024, 1024}, cut});
  }
  plans.push_back({"norm", DType::kF32, {1024}, Cut::kReplicated});
  return plans;
}

class CheckpointLoad : public testing::Test {
 protected:
  fs::path save(const std::vector<TensorPlan>& plans, std::int64_t step) {
    TestState state(plans, group_->rank(), group_->size());
    each_value(state, [](char* data, std::int64_t index, std::size_t bytes) {
      std::memcpy(data, &index, bytes);
    });
    return save_checkpoint(world_, directory_, test_info(step), state.tensors());
  }
  static std::int64_t wrong(TestState& state) {
    std::int64_t count = 0;
    each_value(state, [&](const char* data, std::int64_t index, std::size_t bytes) {
      count += std::memcmp(data, &index, bytes) != 0;
    });
    return count;
  }
  // Each element of vectors and matrices with its global index (whose low bytes are its value here:
  // TestState's own draw random bits for each byte).
  template <class Visit>
  static void each_value(TestState& state, Visit visit) {
    for (auto& tensor : state.tensors()) {
      const auto bytes = dtype_size(tensor.dtype);
      for (auto& slab : tensor.slabs) {
        auto* data = static_cast<char*>(slab.data);
        const auto rows = slab.extent.size() == 2 ? slab.extent[0] : 1;
        const auto first = slab.extent.size() == 2 ? slab.offset[0] : 0;
        for (auto row = first; row < first + rows; ++row) {
          for (std::int64_t i = 0; i < slab.extent.back(); ++i, data += bytes) {
            visit(data, row * tensor.shape.back() + slab.offset.back() + i, bytes);
          }
        }
      }
    }
  }
  // One byte of the entry's file, changed by rank 0.
  void flip(const fs::path& file, std::int64_t at) {
    if (group_->rank() == 0) {
      const int fd = ::open(file.c_str(), O_RDWR);
      char byte = 0;
      EXPECT_EQ(::pread(fd, &byte, 1, at), 1);
      byte = static_cast<char>(byte ^ 16);
      EXPECT_EQ(::pwrite(fd, &byte, 1, at), 1);
      ::close(fd);
    }
    group_->barrier();
  }

  const comm::Communicator world_ = comm::Communicator::world();
  const std::unique_ptr<comm::Group> group_ =
      world_.size() == 1 ? comm::make_self_group("test") : comm::make_mpi_group(world_, "test");
  const TestDirectory directory_{*group_};
};

TEST_F(CheckpointLoad, each_byte_is_verified_by_one_rank) {
  const auto entry = save(large_plans(Cut::kRows), 3);
  std::vector<std::string> notes;
  group_->barrier();
  const auto before = reads_so_far();
  const auto verified = verify_together(*group_, entry, notes);
  const auto read = reads_so_far().bytes - before.bytes;
  EXPECT_EQ(verified.path, entry);
  EXPECT_GT(verified.bytes, 24 << 20);
  const auto all = comm::all_reduce(*group_, read, comm::ReduceOp::kSum);
  EXPECT_GE(all, verified.bytes);
  EXPECT_LE(all, verified.bytes + group_->size() * kOtherBytes);
  // Shares differ by a chunk at most.
  const auto most = comm::all_reduce(*group_, read, comm::ReduceOp::kMax);
  EXPECT_LE(most, verified.bytes / group_->size() + kChunkBytes + kOtherBytes);
}

TEST_F(CheckpointLoad, damage_in_any_ranks_share_is_every_ranks_error) {
  const auto entry = save(large_plans(Cut::kRows), 3);
  const auto size = regular_file_size(entry / "state.h5", ExitCode::kBug);
  std::vector<std::string> notes;
  for (const auto at : {std::int64_t{0}, kChunkBytes - 1, kChunkBytes, size - 1}) {
    flip(entry / "state.h5", at);
    const auto what =
        error_of(ExitCode::kCheckpoint, [&] { verify_together(*group_, entry, notes); });
    const auto chunk = at / kChunkBytes;
    expect_contains(what, fmt::format("state.h5: damaged: the XXH3-128 of chunk {} of {} (bytes {}",
                                      chunk + 1, chunk_count(size), chunk * kChunkBytes));
    EXPECT_EQ(comm::broadcast(*group_, what, 0), what);
    flip(entry / "state.h5", at);
  }
  EXPECT_EQ(verify_together(*group_, entry, notes).path, entry);
  EXPECT_TRUE(notes.empty());
}

TEST_F(CheckpointLoad, all_ranks_find_the_same_newest_intact_entry) {
  for (const int step : {900, 1000, 1100}) save(tiny_plans(), step);
  const auto entry = [&](int step) { return directory_.path() / checkpoint_name(step); };
  flip(entry(1100) / "state.h5", 700);
  if (group_->rank() == 0) put_bytes(entry(1000) / "notes.txt", "mine");
  group_->barrier();
  std::vector<std::string> notes;
  const auto found = find_checkpoint(*group_, directory_, "auto", notes);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->path, entry(1000));
  ASSERT_EQ(notes.size(), 2u);
  expect_contains(notes[0], "step-000001100 passed over: ");
  expect_contains(notes[1], "notes.txt: foreign file");
  flip(entry(1000) / "run.json", 10);
  flip(entry(900) / "deck.toml", 1);
  for (const auto* resume : {"auto", "latest"}) {
    try {
      find_checkpoint(*group_, directory_, resume, notes);
      ADD_FAILURE() << "found one";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kCheckpoint);
      EXPECT_EQ(error.ranks(), group_->size());
      expect_contains(error.what(), "none of its 3 checkpoints is intact");
    }
  }
}

// What the header of io/checkpoint_reads.h promises, by the operating system's count.
TEST_F(CheckpointLoad, a_rank_reads_what_it_holds_in_few_pieces) {
  for (const auto cut : {Cut::kRows, Cut::kFlat, Cut::kReplicated, Cut::kColumns}) {
    const auto plans = large_plans(cut);
    const auto entry = save(plans, 1 + static_cast<int>(cut));
    TestState state(plans, group_->rank(), group_->size());
    state.clear();
    group_->barrier();
    const auto before = reads_so_far();
    const auto report = load_checkpoint(world_, entry, state.tensors());
    const auto after = reads_so_far();
    EXPECT_EQ(wrong(state), 0);
    const auto needed = slab_bytes(state.tensors());
    // Rows and flat shares are whole runs: nothing is bridged but metadata between tensors. Columns
    // of n ranks with 1024 / n floats, 4 KiB apart, are bridged up to 4 ranks, and the read spans
    // them all.
    const bool bridged = cut == Cut::kColumns;
    EXPECT_GE(report.bytes, needed);
    EXPECT_LE(report.bytes, bridged ? group_->size() * needed + kOtherBytes : needed + (64 << 10));
    // At least 16 MiB a read, or one a tensor.
    EXPECT_LE(report.reads, 2 * std::ssize(plans));
    // And these are the reads that happened.
    EXPECT_GE(after.bytes - before.bytes, report.bytes);
    EXPECT_LE(after.bytes - before.bytes, report.bytes + kOtherBytes) << static_cast<int>(cut);
    EXPECT_LE(after.calls - before.calls, report.reads + kOtherCalls);
    EXPECT_EQ(report.most_bytes, comm::all_reduce(*group_, report.bytes, comm::ReduceOp::kMax));
    EXPECT_EQ(report.total_bytes, comm::all_reduce(*group_, report.bytes, comm::ReduceOp::kSum));
  }
}

TEST_F(CheckpointLoad, only_rank_0_looks_at_the_files_structure) {
  // Many tensors: whoever opens the file with HDF5 reads all of their headers.
  std::vector<TensorPlan> plans;
  for (int i = 0; i < 2000; ++i) {
    plans.push_back({"blocks." + std::to_string(i) + ".attention.query.weight",
                     DType::kF32,
                     {3},
                     Cut::kLastRankOnly});
  }
  TestState state(plans, group_->rank(), group_->size());
  state.fill(1);
  const auto entry = save_checkpoint(world_, directory_, test_info(5), state.tensors());
  state.clear();
  group_->barrier();
  const auto before = reads_so_far();
  const auto report = load_checkpoint(world_, entry, state.tensors());
  const auto calls = reads_so_far().calls - before.calls;
  EXPECT_EQ(state.wrong(1), 0);
  if (group_->rank() == 0) {
    EXPECT_GT(calls, 2000);  // the count sees HDF5's
  } else {
    EXPECT_LE(calls, report.reads + kOtherCalls);
  }
  const bool holds = group_->rank() == group_->size() - 1;
  EXPECT_EQ(report.reads > 0, holds);
}

TEST_F(CheckpointLoad, another_list_of_tensors_on_one_rank_is_a_bug_on_all_ranks) {
  if (group_->size() == 1) GTEST_SKIP() << "needs two ranks";
  const auto entry = save(tiny_plans(), 1);
  auto plans = tiny_plans();
  if (group_->rank() == 1) std::swap(plans[0], plans[1]);
  TestState state(plans, group_->rank(), group_->size());
  expect_contains(
      error_of(ExitCode::kBug, [&] { load_checkpoint(world_, entry, state.tensors()); }),
      "another list than on rank 0");
}

}  // namespace
}  // namespace pg::io

// Saves beside the work: what is written is the state of the moment of start(), what fails in the
// background fails on all ranks in the same call, and nothing stays of what did not end.
#include <dlfcn.h>
#include <mpi.h>
#include <pthread.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <limits>
#include <map>
#include <thread>

#include "../../io/checkpoint_state.h"
#include "checkpoint_state.h"
#include "comm/agree.h"
#include "io/checkpoint_saver.h"

// What MPI-IO was told, instead of what a parallel file system would make of it.
static std::map<std::string, std::string> told;
extern "C" int MPI_File_open(MPI_Comm comm, const char* name, int mode, MPI_Info info,
                             MPI_File* file) {
  int keys = 0;
  if (info != MPI_INFO_NULL) MPI_Info_get_nkeys(info, &keys);
  for (int i = 0; i < keys; ++i) {
    char key[MPI_MAX_INFO_KEY + 1], value[64];
    int found = 0;
    MPI_Info_get_nthkey(info, i, key);
    MPI_Info_get(info, key, sizeof value - 1, value, &found);
    told[key] = value;
  }
  return PMPI_File_open(comm, name, mode, info, file);
}

// Threads that cannot be made: from which one on, counted down; below zero all can.
static std::atomic<int> threads_left{-1};
extern "C" int pthread_create(pthread_t* thread, const pthread_attr_t* attributes,
                              void* (*routine)(void*), void* argument) {
  if (threads_left >= 0 && threads_left-- == 0) return EAGAIN;
  static const auto real =
      reinterpret_cast<decltype(&pthread_create)>(dlsym(RTLD_NEXT, "pthread_create"));
  return real(thread, attributes, routine, argument);
}

namespace pg::io {
namespace {

namespace fs = std::filesystem;
using comm::Communicator;

class CheckpointAsync : public testing::Test {
 protected:
  const Communicator world_ = Communicator::world();
  const std::unique_ptr<comm::Group> group_ = comm::make_mpi_group(world_, "test");
  const TestDirectory directory_{*group_};
  const SaveOptions async_{.async = true};

  TestState state(int version) const {
    TestState state(awkward_plans(), world_.rank(), world_.size());
    state.fill(version);
    return state;
  }
  fs::path entry(std::int64_t step) const { return directory_.path() / checkpoint_name(step); }

  // As a training loop does; how many polls it took is the same on all ranks.
  SaveReport poll_to_the_end(CheckpointSaver& saver, int& polls) {
    while (true) {
      ++polls;
      if (auto report = saver.poll()) return *report;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
  SaveReport poll_to_the_end(CheckpointSaver& saver) {
    int polls = 0;
    return poll_to_the_end(saver, polls);
  }
  void expect_same_on_all_ranks(int value) {
    EXPECT_EQ(comm::all_reduce(*group_, std::int64_t{value}, comm::ReduceOp::kMin),
              comm::all_reduce(*group_, std::int64_t{value}, comm::ReduceOp::kMax));
  }
  void expect_names(const std::vector<std::string>& names) {
    group_->barrier();
    EXPECT_EQ(names_in(directory_), names);
    group_->barrier();
  }
  void expect_holds(std::int64_t step, int version) {
    auto back = state(0);
    back.clear();
    EXPECT_TRUE(verify_checkpoint(entry(step)).empty());
    load_checkpoint(world_, entry(step), back.tensors());
    EXPECT_EQ(back.wrong(version), 0);
  }
};

TEST_F(CheckpointAsync, the_state_of_the_start_is_saved_whatever_comes_after_and_as_blocking_does) {
  auto now = state(1);
  save_checkpoint(world_, directory_, test_info(1), now.tensors());
  std::map<std::string, std::string> blocking;
  group_->barrier();
  for (const auto& name : names_in(entry(1))) blocking[name] = bytes_of(entry(1) / name);
  group_->barrier();

  CheckpointSaver saver(world_, directory_, async_);
  saver.prepare(now.tensors());
  EXPECT_FALSE(saver.pending());
  EXPECT_FALSE(saver.start(test_info(1), now.tensors()));
  EXPECT_TRUE(saver.pending());
  now.fill(2);
  const auto report = poll_to_the_end(saver);
  EXPECT_FALSE(saver.pending());
  EXPECT_FALSE(saver.poll());
  EXPECT_EQ(report.path, entry(1));
  EXPECT_EQ(report.step, 1);
  EXPECT_EQ(static_cast<std::uintmax_t>(report.bytes), fs::file_size(entry(1) / "state.h5"));
  EXPECT_GT(report.seconds, 0);
  EXPECT_GT(report.work_seconds, 0);
  EXPECT_GT(report.stall_seconds, 0);
  expect_names({"step-000000001"});
  EXPECT_EQ(names_in(entry(1)).size(), blocking.size());
  for (const auto& [name, bytes] : blocking) {
    EXPECT_TRUE(bytes_of(entry(1) / name) == bytes) << name;
  }
  expect_holds(1, 1);

  // The control: without a copy what comes after would be in the file.
  std::atomic<bool> changed = false;
  CheckpointSaver careless(world_, directory_, {.async = true, .stable = true},
                           [&](std::string_view phase) {
                             while (phase == "data" && !changed) std::this_thread::yield();
                           });
  now.fill(1);
  careless.start(test_info(2), now.tensors());
  now.fill(2);
  changed = true;
  poll_to_the_end(careless);
  expect_holds(2, 2);
}

TEST_F(CheckpointAsync, a_save_that_is_pending_is_waited_for) {
  auto now = state(1);
  CheckpointSaver saver(world_, directory_, async_);
  saver.start(test_info(1), now.tensors());
  now.fill(2);
  const auto earlier = saver.start(test_info(2), now.tensors());
  ASSERT_TRUE(earlier);
  EXPECT_EQ(earlier->step, 1);
  now.fill(3);
  const auto report = saver.finish();
  ASSERT_TRUE(report);
  EXPECT_EQ(report->step, 2);
  EXPECT_GT(report->waited_seconds, 0);
  EXPECT_FALSE(saver.finish());
  expect_holds(1, 1);
  expect_holds(2, 2);
}

TEST_F(CheckpointAsync, storage_that_keeps_up_has_the_commit_begun_by_the_third_poll) {
  auto now = state(1);
  // A loaded machine only adds polls.
  int fewest = 100;
  for (int attempt = 1; attempt <= 4 && fewest > 3; ++attempt) {
    std::atomic<int> polls = 0, published = 0;
    CheckpointSaver saver(world_, directory_, async_, [&](std::string_view phase) {
      if (phase == "published") published = polls.load();
    });
    saver.start(test_info(attempt), now.tensors());
    std::optional<SaveReport> report;
    while (!report) {
      std::this_thread::sleep_for(std::chrono::milliseconds(50 * attempt));
      ++polls;
      report = saver.poll();
    }
    fewest = std::min(fewest, static_cast<int>(comm::all_reduce(*group_, std::int64_t{published},
                                                                comm::ReduceOp::kMax)));
  }
  EXPECT_LE(fewest, 3);
}

TEST_F(CheckpointAsync, the_work_of_a_save_is_that_of_the_slowest_rank_in_each_phase) {
  auto now = state(1);
  constexpr std::chrono::milliseconds kSlow(100);
  for (const bool async : {false, true}) {
    CheckpointSaver saver(world_, directory_, {.async = async}, [&](std::string_view phase) {
      const int slow = phase == "layout" ? 0 : phase == "sync" ? world_.size() - 1 : -1;
      if (world_.rank() == slow) std::this_thread::sleep_for(kSlow);
    });
    saver.start(test_info(1), now.tensors());
    // Between phases nothing is saved, and that is not work.
    constexpr std::chrono::milliseconds kStep(200);
    std::optional<SaveReport> report;
    while (async && !report) {
      std::this_thread::sleep_for(kStep);
      report = saver.poll();
    }
    if (!async) report = saver.finish();
    EXPECT_GE(report->work_seconds, 0.2);
    if (async) {
      EXPECT_LT(report->work_seconds, report->seconds - 0.2);
    }
  }
}

TEST_F(CheckpointAsync, a_failure_in_the_background_reaches_all_ranks_in_the_same_call) {
  auto now = state(1);
  save_checkpoint(world_, directory_, test_info(1), now.tensors());
  for (const auto* phase : {"layout", "data", "sync", "digest", "publish", "published"}) {
    for (const int rank : {0, world_.size() - 1}) {
      CheckpointSaver saver(world_, directory_, async_, [&](std::string_view reached) {
        if (reached == phase && rank == world_.rank()) {
          throw fail(ExitCode::kData, "injected in {}", phase);
        }
      });
      int polls = 0;
      const auto what = error_of(ExitCode::kSave, [&] {
        saver.start(test_info(2), now.tensors());
        poll_to_the_end(saver, polls);
      });
      expect_contains(what, std::string("injected in ") + phase);
      if (world_.size() > 1) expect_contains(what, "rank " + std::to_string(rank) + " (");
      expect_same_on_all_ranks(polls);
      EXPECT_FALSE(saver.pending());
      expect_names({"step-000000001"});
    }
  }
  // The saver of a failed save takes the next one.
  bool fails = true;
  CheckpointSaver saver(world_, directory_, async_, [&](std::string_view reached) {
    if (reached == "sync" && fails) throw fail(ExitCode::kSave, "once");
  });
  saver.start(test_info(2), now.tensors());
  error_of(ExitCode::kSave, [&] { saver.finish(); });
  fails = false;
  saver.start(test_info(2), now.tensors());
  EXPECT_TRUE(saver.finish());
  expect_holds(2, 1);
}

TEST_F(CheckpointAsync, a_rank_that_gets_no_thread_fails_the_save_on_all) {
  auto now = state(1);
  save_checkpoint(world_, directory_, test_info(1), now.tensors());
  for (const int phases : {0, 1, 4}) {
    CheckpointSaver saver(world_, directory_, async_);
    if (world_.rank() == world_.size() - 1) threads_left = phases;
    const auto what = error_of(ExitCode::kSave, [&] {
      saver.start(test_info(2), now.tensors());
      poll_to_the_end(saver);
    });
    threads_left = -1;
    expect_contains(what, "saving step 2 failed");
    expect_contains(what, "no thread for it: ");
    // The pruning, its last phase, comes after the commit.
    expect_names(phases < 4 ? std::vector<std::string>{"step-000000001"}
                            : std::vector<std::string>{"step-000000001", "step-000000002"});
    saver.start(test_info(3), now.tensors());
    EXPECT_TRUE(saver.finish());
    group_->barrier();
    if (world_.rank() == 0) fs::remove_all(entry(3));
  }
}

TEST_F(CheckpointAsync, nothing_stays_of_an_abandoned_save) {
  auto now = state(1);
  {
    CheckpointSaver saver(world_, directory_, async_);
    saver.start(test_info(1), now.tensors());
  }
  {
    CheckpointSaver saver(world_, directory_, {});
    saver.start(test_info(1), now.tensors());
  }
  expect_names({});
}

TEST_F(CheckpointAsync, a_state_that_is_not_finite_is_not_saved_and_older_ones_stay) {
  auto now = state(1);
  save_checkpoint(world_, directory_, test_info(1), now.tensors());
  constexpr float kBad[] = {std::numeric_limits<float>::quiet_NaN(),
                            -std::numeric_limits<float>::infinity()};
  for (const bool async : {false, true}) {
    for (const auto* name : {"fp64.blocks.0.columns", "fp32.blocks.0.flat", "bf16.blocks.0.rows"}) {
      for (const float bad : kBad) {
        auto poisoned = state(1);
        for (auto& tensor : poisoned.tensors()) {
          if (tensor.name != name || world_.rank() != world_.size() - 1) continue;
          auto& slab = tensor.slabs.back();
          std::int64_t last = -1;
          for (std::int64_t n = 1; const auto extent : slab.extent) last = (n *= extent) - 1;
          const double wide = bad;
          std::uint32_t bits;
          std::memcpy(&bits, &bad, 4);
          const auto high = static_cast<std::uint16_t>(bits >> 16);
          const auto size = dtype_size(tensor.dtype);
          auto* at = static_cast<char*>(slab.data) + static_cast<std::size_t>(last) * size;
          std::memcpy(at,
                      size == 8   ? static_cast<const void*>(&wide)
                      : size == 4 ? static_cast<const void*>(&bad)
                                  : static_cast<const void*>(&high),
                      size);
        }
        CheckpointSaver saver(world_, directory_, {.async = async});
        saver.start(test_info(2), poisoned.tensors());
        const auto what = error_of(ExitCode::kNumerical, [&] { saver.finish(); });
        expect_contains(what, std::string(name) + " is not finite at [");
        expect_names({"step-000000001"});
      }
    }
  }
}

// Flips a byte of what this rank wrote to the file, behind its back.
void flip_byte(const fs::path& directory, std::int64_t at) {
  for (const auto& name : names_in(directory)) {
    if (!name.starts_with(".step-")) continue;
    std::fstream file(directory / name / "state.h5",
                      std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(at);
    const auto byte = static_cast<char>(file.get() ^ 1);
    file.seekp(at);
    file.put(byte);
  }
}

TEST_F(CheckpointAsync, verify_finds_a_byte_that_storage_changed) {
  auto now = state(1);
  const auto layout = make_layout(directory_.path() / "state.h5", now.tensors());
  const auto find = [&](const std::string& name) {
    std::size_t t = 0;
    while (now.tensors()[t].name != name) ++t;
    return layout.offsets[t];
  };
  const auto at = find("fp32.blocks.0.last_stage") + 13;
  for (const bool async : {false, true}) {
    for (const bool verify : {true, false}) {
      CheckpointSaver saver(world_, directory_, {.async = async, .verify = verify},
                            [&](std::string_view phase) {
                              // After the sync without verify: nobody looks.
                              const bool now_is_the_time = phase == (verify ? "verify" : "digest");
                              if (now_is_the_time && world_.rank() == world_.size() - 1)
                                flip_byte(directory_, at);
                            });
      saver.start(test_info(1), now.tensors());
      if (!verify) {
        EXPECT_TRUE(saver.finish());
        continue;
      }
      const auto what = error_of(ExitCode::kSave, [&] { saver.finish(); });
      expect_contains(what,
                      "fp32.blocks.0.last_stage: byte " + std::to_string(at) + " was written");
      expect_contains(what, "state.h5");
      expect_names({});
    }
    group_->barrier();
    if (world_.rank() == 0) fs::remove_all(entry(1));
    group_->barrier();
  }
  // Sound storage passes.
  for (const bool async : {false, true}) {
    CheckpointSaver saver(world_, directory_, {.async = async, .verify = true});
    saver.start(test_info(2), now.tensors());
    EXPECT_TRUE(saver.finish());
    expect_holds(2, 1);
  }
}

TEST_F(CheckpointAsync, hints_and_alignment_reach_the_file) {
  const std::vector<TensorPlan> plans = {{"odd", DType::kU8, {3}, Cut::kRows},
                                         {"large", DType::kF32, {512, 513}, Cut::kColumns},
                                         {"larger", DType::kF64, {300, 1000}, Cut::kRows}};
  TestState now(plans, world_.rank(), world_.size());
  now.fill(1);
  for (const std::int64_t alignment :
       {std::int64_t{1}, std::int64_t{4096}, std::int64_t{1} << 20}) {
    told.clear();
    CheckpointSaver saver(world_, directory_,
                          {.async = alignment == 4096,
                           .hints = {"striping_factor=4", "striping_unit=1048576"},
                           .alignment = alignment});
    saver.start(test_info(1), now.tensors());
    EXPECT_TRUE(saver.finish());
    if (world_.rank() == 0) {
      EXPECT_EQ(told, (std::map<std::string, std::string>{{"striping_factor", "4"},
                                                          {"striping_unit", "1048576"}}));
    } else {
      EXPECT_TRUE(told.empty());
    }
    const auto layout = make_layout(directory_.path() / "x", now.tensors(), alignment);
    EXPECT_EQ(layout.offsets[1] % alignment, 0);
    EXPECT_EQ(layout.offsets[2] % alignment, 0);
    EXPECT_EQ(static_cast<std::uintmax_t>(layout.size), fs::file_size(entry(1) / "state.h5"));
    EXPECT_GE(checkpoint_bytes(now.tensors(), alignment), layout.size);
    now.clear();
    load_checkpoint(world_, entry(1), now.tensors());
    EXPECT_EQ(now.wrong(1), 0) << "alignment " << alignment;
    group_->barrier();
  }
  told.clear();
  save_checkpoint(world_, directory_, test_info(2), now.tensors());
  EXPECT_TRUE(told.empty()) << "no hints, no MPI-IO";
}

TEST_F(CheckpointAsync, leftovers_of_killed_saves_go_and_foreign_names_stay) {
  auto now = state(1);
  save_checkpoint(world_, directory_, test_info(3), now.tensors());
  if (world_.rank() == 0) {
    for (const auto* name : {".step-000000001.77", ".step-000000002.77.pruned", ".step-x.77",
                             ".step-000000002.mine", ".notes", ".step-000000003.77.replaced"}) {
      fs::create_directories(directory_.path() / name / "deep");
    }
    // Killed between two renames: the old entry of step 9 has no name.
    fs::copy(entry(3), directory_.path() / ".step-000000009.77.replaced");
  }
  group_->barrier();
  save_checkpoint(world_, directory_, test_info(4), now.tensors());
  expect_names({".notes", ".step-000000002.mine", ".step-x.77", "step-000000003", "step-000000004",
                "step-000000009"});
}

}  // namespace
}  // namespace pg::io

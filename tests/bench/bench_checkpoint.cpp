// Checkpoints against the machine they run on: a synthetic state of SIZE MiB on all ranks, most of
// its tensors cut by rows, some by columns.
//   mpirun -n 4 bench_checkpoint DIRECTORY [MIB] [REPEATS]
// Side by side in each repeat: dd of as many bytes with fsync; a blocking save; a load of it from a
// file whose pages were dropped, into cleared memory that must be as it was saved then; the same
// with verifying before, as a resume does; a plain memcpy of the state into warm memory by all
// ranks at the same time; and an asynchronous save's stall. Medians at the end.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <thread>

#include "comm/agree.h"
#include "io/checkpoint.h"
#include "io/checkpoint_saver.h"
#include "io/raw_file.h"

namespace pg::bench {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

double since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

class Bench {
 public:
  Bench(fs::path directory, std::int64_t mib, int repeats)
      : directory_(std::move(directory)), mib_(mib), repeats_(repeats) {
    // 16 MiB a tensor; every fourth is cut by columns.
    const std::int64_t rows = 2048, columns = 2048;
    for (std::int64_t t = 0; t < mib / 16; ++t) {
      const bool by_columns = t % 4 == 3;
      auto& record = records_.emplace_back(
          comm::TensorRecord{fmt::format("blocks.{}.weight", t), DType::kF32, {rows, columns}, {}});
      auto extent = record.shape;
      const auto axis = static_cast<std::size_t>(by_columns ? 1 : 0);
      extent[axis] /= size_;
      std::vector<std::int64_t> offset{0, 0};
      offset[axis] = extent[axis] * rank_;
      auto& memory = memory_.emplace_back(static_cast<std::size_t>(extent[0] * extent[1]));
      for (std::size_t i = 0; i < memory.size(); ++i) {
        memory[i] = static_cast<float>(i * 2654435761U % 1000003U) * 1e-3F + static_cast<float>(t);
      }
      warm_.emplace_back(memory.size(), 1.0F);
      record.slabs.push_back({offset, extent, memory.data(), true});
    }
    bytes_ = static_cast<double>(mib) * (1 << 20);
  }

  void run() {
    std::vector<double> dd, save, load, resume, copy, stall, async;
    io::CheckpointSaver saver(world_, directory_ / "async", {.async = true});
    saver.prepare(records_);
    copy_seconds();
    for (int repeat = 0; repeat < repeats_; ++repeat) {
      dd.push_back(dd_seconds());
      save.push_back(save_seconds());
      load.push_back(load_seconds(false));
      resume.push_back(load_seconds(true));
      copy.push_back(copy_seconds());
      const auto report = async_save(saver, repeat + 1);
      stall.push_back(report.stall_seconds);
      async.push_back(report.work_seconds);
      if (rank_ == 0) {
        std::printf(
            "repeat %d: dd %.2f s, save %.2f s, load %.2f s, verify and load %.2f s | "
            "memcpy %.3f s, stall %.3f s, async save %.2f s\n",
            repeat + 1, dd.back(), save.back(), load.back(), resume.back(), copy.back(),
            stall.back(), async.back());
        std::fflush(stdout);
      }
    }
    if (rank_ != 0) return;
    fs::remove_all(directory_);
    const auto rate = [&](const std::vector<double>& seconds) {
      return bytes_ / median(seconds) / 1e6;
    };
    std::printf("\n%lld MiB on %d ranks, medians of %d\n", static_cast<long long>(mib_), size_,
                repeats_);
    std::printf("dd bs=16M conv=fsync  %8.0f MB/s\n", rate(dd));
    std::printf("blocking save         %8.0f MB/s  %4.0f %% of dd\n", rate(save),
                100 * rate(save) / rate(dd));
    std::printf("load                  %8.0f MB/s  %4.0f %% of dd\n", rate(load),
                100 * rate(load) / rate(dd));
    std::printf("verify and load       %8.0f MB/s  %4.0f %% of dd\n", rate(resume),
                100 * rate(resume) / rate(dd));
    std::printf("asynchronous save     %8.0f MB/s  %4.0f %% of dd\n", rate(async),
                100 * rate(async) / rate(dd));
    std::printf("memcpy                %8.3f s\n", median(copy));
    std::printf("stall of async        %8.3f s   %.2f times memcpy\n", median(stall),
                median(stall) / median(copy));
    std::printf("of it in start()      %8.3f s   %.2f times memcpy\n", median(start_),
                median(start_) / median(copy));
  }

 private:
  static io::CheckpointInfo info(std::int64_t step) {
    io::CheckpointInfo info;
    info.step = step;
    return info;
  }
  double slowest(double seconds) {
    return comm::all_reduce(*group_, seconds, comm::ReduceOp::kMax);
  }

  // Waiting ranks sleep: those that poll would take dd's core.
  double dd_seconds() {
    group_->barrier();
    const auto done = directory_ / "dd.done", file = directory_ / "dd.data";
    double seconds = 0;
    if (rank_ == 0) {
      const auto command = fmt::format(
          "dd if=/dev/zero of={} bs=16M count={} conv=fsync 2>/dev/null", file.string(), mib_ / 16);
      const auto begin = Clock::now();
      if (std::system(command.c_str()) != 0) throw fail(ExitCode::kSave, "{} failed", command);
      seconds = since(begin);
      fs::remove(file);
      std::ofstream(done) << "x";
    }
    while (!fs::exists(done)) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    group_->barrier();
    if (rank_ == 0) fs::remove(done);
    return slowest(seconds);
  }

  double save_seconds() {
    group_->barrier();
    if (rank_ == 0) fs::remove_all(directory_ / "blocking");
    group_->barrier();
    const auto begin = Clock::now();
    saved_ = io::save_checkpoint(world_, directory_ / "blocking", info(1), records_);
    return slowest(since(begin));
  }

  // A load that reads nothing, or something else, is no time to tell.
  double load_seconds(bool verify) {
    if (rank_ == 0) {
      const auto file = io::RawFile::open(saved_ / "state.h5", ExitCode::kData);
      file.drop_cached(0, file.size());
    }
    const auto saved = memory_;
    for (auto& memory : memory_) std::fill(memory.begin(), memory.end(), -1.0F);
    group_->barrier();
    const auto begin = Clock::now();
    std::vector<std::string> notes;
    if (verify) io::verify_together(*group_, saved_, notes);
    io::load_checkpoint(world_, saved_, records_);
    const auto seconds = slowest(since(begin));
    comm::together(*group_, [&] {
      if (memory_ != saved) throw fail(ExitCode::kBug, "what was loaded is not what was saved");
    });
    return seconds;
  }

  double copy_seconds() {
    group_->barrier();
    const auto begin = Clock::now();
    for (std::size_t t = 0; t < memory_.size(); ++t) {
      std::memcpy(warm_[t].data(), memory_[t].data(), memory_[t].size() * sizeof(float));
    }
    return slowest(since(begin));
  }

  io::SaveReport async_save(io::CheckpointSaver& saver, std::int64_t step) {
    group_->barrier();
    const auto begin = Clock::now();
    saver.start(info(step), records_);
    start_.push_back(slowest(since(begin)));
    while (true) {
      // A step of training: work, then sums over the ranks, which end together.
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      for (int i = 0; i < 4; ++i) slowest(0);
      if (auto report = saver.poll()) {
        group_->barrier();
        if (rank_ == 0) fs::remove_all(report->path);
        return *report;
      }
    }
  }

  const comm::Communicator world_ = comm::Communicator::world();
  const std::unique_ptr<comm::Group> group_ = comm::make_mpi_group(world_, "bench");
  const int rank_ = group_->rank(), size_ = group_->size();
  const fs::path directory_;
  const std::int64_t mib_;
  const int repeats_;
  double bytes_ = 0;
  std::vector<comm::TensorRecord> records_;
  std::vector<std::vector<float>> memory_, warm_;
  std::vector<double> start_;  // the part of each stall that is start()
  fs::path saved_;
};

}  // namespace
}  // namespace pg::bench

int main(int argc, char** argv) {
  pg::comm::MpiSession mpi(argc, argv);
  try {
    if (argc < 2)
      throw pg::fail(pg::ExitCode::kDeck, "usage: bench_checkpoint DIRECTORY [MIB] [REPEATS]");
    const std::int64_t mib = argc > 2 ? std::atoll(argv[2]) : 2048;
    const int repeats = argc > 3 ? std::atoi(argv[3]) : 5;
    std::filesystem::create_directories(argv[1]);
    pg::bench::Bench(argv[1], mib, repeats).run();
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    pg::comm::abort_job(1);
  }
}

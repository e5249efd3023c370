// See io/checkpoint_saver.h.
#include "io/checkpoint_saver.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <numeric>
#include <system_error>
#include <utility>

#include "comm/agree.h"
#include "comm/later_min.h"
#include "io/background_task.h"
#include "io/checkpoint_commit.h"
#include "io/checkpoint_copy.h"
#include "io/checkpoint_slabs.h"
#include "io/checkpoint_state.h"
#include "io/file_size_signal.h"
#include "io/files.h"
#include "io/manifest.h"

namespace pg::io {

namespace {

namespace fs = std::filesystem;
using comm::TensorRecord;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// Thrown between pieces of a save that has failed elsewhere.
struct Cancelled {};

enum Phase : std::int64_t { kLayout, kWrite, kDigest, kCommit, kPrune, kEnd };
// Of a phase on a rank, or on the rank that is least far.
enum class Progress : std::int64_t { kFailed, kRunning, kDone };

void check_owners(comm::Group& group, std::span<const TensorRecord> tensors) {
  std::vector<std::int64_t> owned(tensors.size(), 0);
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    for (const auto& slab : tensors[t].slabs) {
      if (slab.owner) owned[t] += slab_elements(slab);
    }
  }
  group.all_reduce({owned.data(), owned.size(), DType::kI64}, comm::ReduceOp::kSum).wait();
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    PG_ASSERT(owned[t] == tensors[t].elements(), "{}: owners hold {} elements of {}",
              tensors[t].name, owned[t], tensors[t].elements());
  }
}

}  // namespace

class CheckpointSaver::Engine {
 public:
  Engine(const comm::Communicator& world, fs::path directory, SaveOptions options,
         SaveObserver observer)
      : group_(comm::make_mpi_group(world, "checkpoint")),
        root_(group_->rank() == 0),
        directory_(std::move(directory)),
        options_(std::move(options)),
        observer_(std::move(observer)),
        process_(comm::broadcast(*group_, std::to_string(::getpid()), 0)) {
    if (options_.async) later_.emplace(world);
  }
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;
  ~Engine() {
    if (save_) forget();
  }

  bool pending() const { return save_ != nullptr; }

  void prepare(std::span<const TensorRecord> tensors) {
    plan(tensors, "preparing saves");
    if (!copies()) return;
    comm::together(*group_, [&] { copy_.reserve(StateCopy::bytes_for(tensors)); });
  }

  std::optional<SaveReport> start(const CheckpointInfo& info, std::span<const TensorRecord> tensors,
                                  bool prune) {
    const auto called = Clock::now();
    auto earlier = finish();
    called_ = called;
    const double waited = seconds_since(called);
    const auto what = fmt::format("saving step {}", info.step);
    plan(tensors, what);
    const auto name = checkpoint_name(info.step);
    save_ = std::make_unique<Save>(info, called, what);
    save_->report.step = info.step;
    save_->prunes = prune;
    save_->report.bytes = layout_.size;
    save_->report.path = directory_ / name;
    save_->report.waited_seconds = waited;
    save_->temporary = directory_ / fmt::format(".{}.{}", name, process_);
    save_->state = save_->temporary / kStateName;
    settle([&] { take(tensors); });
    if (options_.async) begin_phase();
    stall_ = seconds_since(called_);
    return earlier;
  }

  std::optional<SaveReport> poll() {
    if (!save_ || !options_.async) return std::nullopt;
    called_ = Clock::now();
    // Storage that keeps up has ended the phase by the first poll after it began: that one asks at
    // once, as the sums that end a step do. Slower storage is not worth waiting for other ranks
    // at each step: what they say at one poll is looked at in the next.
    const auto least = save_->polls++ == 0 ? least_progress() : least_before();
    if (least == Progress::kRunning) {
      later_->give(static_cast<std::int64_t>(progress()));
    } else {
      if (auto report = end_phase(least == Progress::kDone)) return report;
      begin_phase();
    }
    stall_ += seconds_since(called_);
    return std::nullopt;
  }

  std::optional<SaveReport> finish() {
    if (!save_) return std::nullopt;
    called_ = Clock::now();
    if (options_.async) {
      if (later_->given()) later_->take();
      least_progress();
    } else {
      begin_phase();
    }
    while (true) {
      if (auto report = end_phase()) return report;
      begin_phase();
    }
  }

 private:
  // What one save has of its own.
  struct Save {
    Save(CheckpointInfo i, Clock::time_point b, std::string w)
        : info(std::move(i)), begin(b), what(std::move(w)) {}
    const FileSizeSignalIgnored ignored;
    const CheckpointInfo info;
    const Clock::time_point begin;
    const std::string what;
    fs::path temporary, state;
    std::vector<TensorRecord> tensors;
    SaveReport report;
    std::int64_t phase = kLayout;  // begun, not ended
    bool committed = false, prunes = true;
    int polls = 0;  // since the phase began
    double copy_seconds = 0;
    // The task's while it runs.
    std::array<double, kEnd> seconds{};  // of each phase on this rank
    std::vector<std::string> digests;    // of this rank's chunks; on rank 0 at last of all
    std::optional<Publication> publication;
  };

  bool copies() const { return options_.async && !options_.stable; }

  // Collective calls follow the list: it must be the same everywhere.
  void plan(std::span<const TensorRecord> tensors, const std::string& what) {
    std::string text = fmt::format("{}\n{}", directory_.string(), what);
    std::string list;
    for (const auto& tensor : tensors) {
      list += fmt::format("\n{} {} {}", tensor.name, dtype_name(tensor.dtype),
                          shape_text(tensor.shape));
    }
    const auto mine = digest_of_text(text + list);
    const auto roots = comm::broadcast(*group_, mine, 0);
    comm::together(*group_, [&] {
      PG_ASSERT(mine == roots, "{} at {}: another list of {} tensors than on rank 0", what,
                directory_.string(), tensors.size());
    });
    check_owners(*group_, tensors);
    auto planned = digest_of_text(list);
    if (planned == planned_) return;
    needed_ = checkpoint_bytes(tensors, options_.alignment);
    comm::together(*group_, [&] {
      attempt(what, [&] {
        if (root_) layout_ = make_layout(directory_ / kStateName, tensors, options_.alignment);
      });
    });
    layout_.offsets.resize(tensors.size());
    group_->broadcast({layout_.offsets.data(), layout_.offsets.size(), DType::kI64}, 0).wait();
    group_->broadcast({&layout_.size, 1, DType::kI64}, 0).wait();
    planned_ = std::move(planned);
  }

  // No word to storage, which may be slow: only the file that MPI-IO must make, since MPI is not
  // for the thread.
  void take(std::span<const TensorRecord> tensors) {
    attempt(save_->what, [&] {
      if (root_ && !options_.hints.empty()) {
        make_directories();
        create_with_hints(save_->state, options_.hints);
      }
      if (copies()) {
        save_->tensors = copy_.take(tensors);
      } else {
        save_->tensors.assign(tensors.begin(), tensors.end());
      }
    });
    save_->copy_seconds = seconds_since(save_->begin) - save_->report.waited_seconds;
  }

  void make_directories() {
    make_lasting_directory(directory_);
    remove_leftovers(directory_);
    std::error_code error;
    if (!fs::create_directory(save_->temporary, error)) {
      throw fail(ExitCode::kSave, "{}: cannot be made: {}", save_->temporary.string(),
                 error ? error.message() : "it exists");
    }
  }

  void begin_phase() {
    const auto work = [this] {
      const auto begin = Clock::now();
      attempt(save_->what, [&] { run_phase(); });
      save_->seconds[static_cast<std::size_t>(save_->phase)] = seconds_since(begin);
    };
    save_->polls = 0;
    if (!options_.async) return task_.run(work);
    try {
      task_.start(work);
    } catch (const std::system_error& error) {
      // Of this rank alone: what ends the save on all of them is the task's failure.
      task_.run([&] {
        throw Error(ExitCode::kSave,
                    described(save_->what, fmt::format("no thread for it: {}", error.what())));
      });
    }
  }

  void run_phase() {
    const auto between = [this] {
      if (cancel_) throw Cancelled{};
    };
    between();
    switch (save_->phase) {
      case kLayout:
        reach("layout");
        if (!root_) return;
        if (options_.hints.empty()) make_directories();
        return lay_out_state(save_->state, layout_);
      case kWrite:
        write_owned(
            save_->state, layout_.offsets, save_->tensors, [&] { reach("data"); }, between);
        // Every rank: its own node holds the pages that it wrote.
        reach("sync");
        sync_owned(save_->state, layout_.offsets, save_->tensors, between);
        if (!options_.verify) return;
        reach("verify");
        return verify_owned(save_->state, layout_.offsets, save_->tensors, between);
      case kDigest: {
        reach("digest");
        if (root_) check_metadata(save_->state, layout_);
        const auto chunks = chunk_count(layout_.size);
        const auto first = chunks * group_->rank() / group_->size();
        const auto end = chunks * (group_->rank() + 1) / group_->size();
        save_->digests = chunk_digests(save_->state, first, end - first, ExitCode::kSave);
        return;
      }
      case kCommit:
        if (root_) {
          describe_entry(save_->temporary, save_->info, layout_.size, std::move(save_->digests));
        }
        reach("publish");
        if (root_) save_->publication.emplace(save_->temporary, save_->report.path);
        reach("published");
        if (root_) sync_path(directory_);
        return;
      default:
        if (!root_) return;
        save_->publication->finish();
        if (!save_->prunes) return;
        save_->report.warnings = prune_checkpoints(
            directory_, {options_.keep, options_.keep_every, save_->info.step}, observer_);
    }
  }

  Progress progress() const {
    if (task_.failed()) return Progress::kFailed;
    return task_.done() ? Progress::kDone : Progress::kRunning;
  }
  // Collective: now, and at the last poll. Where a rank has failed, the others stop at their next
  // piece.
  Progress least_progress() {
    return heed(
        comm::all_reduce(*group_, static_cast<std::int64_t>(progress()), comm::ReduceOp::kMin));
  }
  Progress least_before() { return heed(later_->take()); }
  Progress heed(std::int64_t least) {
    if (static_cast<Progress>(least) == Progress::kFailed) cancel_ = true;
    return static_cast<Progress>(least);
  }

  // Waits for the phase on all ranks, of which the caller may know that it is `done`. The report
  // after the last one.
  std::optional<SaveReport> end_phase(bool done = false) {
    if (done) {
      task_.take();
    } else {
      settle([&] {
        try {
          task_.take();
        } catch (const Cancelled&) {  // another rank has the reason
        }
      });
    }
    if (save_->phase == kDigest) gather_digests();
    if (save_->phase == kCommit) {
      save_->committed = true;
      save_->report.seconds = seconds_since(save_->begin) - save_->report.waited_seconds;
    }
    if (++save_->phase < kEnd) return std::nullopt;
    auto report = std::move(save_->report);
    std::array<double, 4 + kEnd> most{stall_ + seconds_since(called_), report.seconds,
                                      report.waited_seconds, save_->copy_seconds};
    // A phase is as long as on its slowest rank, and another rank may be the slowest in the next.
    std::copy(save_->seconds.begin(), save_->seconds.end(), most.begin() + 4);
    save_.reset();
    group_->all_reduce({most.data(), most.size(), DType::kF64}, comm::ReduceOp::kMax).wait();
    report.stall_seconds = most[0];
    report.seconds = most[1];
    report.waited_seconds = most[2];
    report.work_seconds = std::accumulate(most.begin() + 3, most.end(), 0.0);
    return report;
  }

  void gather_digests() {
    const auto of_ranks = comm::all_gather(*group_, joined(save_->digests, ""));
    constexpr std::size_t kDigits = 32;
    save_->digests.clear();
    for (const auto& text : of_ranks) {
      for (std::size_t at = 0; at < text.size(); at += kDigits) {
        save_->digests.push_back(text.substr(at, kDigits));
      }
    }
  }

  // A failure of any rank ends the save on all.
  void settle(const std::function<void()>& work) {
    try {
      comm::together(*group_, work);
    } catch (...) {
      forget();
      throw;
    }
  }

  // Of a save that failed or is abandoned nothing stays, unless it counts already.
  void forget() noexcept {
    cancel_ = true;
    task_.forget();
    cancel_ = false;
    if (root_ && save_->committed) save_->publication->finish();
    if (root_ && !save_->committed) {
      if (save_->publication) save_->publication->undo();
      remove_tree(save_->temporary);
    }
    save_.reset();
  }

  void reach(std::string_view phase) const {
    if (observer_) observer_(phase);
  }

  // Whatever fails in `work` is a failed save, bugs and values that are not finite excepted.
  void attempt(const std::string& what, const std::function<void()>& work) const {
    try {
      work();
    } catch (const Error& error) {
      const std::string_view text = error.what();
      if (error.code() == ExitCode::kBug || text.starts_with(what)) throw;
      if (error.code() == ExitCode::kNumerical) {
        throw fail(ExitCode::kNumerical, "{}: {}", what, text);
      }
      throw Error(ExitCode::kSave, described(what, text));
    } catch (const fs::filesystem_error& error) {
      throw Error(ExitCode::kSave, described(what, error.what()));
    }
  }

  std::string described(std::string_view what, std::string_view why) const {
    const auto free = free_bytes(directory_);
    return fmt::format("{} failed ({} needed, {} free): {}", what, readable_bytes(needed_),
                       free < 0 ? "unknown" : readable_bytes(free), why);
  }

  const std::unique_ptr<comm::Group> group_;
  const bool root_;
  const fs::path directory_;
  const SaveOptions options_;
  const SaveObserver observer_;
  const std::string process_;  // rank 0's
  std::optional<comm::LaterMin> later_;
  StateCopy copy_;
  std::string planned_;  // digest of the list that layout_ is of
  StateLayout layout_;   // its metadata on rank 0 only
  std::int64_t needed_ = 0;
  double stall_ = 0;
  Clock::time_point called_;
  std::atomic<bool> cancel_{false};
  std::unique_ptr<Save> save_;
  BackgroundTask task_;  // the first to go: it uses the rest
};

CheckpointSaver::CheckpointSaver(const comm::Communicator& world, fs::path directory,
                                 SaveOptions options, SaveObserver observer)
    : engine_(std::make_unique<Engine>(world, std::move(directory), std::move(options),
                                       std::move(observer))) {}
CheckpointSaver::~CheckpointSaver() = default;

void CheckpointSaver::prepare(std::span<const TensorRecord> tensors) {
  engine_->prepare(tensors);
}
std::optional<SaveReport> CheckpointSaver::start(const CheckpointInfo& info,
                                                 std::span<const TensorRecord> tensors,
                                                 bool prune) {
  return engine_->start(info, tensors, prune);
}
std::optional<SaveReport> CheckpointSaver::poll() {
  return engine_->poll();
}
std::optional<SaveReport> CheckpointSaver::finish() {
  return engine_->finish();
}
bool CheckpointSaver::pending() const {
  return engine_->pending();
}

}  // namespace pg::io

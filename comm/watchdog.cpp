#include "comm/watchdog.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <optional>
#include <thread>
#include <utility>

#include "comm/activity.h"
#include "comm/agree.h"
#include "comm/error.h"
#include "comm/hang_report.h"
#include "comm/heartbeat.h"
#include "comm/quiet_thread.h"

namespace pg::comm {

namespace fs = std::filesystem;

namespace {

using Clock = std::chrono::steady_clock;

double seconds_between(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

// Heartbeats are a few an interval of the limit, and neither a load on storage nor on a core.
double beat_seconds(double limit) {
  return std::clamp(limit / 10, 0.2, 10.0);
}

// How late a beat may return before storage counts as hung, beyond the limit.
constexpr int kLateBeats = 4;
constexpr double kTimeToPrint = 5;  // s; standard error may be a file on that storage

// On a machine with more to do than cores a thread may come late by this much.
constexpr double kLeastSilence = 2;  // s

std::optional<std::string> read_all(const fs::path& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (fd < 0) return {};
  std::string text;
  std::array<char, 4096> part{};
  for (;;) {
    const auto n = ::read(fd, part.data(), part.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    text.append(part.data(), static_cast<std::size_t>(n));
  }
  ::close(fd);
  return text;
}

}  // namespace

class Watchdog::Monitor {
 public:
  Monitor(WatchdogOptions options, std::vector<int> job_ranks, int me)
      : options_(std::move(options)),
        folder_(options_.run_output / ".watchdog"),
        rank_(job_ranks[static_cast<std::size_t>(me)]),
        beat_s_(beat_seconds(options_.limit_s)),
        silent_s_(std::max({options_.limit_s / 2, 3 * beat_s_, kLeastSilence})) {
    for (const int rank : job_ranks) seen_.emplace_back().view.rank = rank;
  }
  Monitor(const Monitor&) = delete;
  Monitor& operator=(const Monitor&) = delete;
  ~Monitor() {
    thread_.stop();
    guard_.stop();  // the last to go: it sees that the other one ends
    if (fd_ < 0) return;
    ::close(fd_);
    ::unlink(file_of(rank_).c_str());
    ::rmdir(folder_.c_str());  // succeeds for the last rank
  }

  // Of one rank: a folder without what an earlier job left.
  void empty_folder() const {
    std::error_code error;
    fs::remove_all(folder_, error);
    if (!error) fs::create_directories(folder_, error);
    if (error) throw refused(error.message());
  }

  void first_beat() {
    if (!open_file() || !beat(0)) throw refused(std::strerror(errno));
  }

  void start() {
    thread_.start(beat_s_, [this](double late_s) {
      ++turns_;  // odd: within a turn
      try {
        tick(late_s);
      } catch (...) {
        ++turns_;
        throw;
      }
      ++turns_;
    });
    guard_.start(beat_s_, [this](double late_s) { guard(late_s); });
  }

 private:
  struct Seen {
    RankView view;
    Clock::time_point changed;  // when its beat was first seen as it is
  };

  Error refused(const std::string& why) const {
    return fail(ExitCode::kSave, "run.output: {} cannot take the files of run.watchdog: {}",
                folder_.string(), why);
  }
  fs::path file_of(int rank) const { return folder_ / fmt::format("rank-{}", rank); }

  bool open_file() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = ::open(file_of(rank_).c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    return fd_ >= 0;
  }

  // Somebody may have cleared the folder: a rank without a file would count as gone.
  bool file_is_there() const {
    struct stat open {
    }, named{};
    return fd_ >= 0 && ::fstat(fd_, &open) == 0 && ::stat(file_of(rank_).c_str(), &named) == 0 &&
           open.st_ino == named.st_ino && open.st_dev == named.st_dev;
  }

  bool beat(double idle) {
    const auto text = heartbeat_text(current_heartbeat(rank_, ++beats_, idle));
    // Synced: NFS keeps what is written to an open file for half a minute and more.
    return ::pwrite(fd_, text.data(), text.size(), 0) == static_cast<ssize_t>(text.size()) &&
           ::fdatasync(fd_) == 0;
  }

  void tick(double late_s) {
    const auto now = Clock::now();
    const auto progress = progress_count();
    // A thread that slept for much longer than it meant to was stopped, and its process with it.
    const bool stopped = late_s > std::max(2 * beat_s_, 1.0);
    if (progress != progress_ || stopped || beats_ <= 1) {
      progress_ = progress;
      since_ = now;
      watching_ = false;
    }
    const double idle = seconds_between(since_, now);
    if (!file_is_there()) {
      std::error_code ignored;
      fs::create_directories(folder_, ignored);
      open_file();
    }
    beat(idle);
    if (idle < options_.limit_s / 2) return;
    look(now);
    if (idle < options_.limit_s || !nobody_comes_on(now)) {
      agreed_ = 0;
    } else if (++agreed_ >= 2) {  // what was read before may have been on its way
      alarm(idle);
    }
  }

  // Touches no file.
  void guard(double late_s) {
    const auto now = Clock::now();
    const auto turns = turns_.load();
    const auto progress = progress_count();
    const bool stopped = late_s > std::max(2 * beat_s_, 1.0);
    if (turns % 2 == 0 || turns != guarded_turns_ || progress != guarded_progress_ || stopped) {
      guarded_turns_ = turns;
      guarded_progress_ = progress;
      guarded_since_ = now;
    }
    const double idle = seconds_between(guarded_since_, now);
    if (idle < options_.limit_s + std::max(kLateBeats * beat_s_, kLeastSilence)) return;
    RankView own{.rank = rank_, .last = current_heartbeat(rank_, 0, idle)};
    std::thread([report = fmt::format("run.watchdog: {} did not answer for {:.0f} s\n",
                                      folder_.string(), idle) +
                          hang_report({std::move(own)}, idle)] {
      write_all(STDERR_FILENO, report);
      ::_exit(static_cast<int>(ExitCode::kComm));
    }).detach();
    std::this_thread::sleep_for(std::chrono::duration<double>(kTimeToPrint));
    ::_exit(static_cast<int>(ExitCode::kComm));
  }

  // Others' clocks are not ours: what counts is for how long we saw no change.
  void look(Clock::time_point now) {
    for (auto& seen : seen_) {
      auto& [view, changed] = seen;
      if (!watching_) changed = now;
      const auto text = read_all(file_of(view.rank));
      auto heartbeat = text ? parse_heartbeat(*text) : std::nullopt;
      if (heartbeat) {
        if (!view.last || view.last->beat != heartbeat->beat) changed = now;
        view.last = std::move(heartbeat);
      }
      view.silent_s = seconds_between(changed, now);
      view.silent = view.silent_s >= silent_s_;
    }
    watching_ = true;
  }

  bool nobody_comes_on(Clock::time_point) const {
    return std::ranges::all_of(seen_, [&](const Seen& seen) {
      const auto& view = seen.view;
      if (view.silent || view.rank == rank_) return true;
      return view.last && view.last->idle_s >= options_.limit_s - beat_s_;
    });
  }

  // The first one to make the file speaks for all. The others leave time for that: once a rank has
  // ended, the launcher kills the rest.
  [[noreturn]] void alarm(double idle) {
    const auto claim = folder_ / "report";
    const int fd = ::open(claim.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd >= 0 || errno != EEXIST) {
      std::vector<RankView> views;
      for (const auto& seen : seen_) views.push_back(seen.view);
      const auto report = hang_report(views, idle);
      write_all(STDERR_FILENO, report);
      if (options_.report) options_.report(hang_headline(views, idle));
      write_all(fd, "said\n" + report);
    } else {
      for (int tenths = 0; tenths < 20; ++tenths) {
        const auto text = read_all(claim);
        if (text && text->starts_with("said")) break;
        ::usleep(100'000);
      }
    }
    ::_exit(static_cast<int>(ExitCode::kComm));
  }

  static void write_all(int fd, std::string_view text) {
    while (fd >= 0 && !text.empty()) {
      const auto n = ::write(fd, text.data(), text.size());
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) return;
      text.remove_prefix(static_cast<std::size_t>(n));
    }
  }

  WatchdogOptions options_;
  fs::path folder_;
  int rank_;
  double beat_s_, silent_s_;
  int fd_ = -1;
  std::uint64_t beats_ = 0, progress_ = 0;
  Clock::time_point since_ = Clock::now();  // of the last progress
  bool watching_ = false;                   // `seen_` is of this standstill
  int agreed_ = 0;                          // looks in a row that found nobody coming on
  std::vector<Seen> seen_;
  // Of the thread that touches files, and what the other one saw of it last.
  std::atomic<std::uint64_t> turns_{0};
  std::uint64_t guarded_turns_ = 0, guarded_progress_ = 0;
  Clock::time_point guarded_since_;
  QuietThread thread_, guard_;
};

Watchdog::Watchdog(Group& world, std::vector<int> job_ranks, WatchdogOptions options)
    : monitor_(std::make_unique<Monitor>(std::move(options), std::move(job_ranks), world.rank())) {
  together(world, [&] {
    if (world.rank() == 0) monitor_->empty_folder();
  });
  together(world, [&] { monitor_->first_beat(); });
  monitor_->start();
}

Watchdog::~Watchdog() = default;

}  // namespace pg::comm

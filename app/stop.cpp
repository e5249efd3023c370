#include "app/stop.h"

#include <fmt/format.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <string_view>

#include "app/stop_signals.h"
#include "comm/mpi_session.h"

namespace pg::app {

namespace {

// Of several reasons the last of these is named: a batch script goes on after a signal or at a
// limit, and not after somebody's wish.
enum Kind { kNothing, kStopAfter, kWallLimit, kSignal, kStopFile };

// Steps and saves vary; 1.25 covers what is usual on a shared file system.
constexpr double kMargin = 1.25;
// Steps whose longest counts: the first of a slice is slow, and is forgotten after so many.
constexpr std::size_t kRecent = 32;

}  // namespace

Stop::Stop(const Deck& deck, comm::Group& world, const std::filesystem::path& output,
           std::chrono::steady_clock::time_point started, Say say)
    : stop_after_(deck.run.stop_after),
      world_(world),
      file_(output / "stop"),
      say_(std::move(say)),
      time_(world.rank() == 0 ? TimeLeft(deck.run.wall_limit, started, say_) : TimeLeft()) {
  // A requeued job's script has looked for one already: it was made since.
  const char* requeued = std::getenv("SLURM_RESTART_COUNT");
  const bool is_new = requeued != nullptr && std::string_view(requeued) != "0";
  if (world.rank() == 0 && !is_new && take_stop_file()) {
    say_(fmt::format("note: {} was there before the run began: removed, not obeyed\n",
                     file_.string()));
  }
}

bool Stop::take_stop_file() {
  std::error_code error;
  if (!std::filesystem::remove(file_, error) && !error) return false;
  if (error) {
    // What cannot be looked at is not there; what cannot be removed would stop the next start too.
    std::error_code ignored;
    if (!std::filesystem::exists(file_, ignored)) return false;
    say_(fmt::format("warning: {} cannot be removed: {}\n", file_.string(), error.message()));
  }
  return true;
}

Stop::Wish Stop::wall_limit_wish(double seconds, const char* what) {
  const auto left = time_.seconds();
  const double needed = kMargin * seconds + time_.leave_seconds();
  if (!left || *left >= needed) return {};
  return {kWallLimit, fmt::format("{}: {:.1f} s left, {:.1f} s needed for {}, a save and leaving",
                                  time_.source(), std::max(*left, 0.0), needed, what)};
}

// Of somebody, by a signal or the file.
Stop::Wish Stop::asked_wish() {
  if (world_.rank() == 0 && take_stop_file()) {
    return {kStopFile, fmt::format("file {}", file_.string())};
  }
  if (const int signal = stop_signal(); signal != 0) {
    return {kSignal, fmt::format("{} on rank {} ({})", signal == SIGTERM ? "SIGTERM" : "SIGUSR1",
                                 world_.rank(), comm::host_name())};
  }
  return {};
}

// The kind, and among equals the lowest rank: one number decides.
std::string Stop::agree(const Wish& mine) {
  const std::int64_t size = world_.size();
  const auto number = mine.kind == kNothing ? 0 : mine.kind * size + (size - 1 - world_.rank());
  const auto agreed = comm::all_reduce(world_, number, comm::ReduceOp::kMax);
  if (agreed < size) return "";
  const auto speaker = static_cast<int>(size - 1 - agreed % size);
  return comm::broadcast(world_, mine.why, speaker);
}

std::string Stop::agreed(std::int64_t step, const Ahead& ahead) {
  if (ahead.step > 0) {
    recent_.push_back(ahead.step);
    if (recent_.size() > kRecent) recent_.pop_front();
  }
  auto wish = asked_wish();
  if (wish.kind == kNothing && !recent_.empty()) {
    const double longest = *std::max_element(recent_.begin(), recent_.end());
    wish = wall_limit_wish((ahead.save_due ? 2 : 1) * ahead.save + longest + ahead.evaluation,
                           "a step");
  }
  if (wish.kind == kNothing && world_.rank() == 0 && stop_after_ > 0 && step >= stop_after_) {
    wish = {kStopAfter, fmt::format("run.stop_after = {}", stop_after_)};
  }
  return agree(wish);
}

std::string Stop::agreed_in_evaluation(double save_seconds, double batch_seconds) {
  auto wish = asked_wish();
  if (wish.kind == kNothing) {
    wish = wall_limit_wish(save_seconds + batch_seconds, "a batch of the evaluation");
  }
  return agree(wish);
}

}  // namespace pg::app

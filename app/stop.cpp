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

Stop::Wish Stop::wall_limit_wish(const Ahead& ahead) {
  const auto left = time_.seconds();
  if (!left || recent_.empty()) return {};
  const double step = *std::max_element(recent_.begin(), recent_.end());
  const double needed =
      kMargin * ((ahead.save_due ? 2 : 1) * ahead.save + step + ahead.evaluation) +
      time_.leave_seconds();
  if (*left >= needed) return {};
  return {kWallLimit, fmt::format("{}: {:.1f} s left, {:.1f} s needed for a step, a save and "
                                  "leaving",
                                  time_.source(), std::max(*left, 0.0), needed)};
}

Stop::Wish Stop::own_wish(std::int64_t step, const Ahead& ahead) {
  if (world_.rank() == 0 && take_stop_file()) {
    return {kStopFile, fmt::format("file {}", file_.string())};
  }
  if (const int signal = stop_signal(); signal != 0) {
    return {kSignal, fmt::format("{} on rank {} ({})", signal == SIGTERM ? "SIGTERM" : "SIGUSR1",
                                 world_.rank(), comm::host_name())};
  }
  if (world_.rank() != 0) return {};
  if (auto wish = wall_limit_wish(ahead); wish.kind != kNothing) return wish;
  if (stop_after_ > 0 && step >= stop_after_) {
    return {kStopAfter, fmt::format("run.stop_after = {}", stop_after_)};
  }
  return {};
}

std::string Stop::agreed(std::int64_t step, const Ahead& ahead) {
  if (ahead.step > 0) {
    recent_.push_back(ahead.step);
    if (recent_.size() > kRecent) recent_.pop_front();
  }
  const auto wish = own_wish(step, ahead);
  // The kind, and among equals the lowest rank: one number decides.
  const std::int64_t size = world_.size();
  const auto mine = wish.kind == kNothing ? 0 : wish.kind * size + (size - 1 - world_.rank());
  const auto agreed = comm::all_reduce(world_, mine, comm::ReduceOp::kMax);
  if (agreed < size) return "";
  const auto speaker = static_cast<int>(size - 1 - agreed % size);
  return comm::broadcast(world_, wish.why, speaker);
}

}  // namespace pg::app

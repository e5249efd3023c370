#include "app/time_left.h"

#include <fmt/format.h>

#include <charconv>
#include <cstdlib>
#include <ctime>
#include <limits>

namespace pg::app {

namespace {

constexpr std::chrono::seconds kFirstPatience(5), kGiveUp(30);
constexpr double kDay = 86400;

std::optional<std::int64_t> number(std::string_view text) {
  std::int64_t value = 0;
  const auto* end = text.data() + text.size();
  const auto [at, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || at != end || text.empty() || value < 0) return std::nullopt;
  return value;
}

std::string variable(const char* name) {
  const char* text = std::getenv(name);
  return text == nullptr ? "" : text;
}

TimeLeft::Clock::time_point after(TimeLeft::Clock::time_point begin, double seconds) {
  return begin + std::chrono::duration_cast<TimeLeft::Clock::duration>(
                     std::chrono::duration<double>(seconds));
}

// An element of an array has a name of its own. Its number will not do: that of the last element is
// that of the whole array, and squeue then answers for all of them.
std::string slurm_job() {
  const auto array = variable("SLURM_ARRAY_JOB_ID"), element = variable("SLURM_ARRAY_TASK_ID");
  return array.empty() || element.empty() ? variable("SLURM_JOB_ID") : array + "_" + element;
}

// SLURM_JOB_END_TIME: seconds since 1970.
std::optional<double> end_time_left() {
  const auto end = number(variable("SLURM_JOB_END_TIME"));
  if (!end || *end == 0) return std::nullopt;
  return static_cast<double>(*end) - static_cast<double>(std::time(nullptr));
}

}  // namespace

std::optional<double> parse_time_left(std::string_view text) {
  const auto blank = [](char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; };
  while (!text.empty() && blank(text.front())) text.remove_prefix(1);
  while (!text.empty() && blank(text.back())) text.remove_suffix(1);
  if (text == "UNLIMITED") return std::numeric_limits<double>::infinity();

  double days = 0;
  const auto dash = text.find('-');
  const bool has_days = dash != text.npos;
  if (has_days) {
    const auto count = number(text.substr(0, dash));
    if (!count) return std::nullopt;
    days = static_cast<double>(*count);
    text.remove_prefix(dash + 1);
  }
  double seconds = 0;
  int parts = 0;
  for (bool more = true; more; ++parts) {
    const auto colon = text.find(':');
    more = colon != text.npos;
    const auto part = number(text.substr(0, colon));
    if (!part) return std::nullopt;
    seconds = seconds * 60 + static_cast<double>(*part);
    if (more) text.remove_prefix(colon + 1);
  }
  if (parts > 3 || (has_days && parts != 3)) return std::nullopt;
  return days * kDay + seconds;
}

TimeLeft::TimeLeft(std::int64_t wall_limit, Clock::time_point started, const Say& say,
                   Clock::duration ask_every)
    : ask_every_(ask_every) {
  if (wall_limit > 0) {
    end_ = started + std::chrono::seconds(wall_limit);
    source_ = fmt::format("run.wall_limit = {}", wall_limit);
    return;
  }
  job_ = slurm_job();
  if (job_.empty()) return;
  source_ = fmt::format("the time limit of Slurm job {}", job_);
  ask();
  const auto answer = question_->output(kFirstPatience);
  question_.reset();
  if (answer && parse_time_left(*answer)) {
    take(*answer);
    return;
  }
  const auto why = !answer           ? "squeue does not answer"
                   : answer->empty() ? "squeue cannot be asked"
                                     : "squeue's answer is no time";
  if (const auto end = end_time_left()) {
    end_ = after(Clock::now(), *end);
    say(fmt::format("note: {}: the job's limit is taken from SLURM_JOB_END_TIME\n", why));
    return;
  }
  say(
      fmt::format("warning: {}: the time limit of Slurm job {} is not known, and the run does not "
                  "stop ahead of it (legal: run.wall_limit)\n",
                  why, job_));
}

void TimeLeft::ask() {
  asked_ = Clock::now();
  question_ = std::make_unique<BackgroundCommand>(
      std::vector<std::string>{"squeue", "-h", "-j", job_, "-o", "%L"});
}

// An answer that is no time changes nothing: what was known still counts.
void TimeLeft::take(const std::string& answer) {
  const auto left = parse_time_left(answer);
  if (!left) return;
  // From when it was asked: the answer may have waited for a whole step to be read.
  end_ = *left < 1e9 ? after(asked_, *left) : Clock::time_point::max();
}

std::optional<double> TimeLeft::seconds() {
  const auto now = Clock::now();
  if (question_) {
    if (const auto answer = question_->output({})) {
      take(*answer);
      question_.reset();
    } else if (now - asked_ > kGiveUp) {
      question_.reset();
    }
  } else if (!job_.empty() && now - asked_ > ask_every_) {
    ask();
  }
  if (end_ == Clock::time_point::max()) return std::nullopt;
  return std::chrono::duration<double>(end_ - now).count();
}

}  // namespace pg::app

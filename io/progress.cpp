#include "io/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <system_error>
#include <utility>

namespace pg::io {

namespace {

std::string remaining(double seconds) {
  const auto s = std::llround(seconds);
  if (s >= 3600) return fmt::format("{} h {:02} min left", s / 3600, s / 60 % 60);
  if (s >= 60) return fmt::format("{} min {:02} s left", s / 60, s % 60);
  return fmt::format("{} s left", s);
}

int columns(std::FILE* out) {
  winsize size{};
  if (::ioctl(::fileno(out), TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
  return size.ws_col;
}

}  // namespace

bool watched_terminal(std::FILE* out) {
  if (::isatty(::fileno(out)) != 1) return false;
  if (std::getenv("OMPI_COMM_WORLD_SIZE") == nullptr) return true;
  // Where the parent is mpirun itself (on other hosts it is a daemon without a terminal).
  std::error_code error;
  const auto target =
      std::filesystem::read_symlink(fmt::format("/proc/{}/fd/1", ::getppid()), error).string();
  return !error && (target.starts_with("/dev/pts/") || target.starts_with("/dev/tty"));
}

Progress::Progress(std::string label, std::int64_t total, std::FILE* out)
    : label_(std::move(label)), total_(total), out_(out), terminal_(watched_terminal(out)) {}

Progress::~Progress() {
  if (!drawn_) return;
  fmt::print(out_, "\r\x1b[K");
  std::fflush(out_);
}

void Progress::update(std::int64_t done) {
  if (!terminal_) return;
  const auto now = Clock::now();
  if (drawn_ && now - last_ < std::chrono::milliseconds(100)) return;
  last_ = now;
  drawn_ = true;
  const double fraction =
      total_ > 0 ? static_cast<double>(done) / static_cast<double>(total_) : -1.0;
  const double elapsed = std::chrono::duration<double>(now - start_).count();
  fmt::print(out_, "\r{}\x1b[K", line(label_, fraction, elapsed, columns(out_) - 1));
  std::fflush(out_);
}

std::string Progress::line(const std::string& label, double fraction, double elapsed_s, int width) {
  if (fraction < 0) return label.substr(0, static_cast<std::size_t>(std::max(width, 0)));
  fraction = std::min(fraction, 1.0);
  constexpr int kBar = 30;
  const int full = static_cast<int>(fraction * kBar);
  // An estimate from the first moments would jump about.
  const bool known = fraction > 0.01 || (fraction > 0 && elapsed_s > 5);
  auto text = fmt::format("{} [{}{}] {:3.0f}%", label, std::string(full, '#'),
                          std::string(kBar - full, '.'), 100 * fraction);
  if (known) text += "  " + remaining(elapsed_s / fraction * (1 - fraction));
  return text.substr(0, static_cast<std::size_t>(std::max(width, 0)));
}

}  // namespace pg::io

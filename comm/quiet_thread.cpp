#include "comm/quiet_thread.h"

#include <csignal>
#include <exception>
#include <utility>

namespace pg::comm {

void QuietThread::start(double seconds, std::function<void(double late)> tick) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);  // which a new thread inherits
  thread_ = std::thread([this, seconds, tick = std::move(tick)] {
    run(std::chrono::duration<double>(seconds), tick);
  });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void QuietThread::stop() {
  if (!thread_.joinable()) return;
  {
    const std::scoped_lock lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

void QuietThread::run(std::chrono::duration<double> pause,
                      const std::function<void(double)>& tick) {
  using Clock = std::chrono::steady_clock;
  for (;;) {
    const auto due = Clock::now() + std::chrono::duration_cast<Clock::duration>(pause);
    {
      std::unique_lock lock(mutex_);
      if (wake_.wait_until(lock, due, [this] { return stop_; })) return;
    }
    // Of no use to anyone where it fails now and then (no memory); the next one may not.
    try {
      tick(std::chrono::duration<double>(Clock::now() - due).count());
    } catch (const std::exception&) {
      continue;
    }
  }
}

}  // namespace pg::comm

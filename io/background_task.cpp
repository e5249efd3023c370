#include "io/background_task.h"

#include <csignal>
#include <utility>

#include "comm/error.h"

namespace pg::io {

namespace {

// Signals of the job are for the thread that steps; faults stay where they happen.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP}) {
      sigdelset(&all, fault);
    }
    pthread_sigmask(SIG_BLOCK, &all, &before_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t before_;
};

}  // namespace

void BackgroundTask::start(std::function<void()> work) {
  PG_ASSERT(!thread_.joinable() && failure_ == nullptr, "the last outcome was not taken");
  done_.store(false, std::memory_order_relaxed);
  const SignalsBlocked blocked;  // a thread inherits the mask
  try {
    thread_ = std::thread([this, work = std::move(work)] {
      try {
        work();
      } catch (...) {
        failure_ = std::current_exception();
      }
      done_.store(true, std::memory_order_release);
    });
  } catch (...) {
    done_.store(true, std::memory_order_relaxed);
    throw;
  }
}

void BackgroundTask::run(const std::function<void()>& work) {
  PG_ASSERT(!thread_.joinable() && failure_ == nullptr, "the last outcome was not taken");
  try {
    work();
  } catch (...) {
    failure_ = std::current_exception();
  }
}

void BackgroundTask::wait() {
  if (thread_.joinable()) thread_.join();
}

void BackgroundTask::take() {
  wait();
  if (auto failure = std::exchange(failure_, nullptr)) std::rethrow_exception(failure);
}

void BackgroundTask::forget() noexcept {
  wait();
  failure_ = nullptr;
}

}  // namespace pg::io

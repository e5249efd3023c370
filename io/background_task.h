// One piece of work at a time, in a thread beside the caller's or in the caller's own: who asks for
// the outcome sees no difference.
#pragma once

#include <atomic>
#include <exception>
#include <functional>
#include <thread>

namespace pg::io {

class BackgroundTask {
 public:
  BackgroundTask() = default;
  BackgroundTask(const BackgroundTask&) = delete;
  BackgroundTask& operator=(const BackgroundTask&) = delete;
  ~BackgroundTask() { forget(); }

  // Neither before the outcome of the last one was taken. start: in a thread that signals leave
  // alone; std::system_error when there is none to be had, and then nothing has begun.
  void start(std::function<void()> work);
  void run(const std::function<void()>& work);  // here and now

  // Of the work begun last; any time.
  bool done() const { return done_.load(std::memory_order_acquire); }
  bool failed() const { return done() && failure_ != nullptr; }
  // Its end; keeps the outcome.
  void wait();
  // Waits, and throws what the work threw.
  void take();
  // Waits; the outcome is nobody's.
  void forget() noexcept;

 private:
  std::thread thread_;
  std::atomic<bool> done_{true};
  std::exception_ptr failure_;  // written before done_, read after it
};

}  // namespace pg::io

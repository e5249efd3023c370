// A thread that does something short every so often beside the one that calls MPI, and takes none
// of the process's signals: those are the main thread's. What it runs calls neither MPI nor HDF5.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

namespace pg::comm {

class QuietThread {
 public:
  QuietThread() = default;
  ~QuietThread() { stop(); }
  QuietThread(const QuietThread&) = delete;
  QuietThread& operator=(const QuietThread&) = delete;

  // Calls `tick(late)` every `seconds` until stop(): `late` seconds after it was due. One that
  // throws is passed over.
  void start(double seconds, std::function<void(double late)> tick);
  void stop();  // waits for a tick in progress

 private:
  void run(std::chrono::duration<double> pause, const std::function<void(double)>& tick);

  std::mutex mutex_;
  std::condition_variable wake_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace pg::comm

// Streams, events and copies of the simulated GPU.
#include "tests/simulated_gpu/streams.h"

#include <sched.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "tests/simulated_gpu/memory.h"

namespace pg::simulated {

namespace {

// How often an event was recorded, and which of these records the GPU has passed. Shared with the
// work that refers to it: an event may be destroyed first.
struct EventState {
  std::uint64_t recorded = 0, passed = 0;
};

struct Work {
  std::function<bool()> run;    // true: it is done
  std::function<bool()> ready;  // may it begin? empty: at once
  bool begun = false;
};

}  // namespace

}  // namespace pg::simulated

struct CUstream_st {
  std::deque<pg::simulated::Work> work;
  bool destroyed = false;
};
struct CUevent_st {
  std::shared_ptr<pg::simulated::EventState> state = std::make_shared<pg::simulated::EventState>();
};

namespace pg::simulated {

namespace {

struct Scheduler {
  std::vector<std::unique_ptr<CUstream_st>> streams;  // the first is the default stream
  std::uint64_t random = 1;
  bool running = false;

  Scheduler() { streams.push_back(std::make_unique<CUstream_st>()); }

  unsigned draw(unsigned below) {  // splitmix64
    std::uint64_t z = random += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return static_cast<unsigned>((z ^ (z >> 31)) % below);
  }

  CUstream_st& at(cudaStream_t stream) { return stream == nullptr ? *streams.front() : *stream; }

  enum class Step { kIdle, kWaiting, kMoved };

  // One turn of the head of one stream. kWaiting: some heads take their time; kIdle: none can go.
  Step step() {
    std::vector<CUstream_st*> can;
    for (const auto& stream : streams) {
      if (stream->work.empty()) continue;
      auto& head = stream->work.front();
      if (head.begun || !head.ready || head.ready()) can.push_back(stream.get());
    }
    if (can.empty()) return Step::kIdle;
    CUstream_st& stream = *can[draw(static_cast<unsigned>(can.size()))];
    auto& head = stream.work.front();
    head.begun = true;
    running = true;
    bool done = false;
    try {
      const MemoryAccess access;
      done = head.run();
    } catch (...) {
      running = false;
      stream.work.pop_front();
      throw;
    }
    running = false;
    if (!done) return Step::kWaiting;
    stream.work.pop_front();
    if (stream.destroyed && stream.work.empty()) {
      std::erase_if(streams, [&](const auto& s) { return s.get() == &stream; });
    }
    return Step::kMoved;
  }

  template <class Done>
  void run_until(const Done& done) {
    while (!done()) {
      const auto step = this->step();
      if (step == Step::kWaiting) sched_yield();  // another process must move first
      if (step == Step::kIdle) {
        std::fputs("simulated GPU: streams wait for each other\n", stderr);
        std::abort();
      }
    }
  }
};

Scheduler& scheduler() {
  static Scheduler instance;
  return instance;
}

std::map<const char*, std::size_t>& pinned() {  // begin, bytes
  static std::map<const char*, std::size_t> ranges;
  return ranges;
}

// Memory that the GPU reads and writes only by way of a copy that the host makes.
bool is_pageable(const void* data) {
  if (is_device(data)) return false;
  const auto* const at = static_cast<const char*>(data);
  const auto next = pinned().upper_bound(at);
  if (next == pinned().begin()) return true;
  const auto& [begin, bytes] = *std::prev(next);
  return at >= begin + bytes;
}

// Appends to the stream; now and then some of what is queued runs already.
cudaError_t append(cudaStream_t stream, Work work) {
  auto& s = scheduler();
  s.at(stream).work.push_back(std::move(work));
  if (!s.running && s.draw(8) == 0) run_some();
  return cudaSuccess;
}

void finish(cudaStream_t stream) {
  scheduler().run_until([&] { return scheduler().at(stream).work.empty(); });
}

// Rows of `width` bytes; what lies in pageable memory is read, and written, before this returns.
cudaError_t copy_rows(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch,
                      std::size_t width, std::size_t height, cudaStream_t stream) {
  if (width == 0 || height == 0) return cudaSuccess;
  const auto move = [=](const char* source, std::size_t source_pitch) {
    for (std::size_t row = 0; row < height; ++row) {
      std::memmove(static_cast<char*>(to) + row * to_pitch, source + row * source_pitch, width);
    }
  };
  if (is_pageable(from)) {
    std::vector<char> kept(width * height);
    for (std::size_t row = 0; row < height; ++row) {
      std::memcpy(kept.data() + row * width, static_cast<const char*>(from) + row * from_pitch,
                  width);
    }
    enqueue(stream, [=, kept = std::move(kept)] { move(kept.data(), width); });
  } else {
    enqueue(stream, [=] { move(static_cast<const char*>(from), from_pitch); });
  }
  if (is_pageable(to)) finish(stream);
  return cudaSuccess;
}

}  // namespace

void choose_order(unsigned seed) {
  scheduler().random = seed;
}

void run_some() {
  auto& s = scheduler();
  if (s.running) return;
  for (unsigned turns = s.draw(4); turns > 0; --turns) {
    if (s.step() != Scheduler::Step::kMoved) return;
  }
}

cudaError_t enqueue(cudaStream_t stream, std::function<void()> work) {
  return append(stream, {[work = std::move(work)] {
                           work();
                           return true;
                         },
                         {}});
}

cudaError_t enqueue_polled(cudaStream_t stream, std::function<bool()> work) {
  return append(stream, {std::move(work), {}});
}

}  // namespace pg::simulated

using namespace pg::simulated;

extern "C" {

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int /*priority*/) {
  // Others wait for the default stream, and it for them: not simulated.
  if (flags != cudaStreamNonBlocking) return result(cudaErrorInvalidValue);
  auto& all = scheduler().streams;
  *stream = all.emplace_back(std::make_unique<CUstream_st>()).get();
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  return cudaStreamCreateWithPriority(stream, flags, 0);
}
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0;
  *greatest = -5;
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  stream->destroyed = true;  // what is queued still runs
  if (stream->work.empty()) {
    std::erase_if(scheduler().streams, [&](const auto& s) { return s.get() == stream; });
  }
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  finish(stream);
  return cudaSuccess;
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  const auto done = [&] { return scheduler().at(stream).work.empty(); };
  if (done()) return cudaSuccess;
  run_some();
  if (done()) return cudaSuccess;
  sched_yield();
  return cudaErrorNotReady;
}
cudaError_t cudaDeviceSynchronize() {
  scheduler().run_until([] {
    for (const auto& stream : scheduler().streams) {
      if (!stream->work.empty()) return false;
    }
    return true;
  });
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned /*flags*/) {
  *event = new CUevent_st;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  return enqueue(stream, [state = event->state, number = ++event->state->recorded] {
    state->passed = std::max(state->passed, number);
  });
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned /*flags*/) {
  // For the latest record at the time of the call; none: for nothing.
  return append(stream, {[] { return true; },
                         [state = event->state, number = event->state->recorded] {
                           return state->passed >= number;
                         }});
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  if (event->state->passed >= event->state->recorded) return cudaSuccess;
  run_some();
  if (event->state->passed >= event->state->recorded) return cudaSuccess;
  sched_yield();
  return cudaErrorNotReady;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  scheduler().run_until([&] { return event->state->passed >= event->state->recorded; });
  return cudaSuccess;
}

cudaError_t cudaMallocHost(void** data, std::size_t bytes) {
  *data = std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
  if (*data == nullptr) return result(cudaErrorMemoryAllocation);
  std::memset(*data, 0xFF, bytes);
  pinned()[static_cast<char*>(*data)] = bytes;
  return cudaSuccess;
}
cudaError_t cudaFreeHost(void* data) {
  cudaDeviceSynchronize();
  pinned().erase(static_cast<char*>(data));
  std::free(data);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind /*kind*/,
                            cudaStream_t stream) {
  return copy_rows(to, bytes, from, bytes, bytes, 1, stream);
}
cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  cudaMemcpyAsync(to, from, bytes, kind, nullptr);
  // Between two places on the GPU, and from the host, a copy may return before it is done.
  if (!is_device(to)) finish(nullptr);
  return cudaSuccess;
}
cudaError_t cudaMemcpy2DAsync(void* to, std::size_t to_pitch, const void* from,
                              std::size_t from_pitch, std::size_t width, std::size_t height,
                              cudaMemcpyKind /*kind*/, cudaStream_t stream) {
  return copy_rows(to, to_pitch, from, from_pitch, width, height, stream);
}
cudaError_t cudaMemsetAsync(void* data, int value, std::size_t bytes, cudaStream_t stream) {
  return enqueue(stream, [=] { std::memset(data, value, bytes); });
}
cudaError_t cudaMemset(void* data, int value, std::size_t bytes) {
  return cudaMemsetAsync(data, value, bytes, nullptr);
}
cudaError_t cudaMemset2DAsync(void* data, std::size_t pitch, int value, std::size_t width,
                              std::size_t height, cudaStream_t stream) {
  return enqueue(stream, [=] {
    for (std::size_t row = 0; row < height; ++row) {
      std::memset(static_cast<char*>(data) + row * pitch, value, width);
    }
  });
}

}  // extern "C"

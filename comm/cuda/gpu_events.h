// Events that order streams of the GPU, used again and again: making one takes longer than
// recording it.
#pragma once

#include <memory>
#include <vector>

#include <cuda_runtime_api.h>

#include "comm/cuda/cuda_check.h"
#include "comm/gpu.h"

namespace pg::comm {

// Goes back to its pool with the last handle, which may outlive the pool's owner.
using GpuEvent = std::shared_ptr<CUevent_st>;

class EventPool : public std::enable_shared_from_this<EventPool> {
 public:
  EventPool() = default;
  EventPool(const EventPool&) = delete;
  EventPool& operator=(const EventPool&) = delete;
  ~EventPool() {
    for (auto* const event : idle_) cudaEventDestroy(event);
  }

  // All that was issued on `stream` so far.
  GpuEvent record(GpuStream stream) {
    cudaEvent_t event = nullptr;
    if (idle_.empty()) {
      PG_CUDA(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    } else {
      event = idle_.back();
      idle_.pop_back();
    }
    GpuEvent handle(event,
                    [pool = shared_from_this()](cudaEvent_t e) { pool->idle_.push_back(e); });
    PG_CUDA(cudaEventRecord(event, stream));
    return handle;
  }

 private:
  std::vector<cudaEvent_t> idle_;
};

// What is issued on `stream` from now on comes after `event`. The event may be recorded anew at
// once: the wait is for what it stood for.
inline void wait_on(GpuStream stream, const GpuEvent& event) {
  PG_CUDA(cudaStreamWaitEvent(stream, event.get(), 0));
}

}  // namespace pg::comm

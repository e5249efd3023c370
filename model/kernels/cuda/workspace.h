// Scratch memory of the CUDA backend's own: partial sums, sorted indices, a product's workspace.
// One operation's alone: the next one on the stream may write over it. It grows while a step of a
// new shape runs for the first time, and then stays. It grows in the stream's order: to wait for
// the GPU inside a step could be to wait for a message that its receiver, waiting alike, never
// takes.
#pragma once

#include <algorithm>
#include <cstddef>

#include "comm/gpu.h"

namespace pg::model::cuda {

class Workspace {
 public:
  explicit Workspace(comm::GpuStream stream) : stream_(stream) {}
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  ~Workspace() { comm::gpu_free_on(stream_, data_); }

  // At least `bytes` bytes, 256-byte aligned, not initialised. Whatever an earlier call returned is
  // no longer valid for operations that are issued from now on.
  void* take(std::size_t bytes) {
    if (bytes > bytes_) {
      comm::gpu_free_on(stream_, data_);
      data_ = nullptr;
      const auto next = std::max(bytes, bytes_ + bytes_ / 2);
      bytes_ = 0;
      data_ = comm::gpu_allocate_on(stream_, next);
      bytes_ = next;
      ++growths_;
    }
    return data_;
  }
  std::size_t bytes() const { return bytes_; }
  int growths() const { return growths_; }

 private:
  comm::GpuStream stream_;
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
  int growths_ = 0;
};

}  // namespace pg::model::cuda

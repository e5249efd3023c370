// Scratch memory of the CUDA backend's own: partial sums, sorted indices, a product's workspace.
// One operation's alone: the next one on the stream may write over it. It grows while a step of a
// new shape runs for the first time, which waits for the GPU, and then stays.
#pragma once

#include <algorithm>
#include <cstddef>

#include "comm/gpu.h"

namespace pg::model::cuda {

class Workspace {
 public:
  Workspace() = default;
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  ~Workspace() { comm::gpu_free(data_); }

  // At least `bytes` bytes, 256-byte aligned, not initialised. Whatever an earlier call returned is
  // no longer valid.
  void* take(std::size_t bytes) {
    if (bytes > bytes_) {
      comm::gpu_free(data_);
      data_ = nullptr;
      const auto next = std::max(bytes, bytes_ + bytes_ / 2);
      bytes_ = 0;
      data_ = comm::gpu_allocate(next);
      bytes_ = next;
      ++growths_;
    }
    return data_;
  }
  std::size_t bytes() const { return bytes_; }
  int growths() const { return growths_; }

 private:
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
  int growths_ = 0;
};

}  // namespace pg::model::cuda

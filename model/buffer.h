// Owned, zeroed, page-aligned memory of a fixed size, on the host or the GPU. A dry buffer has a
// size but no storage: dry runs measure with it. Move-only.
#pragma once

#include <cstddef>
#include <utility>

#include "comm/dtype.h"

namespace pg::model {

class Buffer {
 public:
  static constexpr std::size_t kAlignment = 64;
  // kReserved, on the host: of an amount that may never be needed, more even than the machine has:
  // untouched pages are refused to nobody. Where it runs out, the system ends the process. On the
  // GPU the same as kReal.
  // kPinned: on the host, page-locked for copies to the GPU.
  enum class Kind { kReal, kReserved, kPinned, kDry };

  Buffer() = default;
  // Error(kBug) naming the size when memory is exhausted.
  Buffer(std::size_t bytes, Kind kind, Device device = Device::kCpu);
  Buffer(Buffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)),
        bytes_(std::exchange(other.bytes_, 0)),
        device_(other.device_),
        pinned_(other.pinned_) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(device_, other.device_);
    std::swap(pinned_, other.pinned_);
    return *this;
  }
  ~Buffer();

  // Byte `offset`; null in a dry buffer.
  void* at(std::size_t offset) const {
    return data_ != nullptr ? static_cast<char*>(data_) + offset : nullptr;
  }
  std::size_t bytes() const { return bytes_; }
  Device device() const { return device_; }

 private:
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
  Device device_ = Device::kCpu;
  bool pinned_ = false;
};

}  // namespace pg::model

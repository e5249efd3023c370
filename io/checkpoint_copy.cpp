#include "io/checkpoint_copy.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>

#include "comm/error.h"
#include "io/checkpoint_slabs.h"
#include "io/files.h"

namespace pg::io {

namespace {

constexpr std::size_t kLine = 64;  // slabs begin at cache lines

std::size_t room_of(const comm::TensorRecord& tensor, const comm::Slab& slab) {
  const auto bytes = static_cast<std::size_t>(slab_elements(slab)) * dtype_size(tensor.dtype);
  return (bytes + kLine - 1) / kLine * kLine;
}

}  // namespace

StateCopy::~StateCopy() {
  release();
}

void StateCopy::release() {
  if (memory_ != nullptr) ::munmap(memory_, bytes_);
  memory_ = nullptr;
  bytes_ = 0;
}

std::size_t StateCopy::bytes_for(std::span<const comm::TensorRecord> tensors) {
  std::size_t bytes = 0;
  for (const auto& tensor : tensors) {
    for (const auto& slab : tensor.slabs) {
      if (slab.owner) bytes += room_of(tensor, slab);
    }
  }
  return bytes;
}

void StateCopy::reserve(std::size_t bytes) {
  if (bytes <= bytes_) return;
  release();
  void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    throw fail(ExitCode::kSave, "checkpoint.async: no memory for a copy of {}: {}",
               readable_bytes(static_cast<std::int64_t>(bytes)), std::strerror(errno));
  }
  memory_ = static_cast<char*>(memory);
  bytes_ = bytes;
  ::madvise(memory_, bytes_, MADV_HUGEPAGE);  // fewer misses where the system has them
  std::memset(memory_, 0, bytes_);
}

std::vector<comm::TensorRecord> StateCopy::take(std::span<const comm::TensorRecord> tensors) {
  reserve(bytes_for(tensors));
  std::vector<comm::TensorRecord> copies;
  copies.reserve(tensors.size());
  std::size_t at = 0;
  for (const auto& tensor : tensors) {
    auto& copy =
        copies.emplace_back(comm::TensorRecord{tensor.name, tensor.dtype, tensor.shape, {}});
    for (const auto& slab : tensor.slabs) {
      if (!slab.owner) continue;
      const auto bytes = static_cast<std::size_t>(slab_elements(slab)) * dtype_size(tensor.dtype);
      copy.slabs.push_back(slab);
      copy.slabs.back().data = memory_ + at;
      if (bytes > 0) std::memcpy(memory_ + at, slab.data, bytes);
      at += room_of(tensor, slab);
    }
  }
  return copies;
}

}  // namespace pg::io

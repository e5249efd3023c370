#include "model/buffer.h"

#include <sys/mman.h>

#include <cstring>

#include "comm/error.h"
#include "comm/gpu.h"

namespace pg::model {

Buffer::Buffer(std::size_t bytes, Kind kind, Device device) : bytes_(bytes), device_(device) {
  if (kind == Kind::kDry || bytes == 0) return;
  if (device == Device::kCuda) {
    data_ = comm::gpu_allocate(bytes);
    return;
  }
  if (kind == Kind::kPinned) {
    data_ = comm::pinned_allocate(bytes);
    pinned_ = true;
    std::memset(data_, 0, bytes);
    return;
  }
  // Anonymous pages are zero and cost nothing until touched.
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS | (kind == Kind::kReserved ? MAP_NORESERVE : 0);
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (data == MAP_FAILED) throw fail(ExitCode::kBug, "out of memory: {} bytes refused", bytes);
  madvise(data, bytes, MADV_HUGEPAGE);  // fewer TLB misses; where it is off, nothing is lost
  data_ = data;
}

Buffer::~Buffer() {
  if (data_ == nullptr) return;
  if (device_ == Device::kCuda) {
    comm::gpu_free(data_);
  } else if (pinned_) {
    comm::pinned_free(data_);
  } else {
    munmap(data_, bytes_);
  }
}

}  // namespace pg::model

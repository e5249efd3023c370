#include "tests/simulated_gpu/memory.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <map>

#include "tests/simulated_gpu/streams.h"

namespace pg::simulated {

namespace {

constexpr std::size_t kBytes = std::size_t{16} << 30;  // addresses only, until they are touched
constexpr std::size_t kPage = std::size_t{1} << 16;

struct Memory {
  char* base = nullptr;
  std::size_t end = 0;                      // of what was ever given out
  std::map<std::size_t, std::size_t> used;  // offset, bytes
  int access = 0;

  Memory() {
    void* data =
        mmap(nullptr, kBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (data == MAP_FAILED) std::abort();
    base = static_cast<char*>(data);
  }
};

Memory& memory() {
  static Memory instance;
  return instance;
}

void protect(int protection) {
  auto& m = memory();
  if (m.end > 0 && mprotect(m.base, m.end, protection) != 0) std::abort();
}

}  // namespace

MemoryAccess::MemoryAccess() {
  if (memory().access++ == 0) protect(PROT_READ | PROT_WRITE);
}

MemoryAccess::~MemoryAccess() {
  if (--memory().access == 0) protect(PROT_NONE);
}

void* device_allocate(std::size_t bytes) {
  auto& m = memory();
  const std::size_t size = (bytes + kPage - 1) / kPage * kPage + kPage;  // a gap behind each
  std::size_t at = 0;
  for (const auto& [offset, used] : m.used) {
    if (offset - at >= size) break;
    at = offset + used;
  }
  if (at + size > kBytes) return nullptr;
  m.used[at] = size;
  if (at + size > m.end) {
    if (m.access > 0 && mprotect(m.base + m.end, at + size - m.end, PROT_READ | PROT_WRITE) != 0) {
      std::abort();
    }
    m.end = at + size;
  }
  const MemoryAccess access;
  std::memset(m.base + at, 0xFF, size);
  return m.base + at;
}

bool device_free(void* data) {
  auto& m = memory();
  if (!is_device(data)) return false;
  const auto offset = static_cast<std::size_t>(static_cast<char*>(data) - m.base);
  const auto found = m.used.find(offset);
  if (found == m.used.end()) return false;
  madvise(m.base + offset, found->second, MADV_DONTNEED);
  m.used.erase(found);
  return true;
}

bool is_device(const void* data) {
  const auto& m = memory();
  const auto* const at = static_cast<const char*>(data);
  return at >= m.base && at < m.base + kBytes;
}

std::size_t device_bytes() {
  return kBytes;
}

std::size_t device_bytes_used() {
  std::size_t bytes = 0;
  for (const auto& [offset, used] : memory().used) bytes += used;
  return bytes;
}

}  // namespace pg::simulated

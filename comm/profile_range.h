// Names a stretch of the host's work for a profiler's timeline (NVTX, which Nsight Systems shows
// beside what the GPU runs); costs a few nanoseconds while nobody looks. Nothing in a build without
// CUDA.
#pragma once

#include <cstdint>

namespace pg::comm {

class ProfileRange {
 public:
  // "name", or "name index". `name` is a literal.
  explicit ProfileRange(const char* name, std::int64_t index = -1);
  ~ProfileRange();  // NOLINT(performance-trivially-destructible): trivial without CUDA alone
  ProfileRange(const ProfileRange&) = delete;
  ProfileRange& operator=(const ProfileRange&) = delete;
};

}  // namespace pg::comm

// Names a stretch of the host's work: as a place in the watchdog's reports, and on a profiler's
// timeline in a build with CUDA (NVTX, which Nsight Systems shows beside what the GPU runs). Costs
// a few nanoseconds while nobody looks.
#pragma once

#include <cstdint>

#include "comm/activity.h"

namespace pg::comm {

class ProfileRange {
 public:
  // "name", or "name index". `name` is a literal. File and line are the caller's.
  explicit ProfileRange(const char* name, std::int64_t index = -1,
                        const char* file = __builtin_FILE(), int line = __builtin_LINE())
      : place_(name, index, file, line) {
    begin(name, index);
  }
  ~ProfileRange() { end(); }
  ProfileRange(const ProfileRange&) = delete;
  ProfileRange& operator=(const ProfileRange&) = delete;

 private:
  static void begin(const char* name, std::int64_t index);
  static void end();

  Place place_;
};

}  // namespace pg::comm

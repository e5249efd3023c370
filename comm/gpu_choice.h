// Which GPU a rank takes, and what carries the buffers of ranks that have one: plain
// arithmetic.
#pragma once

#include <string>
#include <vector>

namespace pg::comm {

struct GpuChoice {
  int ordinal = 0;      // of the visible ones
  bool shared = false;  // with another rank of this host, as far as the numbers tell
  std::string text;     // "GPU 1 of 4", and what is amiss
};

// A launcher that binds ranks (Slurm's --gpus-per-task) shows each its own: one is visible, and is
// taken. Otherwise rank i of a host takes GPU i, round and round. `visible` >= 1.
GpuChoice choose_gpu(int visible, int local_rank, int local_size);

// Does any GPU (by GpuInfo::id) belong to two ranks?
bool gpus_are_shared(std::vector<std::string> ids);

}  // namespace pg::comm

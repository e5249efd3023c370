#include "comm/gpu_choice.h"

#include <algorithm>

#include "comm/error.h"
#include "comm/gpu_groups.h"

namespace pg::comm {

GpuChoice choose_gpu(int visible, int local_rank, int local_size) {
  PG_ASSERT(visible >= 1 && local_rank >= 0 && local_rank < local_size,
            "{} GPUs, rank {} of {} on this host", visible, local_rank, local_size);
  GpuChoice choice;
  choice.ordinal = local_rank % visible;
  choice.text = fmt::format("GPU {} of {}", choice.ordinal, visible);
  // One visible GPU says nothing: each rank may see another one.
  if (visible > 1 && local_size > visible) {
    choice.shared = true;
    choice.text += fmt::format(", shared: {} ranks on this host", local_size);
  }
  return choice;
}

bool gpus_are_shared(std::vector<std::string> ids) {
  std::sort(ids.begin(), ids.end());
  return std::adjacent_find(ids.begin(), ids.end()) != ids.end();
}

NcclBlocks share_blocks(int processors, int collectives, int lanes) {
  PG_ASSERT(processors >= 1 && collectives >= 0 && lanes >= 0,
            "{} processors, {} collectives, {} lanes", processors, collectives, lanes);
  // More give NCCL nothing: 32 blocks fill NVLink, and a message has compute beside it.
  constexpr NcclBlocks kMost;
  const int communicators = std::max(1, collectives + lanes);
  NcclBlocks blocks;
  blocks.lane = std::clamp(processors / communicators, 1, kMost.lane);
  const int left = processors - lanes * blocks.lane;
  blocks.collective = std::clamp(left / std::max(1, collectives), 1, kMost.collective);
  return blocks;
}

}  // namespace pg::comm

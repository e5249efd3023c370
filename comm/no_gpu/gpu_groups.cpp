#include "comm/gpu_groups.h"

#include "comm/error.h"

namespace pg::comm {

std::string nccl_version() {
  return "";
}

// NOLINTBEGIN(performance-unnecessary-value-param): the signatures of comm/gpu_groups.h
std::unique_ptr<Group> make_nccl_group(Communicator /*communicator*/, std::string name,
                                       const Gpu& /*gpu*/, const NcclOptions& /*options*/) {
  throw fail(ExitCode::kBug, "bug: group {} on a GPU, but {}", name, gpu_missing());
}

std::unique_ptr<Group> make_staged_group(Communicator /*communicator*/, std::string name,
                                         const Gpu& /*gpu*/) {
  throw fail(ExitCode::kBug, "bug: group {} on a GPU, but {}", name, gpu_missing());
}
// NOLINTEND(performance-unnecessary-value-param)

}  // namespace pg::comm

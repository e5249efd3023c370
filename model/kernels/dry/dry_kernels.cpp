#include "model/kernels/dry/dry_kernels.h"

namespace pg::model {

std::unique_ptr<Kernels> make_dry_kernels(Device device) {
  return std::make_unique<DryKernels>(device);
}

}  // namespace pg::model

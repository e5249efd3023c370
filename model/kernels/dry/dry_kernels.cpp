#include "model/kernels/dry/dry_kernels.h"

namespace pg::model {

std::unique_ptr<Kernels> make_dry_kernels() {
  return std::make_unique<DryKernels>();
}

}  // namespace pg::model

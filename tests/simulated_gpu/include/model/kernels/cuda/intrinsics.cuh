// The simulated GPU's version of the product's header of this name.
#pragma once

#include "tests/simulated_gpu/grid.h"

namespace pg::model::cuda {

inline unsigned char* dynamic_shared() {
  return simulated::this_thread().shared;
}

}  // namespace pg::model::cuda

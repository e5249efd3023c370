// The simulated GPU's version of the product's header of this name.
#pragma once

#include <cstdint>

#include "comm/dtype.h"
#include "tests/simulated_gpu/grid.h"

namespace pg::model::cuda {

inline unsigned char* dynamic_shared() {
  return simulated::this_thread().shared;
}

inline std::uint16_t round_bf16(float x) {
  return x != x ? std::uint16_t{0x7FFF} : bf16(x).bits;
}
inline std::uint32_t round_bf16_pair(float low, float high) {
  return round_bf16(low) | std::uint32_t{round_bf16(high)} << 16;
}

}  // namespace pg::model::cuda

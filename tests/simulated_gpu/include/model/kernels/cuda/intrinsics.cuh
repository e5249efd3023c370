// The simulated GPU's version of the product's header of this name.
#pragma once

#include <cstdint>
#include <cstring>
#include <stdexcept>

#include "comm/dtype.h"
#include "tests/simulated_gpu/grid.h"

namespace pg::model::cuda {

inline unsigned char* dynamic_shared() {
  return simulated::this_thread().shared;
}

struct alignas(16) Words {
  std::uint32_t at[4];
};
inline void require_16(const void* at) {
  if (reinterpret_cast<std::uintptr_t>(at) % 16 != 0) {
    throw std::runtime_error("simulated GPU: 16 bytes at an address that is no multiple of 16");
  }
}
inline Words load_words(const void* from) {
  require_16(from);
  Words words;
  std::memcpy(&words, from, sizeof(words));
  return words;
}
inline void store_words(void* to, const Words& words) {
  require_16(to);
  std::memcpy(to, &words, sizeof(words));
}

inline std::uint16_t round_bf16(float x) {
  return x != x ? std::uint16_t{0x7FFF} : bf16(x).bits;
}
inline std::uint32_t round_bf16_pair(float low, float high) {
  return round_bf16(low) | std::uint32_t{round_bf16(high)} << 16;
}

}  // namespace pg::model::cuda

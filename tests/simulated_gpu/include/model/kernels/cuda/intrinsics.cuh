// The simulated GPU's version of the product's header of this name.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <deque>
#include <stdexcept>
#include <utility>
#include <vector>

#include "comm/dtype.h"
#include "tests/simulated_gpu/grid.h"

namespace pg::model::cuda {

inline unsigned char* dynamic_shared() {
  return simulated::this_thread().shared;
}

inline float exp2_fast(float x) {
  return std::exp2(x);
}

inline std::uint32_t pack_bf16(float low, float high) {
  return std::uint32_t{bf16(low).bits} | std::uint32_t{bf16(high).bits} << 16;
}

namespace simulated_warp {

struct Fragments {
  std::uint32_t a[4], b[2];
};
inline Fragments (&warp_fragments())[32] {
  static Fragments all[32][32];
  return all[simulated::this_thread().rank / 32];
}
inline float half_of(std::uint32_t pair, int which) {
  bf16 x;
  x.bits = static_cast<std::uint16_t>(pair >> (16 * which));
  return static_cast<float>(x);
}

// One thread's copies that are not complete.
struct Pending {
  struct Copy {
    void* to;
    const void* from;
    bool valid;
  };
  std::deque<std::vector<Copy>> groups;
  std::vector<Copy> open;
};
inline Pending& pending() {
  static Pending all[1024];
  return all[simulated::this_thread().rank];
}

}  // namespace simulated_warp

inline void mma_bf16(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                     std::uint32_t b1) {
  using namespace simulated_warp;
  auto& all = warp_fragments();
  const int lane = static_cast<int>(simulated::this_thread().rank % 32);
  all[lane] = {{a[0], a[1], a[2], a[3]}, {b0, b1}};
  simulated::warp_barrier(0xFFFFFFFFu);
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + i / 2 * 8, column = 2 * (lane % 4) + i % 2;
    float sum = c[i];
    for (int k = 0; k < 16; ++k) {
      const auto& left = all[row % 8 * 4 + k % 8 / 2];
      const auto& right = all[column * 4 + k % 8 / 2];
      sum += half_of(left.a[k / 8 * 2 + row / 8], k % 2) * half_of(right.b[k / 8], k % 2);
    }
    c[i] = sum;
  }
  simulated::warp_barrier(0xFFFFFFFFu);
}

namespace simulated_warp {

inline void load(std::uint32_t (&to)[4], const void* row, bool transposed) {
  const int lane = static_cast<int>(simulated::this_thread().rank % 32);
  if (reinterpret_cast<std::uintptr_t>(row) % 16 != 0) __builtin_trap();
  auto* const slots = simulated::warp_slots();
  std::memcpy(&slots[lane], &row, sizeof(row));
  simulated::warp_barrier(0xFFFFFFFFu);
  for (int matrix = 0; matrix < 4; ++matrix) {
    to[matrix] = 0;
    for (int half = 0; half < 2; ++half) {
      const int r = transposed ? 2 * (lane % 4) + half : lane / 4;
      const int c = transposed ? lane / 4 : 2 * (lane % 4) + half;
      const std::uint16_t* from = nullptr;
      std::memcpy(&from, &slots[matrix * 8 + r], sizeof(from));
      to[matrix] |= std::uint32_t{from[c]} << (16 * half);
    }
  }
  simulated::warp_barrier(0xFFFFFFFFu);
}

}  // namespace simulated_warp

inline void load_matrices(std::uint32_t (&to)[4], const void* row) {
  simulated_warp::load(to, row, /*transposed=*/false);
}
inline void load_matrices_transposed(std::uint32_t (&to)[4], const void* row) {
  simulated_warp::load(to, row, /*transposed=*/true);
}

// As late as the hardware may be, and as early: the target holds NaNs from the issue to the wait.
inline void copy_async(void* to, const void* from, bool valid) {
  if (reinterpret_cast<std::uintptr_t>(to) % 16 != 0 ||
      (valid && reinterpret_cast<std::uintptr_t>(from) % 16 != 0)) {
    __builtin_trap();
  }
  std::memset(to, 0xFF, 16);
  simulated_warp::pending().open.push_back({to, from, valid});
}
inline void copy_async_commit() {
  auto& pending = simulated_warp::pending();
  pending.groups.push_back(std::move(pending.open));
  pending.open.clear();
}
template <int kLeft>
void copy_async_wait() {
  auto& groups = simulated_warp::pending().groups;
  while (groups.size() > kLeft) {
    for (const auto& copy : groups.front()) {
      if (copy.valid) {
        std::memcpy(copy.to, copy.from, 16);
      } else {
        std::memset(copy.to, 0, 16);
      }
    }
    groups.pop_front();
  }
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

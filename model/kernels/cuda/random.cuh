// Dropout's random bits on the GPU: those of comm/random.h, so that a mask is the CPU's bit by bit.
#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>

#include "comm/random.h"
#include "model/kernels/kernels.h"

namespace pg::model::cuda {

// Which elements dropout keeps, as a value that kernels take. A counter's four words belong to four
// consecutive elements: whoever handles those together calls keep_four once.
struct DropoutMask {
  comm::RandomKey key;
  std::uint32_t highest_dropped = 0;

  DropoutMask() = default;  // for kernels that take one and do not ask it
  // 0 < rate < 1.
  explicit DropoutMask(const Dropout& dropout)
      : key(dropout.key),
        // bits / 2^32 >= rate, for whole numbers: bits > ceil(rate 2^32) - 1.
        highest_dropped(static_cast<std::uint32_t>(std::ceil(std::ldexp(dropout.rate, 32)) - 1.0)) {
  }

  // Elements 4 * counter + i of sequence `sample` (its number in the whole run), i = 0..3.
  struct Four {
    bool at[4];
  };
  __device__ __forceinline__ Four keep_four(std::int64_t sample, std::int64_t counter) const {
    const auto words =
        comm::philox(key, static_cast<std::uint64_t>(sample), static_cast<std::uint64_t>(counter));
    return {{words[0] > highest_dropped, words[1] > highest_dropped, words[2] > highest_dropped,
             words[3] > highest_dropped}};
  }
  // One element. The word is chosen by comparisons: an index would put all four into memory.
  __device__ __forceinline__ bool keep(std::int64_t sample, std::int64_t element) const {
    const auto words = comm::philox(key, static_cast<std::uint64_t>(sample),
                                    static_cast<std::uint64_t>(element) / 4);
    const auto low = (element & 1) == 0 ? words[0] : words[1];
    const auto high = (element & 1) == 0 ? words[2] : words[3];
    return ((element & 2) == 0 ? low : high) > highest_dropped;
  }
};

}  // namespace pg::model::cuda

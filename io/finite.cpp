#include "io/finite.h"

#include <algorithm>
#include <cstdint>

namespace pg::io {

namespace {

// By the bits, with no branch in the loop: all bits of the exponent set. Without its sign such a
// value is no less than infinity, as integers too.
template <class Bits>
std::optional<std::size_t> search(const void* data, std::size_t count, Bits infinity) {
  constexpr std::size_t kBlock = 4096;
  constexpr auto kMagnitude = static_cast<Bits>(static_cast<Bits>(~Bits{0}) >> 1);
  const auto* bits = static_cast<const Bits*>(data);
  for (std::size_t begin = 0; begin < count; begin += kBlock) {
    const auto end = std::min(count, begin + kBlock);
    Bits found = 0;
    for (std::size_t i = begin; i < end; ++i) {
      found |= static_cast<Bits>(static_cast<Bits>(bits[i] & kMagnitude) >= infinity ? 1 : 0);
    }
    if (found == 0) continue;
    for (std::size_t i = begin; i < end; ++i) {
      if (static_cast<Bits>(bits[i] & kMagnitude) >= infinity) return i;
    }
  }
  return std::nullopt;
}

}  // namespace

std::optional<std::size_t> first_not_finite(DType type, const void* data, std::size_t count) {
  switch (type) {
    case DType::kF64:
      return search<std::uint64_t>(data, count, 0x7ff0000000000000U);
    case DType::kF32:
      return search<std::uint32_t>(data, count, 0x7f800000U);
    case DType::kBF16:
      return search<std::uint16_t>(data, count, 0x7f80U);
    case DType::kI32:
    case DType::kI64:
    case DType::kU8:
      return std::nullopt;
  }
  return std::nullopt;
}

}  // namespace pg::io

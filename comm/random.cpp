#include "comm/random.h"

#include <cmath>
#include <numbers>

namespace pg::comm {

namespace {

// The finaliser of SplitMix64 (Steele et al., OOPSLA 2014): every input bit reaches every output
// bit.
std::uint64_t mix(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

}  // namespace

RandomKey random_key(std::uint64_t seed, std::string_view name) {
  std::uint64_t h = 0xCBF29CE484222325u;  // FNV-1a
  for (const char c : name) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001B3u;
  return {mix(mix(seed + 0x9E3779B97F4A7C15u) ^ h)};
}

double random_normal(RandomKey key, std::uint64_t index) {
  const auto w = philox(key, 0, index);
  const auto to_unit = [](std::uint32_t hi, std::uint32_t lo) {  // (0, 1], 53 bits
    const std::uint64_t bits = ((static_cast<std::uint64_t>(hi) << 32) | lo) >> 11;
    return (static_cast<double>(bits) + 1.0) * 0x1.0p-53;
  };
  const double radius = std::sqrt(-2.0 * std::log(to_unit(w[0], w[1])));
  return radius * std::cos(2.0 * std::numbers::pi * to_unit(w[2], w[3]));
}

}  // namespace pg::comm

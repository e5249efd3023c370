// Counter-based random numbers: Philox4x32-10 (Salmon et al., SC 2011,
// doi 10.1145/2063384.2063405).
//
// A value depends on (seed, name, high index, low index) and on nothing else: no rank, no thread,
// no call order. So initial weights, dropout masks and sample order are the same on every grid, and
// a restart needs no generator state.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace pg::comm {

// What a stream is keyed by. Two names never share a stream in practice (64-bit hash).
struct RandomKey {
  std::uint64_t bits = 0;
};

RandomKey random_key(std::uint64_t seed, std::string_view name);

// Four independent 32-bit words for counter (high, low) under `key`. Without branches, so that
// loops over `low` vectorise; constexpr, so that kernels on a GPU draw the same words.
constexpr std::array<std::uint32_t, 4> philox(RandomKey key, std::uint64_t high,
                                              std::uint64_t low) {
  constexpr std::uint64_t kMul0 = 0xD2511F53u, kMul1 = 0xCD9E8D57u;
  constexpr std::uint32_t kWeyl0 = 0x9E3779B9u, kWeyl1 = 0xBB67AE85u;
  auto k0 = static_cast<std::uint32_t>(key.bits), k1 = static_cast<std::uint32_t>(key.bits >> 32);
  auto c0 = static_cast<std::uint32_t>(low), c1 = static_cast<std::uint32_t>(low >> 32);
  auto c2 = static_cast<std::uint32_t>(high), c3 = static_cast<std::uint32_t>(high >> 32);
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = kMul0 * c0, p1 = kMul1 * c2;
    const auto n0 = static_cast<std::uint32_t>(p1 >> 32) ^ c1 ^ k0;
    const auto n2 = static_cast<std::uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<std::uint32_t>(p1);
    c3 = static_cast<std::uint32_t>(p0);
    c0 = n0;
    c2 = n2;
    k0 += kWeyl0;
    k1 += kWeyl1;
  }
  return {c0, c1, c2, c3};
}

// Element `index` of stream (key, high), uniform over all 32-bit words: word index % 4 of counter
// index / 4.
constexpr std::uint32_t random_bits(RandomKey key, std::uint64_t high, std::uint64_t index) {
  return philox(key, high, index / 4)[index % 4];
}

// Element `index` of stream `key`, standard normal (Box-Muller in double: 53-bit radius and angle,
// so never beyond sqrt(106 ln 2) = 8.58). It uses counters (0, index): give it a key of its own.
double random_normal(RandomKey key, std::uint64_t index);

}  // namespace pg::comm

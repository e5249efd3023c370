// Bob Jenkins' hash lookup3 ("hashlittle", 2006, in the public domain) with initial value 0: the
// checksum of HDF5's metadata and of the names in its groups.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <string_view>

namespace pg::io {

inline std::uint32_t lookup3(std::string_view bytes) {
  const auto start = 0xdeadbeefU + static_cast<std::uint32_t>(bytes.size());
  std::uint32_t a = start, b = start, c = start;
  if (bytes.empty()) return c;
  // Twelve bytes at a time, the last ones filled up with zeros.
  const auto add = [&](std::string_view part) {
    std::array<std::uint32_t, 3> words{};
    for (std::size_t i = 0; i < part.size(); ++i) {
      words[i / 4] |= static_cast<std::uint32_t>(static_cast<unsigned char>(part[i])) << i % 4 * 8;
    }
    a += words[0];
    b += words[1];
    c += words[2];
  };
  while (bytes.size() > 12) {
    add(bytes.substr(0, 12));
    bytes.remove_prefix(12);
    a -= c, a ^= std::rotl(c, 4), c += b;
    b -= a, b ^= std::rotl(a, 6), a += c;
    c -= b, c ^= std::rotl(b, 8), b += a;
    a -= c, a ^= std::rotl(c, 16), c += b;
    b -= a, b ^= std::rotl(a, 19), a += c;
    c -= b, c ^= std::rotl(b, 4), b += a;
  }
  add(bytes);
  c ^= b, c -= std::rotl(b, 14);
  a ^= c, a -= std::rotl(c, 11);
  b ^= a, b -= std::rotl(a, 25);
  c ^= b, c -= std::rotl(b, 16);
  a ^= c, a -= std::rotl(c, 4);
  b ^= a, b -= std::rotl(a, 14);
  c ^= b, c -= std::rotl(b, 24);
  return c;
}

}  // namespace pg::io

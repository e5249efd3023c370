#include "tests/fuzz/reseal.h"

#include <algorithm>
#include <bit>
#include <cstdint>

#include "io/lookup3.h"

namespace pg::fuzz {

namespace {

class Reseal {
 public:
  explicit Reseal(std::string_view bytes) : bytes_(bytes) {}

  std::string run() {
    if (bytes_.size() >= 48 && bytes_.starts_with("\x89HDF\r\n\x1A\n")) {
      put(28, bytes_.size(), 8);
      seal(0, 44);
    }
    // Continuation blocks say nothing of their length: the messages that name them do.
    for (std::size_t at = 0; at + 8 <= bytes_.size(); ++at) {
      const auto signature = bytes_.substr(at, 4);
      if (signature == "OHDR") header(at);
      if (signature == "FRHP") seal(at, 142);
      if (signature == "BTHD") seal(at, 34);
      if (signature == "BTLF" || signature == "BTIN") node(at);
      if (signature == "FHDB") direct_block(at);
      if (signature == "FHIB") indirect_block(at);
      if (signature == "OCHK") continuation(at);
    }
    return std::move(bytes_);
  }

 private:
  std::uint64_t get(std::size_t at, std::size_t width) const {
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < width && at + i < bytes_.size(); ++i) {
      value |= std::uint64_t{static_cast<unsigned char>(bytes_[at + i])} << 8 * i;
    }
    return value;
  }
  void put(std::size_t at, std::uint64_t value, std::size_t width) {
    for (std::size_t i = 0; i < width; ++i) bytes_[at + i] = static_cast<char>(value >> 8 * i);
  }
  bool inside(std::size_t at, std::uint64_t bytes) const {
    return bytes <= bytes_.size() && at <= bytes_.size() - bytes;
  }
  // The checksum of [at, at + covered) behind them.
  void seal(std::size_t at, std::uint64_t covered) {
    if (!inside(at, covered + 4)) return;
    put(at + covered, io::lookup3(std::string_view(bytes_).substr(at, covered)), 4);
  }

  void header(std::size_t at) {
    const auto flags = get(at + 5, 1);
    const auto width = std::size_t{1} << (flags & 3);
    const auto fixed = 6 + ((flags & 0x20) != 0 ? 16U : 0U) + ((flags & 0x10) != 0 ? 4U : 0U);
    if (const auto bytes = get(at + fixed, width); bytes <= bytes_.size()) {
      seal(at, fixed + width + bytes);
    }
  }

  // The number of records stands in the node's parent. Ours begin with the leaf's records alone,
  // which end where the node does or zeros follow; the shortest length that was right, or all.
  void node(std::size_t at) {
    const auto* kind = bytes_.compare(at, 4, "BTLF") == 0 ? "leaf" : "inner";
    const auto address = static_cast<std::uint64_t>(at);
    for (auto owner = bytes_.find("BTHD"); owner != bytes_.npos;
         owner = bytes_.find("BTHD", owner + 1)) {
      if (kind[0] == 'l' && get(owner + 16, 8) == address) {
        seal(at, 6 + 11 * get(owner + 24, 2));
        return;
      }
      if (kind[0] == 'i' && get(owner + 16, 8) == address) {
        const auto records = get(owner + 24, 2), depth = get(owner + 12, 2);
        const auto pointer = depth > 1 ? 11U : 9U;
        seal(at, 6 + 11 * records + (records + 1) * pointer);
        return;
      }
    }
    // A child: its number of records is the byte behind its address in the parent.
    char pattern[8];
    for (std::size_t i = 0; i < 8; ++i) pattern[i] = static_cast<char>(address >> 8 * i);
    for (auto parent = bytes_.find("BTIN"); parent != bytes_.npos;
         parent = bytes_.find("BTIN", parent + 1)) {
      const auto link = bytes_.find(std::string_view(pattern, 8), parent);
      if (link == bytes_.npos || link > parent + 512) continue;
      const auto records = get(link + 8, 1);
      seal(at, 6 + 11 * records + (kind[0] == 'i' ? (records + 1) * 9 : 0));
      return;
    }
  }

  void direct_block(std::size_t at) {
    // Blocks double from the third row of four on.
    const auto offset = get(at + 13, 4);
    const auto size =
        offset < 4096 ? 512 : std::min<std::uint64_t>(std::bit_floor(offset) / 4, 65536);
    if (!inside(at, size)) return;
    put(at + 17, 0, 4);
    put(at + 17, io::lookup3(std::string_view(bytes_).substr(at, size)), 4);
  }

  void indirect_block(std::size_t at) {
    for (auto heap = bytes_.find("FRHP"); heap != bytes_.npos;
         heap = bytes_.find("FRHP", heap + 1)) {
      if (get(heap + 132, 8) == at) seal(at, 17 + 32 * get(heap + 140, 2));
    }
  }

  void continuation(std::size_t at) {
    char pattern[8];
    for (std::size_t i = 0; i < 8; ++i) {
      pattern[i] = static_cast<char>(static_cast<std::uint64_t>(at) >> 8 * i);
    }
    const auto message = bytes_.find(std::string_view(pattern, 8));
    if (message == bytes_.npos) return;
    const auto bytes = get(message + 8, 8);
    if (bytes > 4 && bytes <= bytes_.size()) seal(at, bytes - 4);
  }

  std::string bytes_;
};

}  // namespace

std::string resealed(std::string_view bytes) {
  return Reseal(bytes).run();
}

}  // namespace pg::fuzz

// Bytes of HDF5 metadata for io/hdf5_guard.h: blocks with their signature and checksum, no two of
// them overlapping, and a cursor that cannot leave its block.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "io/hdf5_file.h"
#include "io/raw_file.h"

namespace pg::io::h5 {

inline constexpr std::uint64_t kNowhere = ~std::uint64_t{0};  // HDF5's undefined address

class Metadata {
 public:
  explicit Metadata(const Place& place);

  std::uint64_t size() const { return size_; }
  // "PATH: 'OBJECT' WHY"; without an object, of the file.
  [[noreturn]] void refuse(std::string_view object, std::string_view why) const;
  // Bytes [at, at + count), all inside the file and at most 16 MiB.
  std::string bytes(std::string_view object, std::uint64_t at, std::uint64_t count);
  // The same for a block that begins with `signature`, has its checksum at `checksum_at` (of all
  // bytes but its own; by default the last four) and shares none of its bytes with another.
  std::string block(std::string_view object, std::uint64_t at, std::uint64_t count,
                    std::string_view signature);
  // For the one kind of block whose checksum stands inside: counted as zero.
  std::string block_with_inner_checksum(std::string_view object, std::uint64_t at,
                                        std::uint64_t count, std::string_view signature,
                                        std::size_t checksum_at);

 private:
  void claim(std::string_view object, std::uint64_t at, std::uint64_t count);
  std::string signed_bytes(std::string_view object, std::uint64_t at, std::uint64_t count,
                           std::string_view signature);

  Place place_;
  RawFile file_;
  std::uint64_t size_ = 0;
  std::string window_;  // read ahead: headers lie close together
  std::uint64_t window_at_ = 0;
  std::map<std::uint64_t, std::uint64_t> claimed_;  // begin -> end
};

// Walks the bytes of one block or message. Errors name `object` and `what`.
class Cursor {
 public:
  Cursor(const Metadata& file, std::string_view object, std::string_view what,
         std::string_view bytes)
      : file_(&file), object_(object), what_(what), bytes_(bytes) {}

  std::size_t left() const { return bytes_.size(); }
  std::uint64_t number(std::size_t width);  // little-endian, 1 to 8 bytes
  std::uint64_t address() { return number(8); }
  std::string_view take(std::uint64_t count);
  // "PATH: 'OBJECT' WHY"; without an object, of the file.
  [[noreturn]] void refuse(std::string_view why) const;
  void expect(bool holds, std::string_view why) const {
    if (!holds) refuse(why);
  }
  // The next number must be this one.
  void expect_number(std::size_t width, std::uint64_t value, std::string_view name);
  void expect_end() const { expect(bytes_.empty(), "has bytes left over"); }

 private:
  const Metadata* file_;
  std::string_view object_, what_, bytes_;
};

// What a link message says.
struct LinkMessage {
  std::string name;
  bool hard = false;
  std::uint64_t target = kNowhere;  // of a hard link
};
// Reads one to its end.
LinkMessage read_link(Cursor& at);

// The links of a group that keeps them in a fractal heap, found through the B-tree of their names
// (HDF5 File Format Specification 3.0, III.A.2 and III.G), with the constants that HDF5 has for
// groups.
std::vector<LinkMessage> dense_links(Metadata& file, std::string_view object, std::uint64_t heap,
                                     std::uint64_t name_tree);

}  // namespace pg::io::h5

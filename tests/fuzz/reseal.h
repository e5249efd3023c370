// Makes the checksums of a changed HDF5 file right, so that fuzzing reaches what lies behind them.
#pragma once

#include <string>
#include <string_view>

namespace pg::fuzz {

// The same bytes with the superblock's end of file and the checksum of every block that begins with
// one of HDF5's signatures written anew, as far as the block lies inside.
std::string resealed(std::string_view bytes);

}  // namespace pg::fuzz

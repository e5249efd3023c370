// What stands between a file that nobody vouches for and the HDF5 library, whose reader crashes on
// some malformed metadata: every byte of metadata that the library would read is walked and checked
// here first. Called by h5::open_to_read, so for token files and checkpoints alike.
//
// What passes is what such files are made of, in the newer encodings ("libver latest", v1.8 and
// later), all of whose metadata carries checksums:
//   superblock version 2 or 3 at byte 0, no extension, no open-for-writing mark, end of file = size
//   object headers version 2 with continuation blocks that do not overlap
//   groups, at most two deep, whose links stand in the header or in a fractal heap with its v2
//   B-tree; soft and external links may stand there (the callers refuse and never follow them)
//   contiguous datasets and attributes of fixed-length integers, IEEE floats and strings, sizes
//   that agree with one another and with the file's, no shared messages
// The older encoding (superblock 0 and 1), which h5py writes by default, is refused with the
// remedy.
#pragma once

#include "io/hdf5_file.h"

namespace pg::io::h5 {

// Error(place.code) naming the file, the object and what is wrong with it. Memory: the largest
// block of metadata (16 MiB at most) and the names of one group. Reads no data.
void require_plain(const Place& place);

}  // namespace pg::io::h5

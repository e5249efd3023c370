// From the slabs a rank holds of a tensor to the few transfers that write them: pure arithmetic, no
// HDF5, no MPI. (io/checkpoint_reads.h is the way back.)
//
// HDF5 walks a selection in row-major order of the whole tensor. Slabs whose ranges in that order
// do not interleave (a ZeRO shard: end of a row, whole rows, start of a row) can therefore share
// one transfer through a staging buffer; interleaving ones (columns) go one by one.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "comm/tensor_record.h"

namespace pg::io {

// Slabs of one read or write, in file order. One slab moves straight from its own memory.
struct Transfer {
  std::vector<comm::Slab> slabs;
  std::int64_t elements = 0;
};

std::int64_t slab_elements(const comm::Slab& slab);
void check_inside(const comm::TensorRecord& tensor, const comm::Slab& slab);  // asserts

// Asserts that each slab lies inside the tensor. Empty slabs vanish; longer ones are cut along
// their leading axes, so that no transfer has more than `limit_bytes` (unless a single element is
// larger).
std::vector<Transfer> plan_transfers(const comm::TensorRecord& tensor,
                                     std::span<const comm::Slab> slabs, std::int64_t limit_bytes);

}  // namespace pg::io

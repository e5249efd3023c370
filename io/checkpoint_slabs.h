// What a slab of a tensor is: pure arithmetic, no HDF5, no MPI.
#pragma once

#include <cstdint>

#include "comm/tensor_record.h"

namespace pg::io {

std::int64_t slab_elements(const comm::Slab& slab);
// Asserts that the slab lies inside the tensor.
void check_inside(const comm::TensorRecord& tensor, const comm::Slab& slab);

}  // namespace pg::io

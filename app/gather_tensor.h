// A logical tensor put together from the parts that the ranks hold, for comparisons.
#pragma once

#include <vector>

#include "comm/group.h"
#include "comm/tensor_record.h"

namespace pg::app {

// Collective over `world`, which holds all owners: every element in global row-major order, as
// fp64, on every rank. What no slab owns is 0; what several own is a bug that shows as their sum.
std::vector<double> gather_tensor(comm::Group& world, const comm::TensorRecord& tensor);

}  // namespace pg::app

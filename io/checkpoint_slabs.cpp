#include "io/checkpoint_slabs.h"

#include "comm/error.h"

namespace pg::io {

using comm::Slab;
using comm::TensorRecord;

void check_inside(const TensorRecord& tensor, const Slab& slab) {
  const auto axes = tensor.shape.size();
  PG_ASSERT(slab.offset.size() == axes && slab.extent.size() == axes,
            "{}: a slab of {} and {} axes in a tensor of {}", tensor.name, slab.offset.size(),
            slab.extent.size(), axes);
  for (std::size_t a = 0; a < axes; ++a) {
    PG_ASSERT(slab.offset[a] >= 0 && slab.extent[a] >= 0 &&
                  slab.offset[a] <= tensor.shape[a] - slab.extent[a],
              "{}: axis {}: slab [{}, +{}) in extent {}", tensor.name, a, slab.offset[a],
              slab.extent[a], tensor.shape[a]);
  }
}

std::int64_t slab_elements(const Slab& slab) {
  std::int64_t n = 1;
  for (const auto extent : slab.extent) n *= extent;
  return n;
}

}  // namespace pg::io

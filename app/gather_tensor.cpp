#include "app/gather_tensor.h"

#include "comm/error.h"

namespace pg::app {

namespace {

template <class T>
void put(std::vector<double>& to, const comm::TensorRecord& tensor, const comm::Slab& slab) {
  const auto* from = static_cast<const T*>(slab.data);
  const auto width = tensor.shape.size() == 2 ? tensor.shape[1] : 1;
  const auto cols = slab.extent.size() == 2 ? slab.extent[1] : 1;
  const auto first = slab.offset.size() == 2 ? slab.offset[1] : 0;
  for (std::int64_t r = 0; r < slab.extent[0]; ++r) {
    for (std::int64_t c = 0; c < cols; ++c) {
      to[static_cast<std::size_t>((slab.offset[0] + r) * width + first + c)] =
          static_cast<double>(from[r * cols + c]);
    }
  }
}

}  // namespace

std::vector<double> gather_tensor(comm::Group& world, const comm::TensorRecord& tensor) {
  PG_ASSERT(tensor.shape.size() <= 2, "{} has {} axes", tensor.name, tensor.shape.size());
  std::vector<double> all(static_cast<std::size_t>(tensor.elements()));
  for (const auto& slab : tensor.slabs) {
    if (!slab.owner) continue;
    if (tensor.dtype == DType::kF64) {
      put<double>(all, tensor, slab);
    } else {
      PG_ASSERT(tensor.dtype == DType::kF32, "{}", dtype_name(tensor.dtype));
      put<float>(all, tensor, slab);
    }
  }
  world.all_reduce({all.data(), all.size(), DType::kF64, Device::kCpu}, comm::ReduceOp::kSum)
      .wait();
  return all;
}

}  // namespace pg::app

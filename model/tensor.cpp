#include "model/tensor.h"

namespace pg::model {

TensorView::TensorView(void* data, DType dtype, std::initializer_list<std::int64_t> shape,
                       Device device)
    : data_(data), dtype_(dtype), device_(device), rank_(static_cast<int>(shape.size())) {
  PG_ASSERT(rank_ >= 1 && rank_ <= kMaxRank, "rank {}", rank_);
  int axis = 0;
  for (const auto extent : shape) shape_[axis++] = extent;
  std::int64_t stride = 1;
  for (axis = rank_ - 1; axis >= 0; --axis) {
    stride_[axis] = stride;
    stride *= shape_[axis];
  }
}

std::int64_t TensorView::elements() const {
  if (rank_ == 0) return 0;
  std::int64_t n = 1;
  for (int axis = 0; axis < rank_; ++axis) n *= shape_[axis];
  return n;
}

bool TensorView::contiguous() const {
  std::int64_t stride = 1;
  for (int axis = rank_ - 1; axis >= 0; --axis) {
    if (shape_[axis] != 1 && stride_[axis] != stride) return false;
    stride *= shape_[axis];
  }
  return true;
}

std::string TensorView::text() const {
  std::string sizes;
  for (int axis = 0; axis < rank_; ++axis) {
    sizes += fmt::format("{}{}", axis == 0 ? "" : ", ", shape_[axis]);
  }
  return fmt::format("{}[{}]", dtype_name(dtype_), sizes);
}

TensorView TensorView::slice(int axis, std::int64_t begin, std::int64_t size) const {
  PG_ASSERT(axis >= 0 && axis < rank_ && begin >= 0 && size >= 0 && begin + size <= shape_[axis],
            "{} axis {} begin {} size {}", text(), axis, begin, size);
  TensorView part = *this;
  part.shape_[axis] = size;
  const auto offset = static_cast<std::size_t>(begin * stride_[axis]) * dtype_size(dtype_);
  // A dry run has views without storage.
  if (data_ != nullptr) part.data_ = static_cast<char*>(data_) + offset;
  return part;
}

TensorView TensorView::reshape(std::initializer_list<std::int64_t> shape) const {
  const TensorView other(data_, dtype_, shape, device_);
  PG_ASSERT(contiguous() && other.elements() == elements(), "{} to {}", text(), other.text());
  return other;
}

TensorView TensorView::split_last(std::int64_t inner) const {
  PG_ASSERT(rank_ < kMaxRank && rank_ >= 1 && shape_[rank_ - 1] % inner == 0, "{} by {}", text(),
            inner);
  TensorView view = *this;
  view.rank_ = rank_ + 1;
  view.shape_[rank_ - 1] = shape_[rank_ - 1] / inner;
  view.stride_[rank_ - 1] = inner;
  view.shape_[rank_] = inner;
  view.stride_[rank_] = 1;
  return view;
}

TensorView TensorView::split_first(std::int64_t outer) const {
  PG_ASSERT(rank_ < kMaxRank && rank_ >= 1 && outer > 0 && shape_[0] % outer == 0, "{} by {}",
            text(), outer);
  TensorView view = *this;
  view.rank_ = rank_ + 1;
  for (int axis = rank_; axis > 1; --axis) {
    view.shape_[axis] = shape_[axis - 1];
    view.stride_[axis] = stride_[axis - 1];
  }
  view.shape_[0] = outer;
  view.shape_[1] = shape_[0] / outer;
  view.stride_[1] = stride_[0];
  view.stride_[0] = stride_[0] * view.shape_[1];
  return view;
}

}  // namespace pg::model

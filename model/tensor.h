// Views of tensors. A view owns nothing: parameters live in model/param_store, activations in an
// Arena. Shapes are in elements, outermost first, at most four axes; the last axis is always
// contiguous, the others have strides, so that q, k and v can be views into one packed activation.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "comm/dtype.h"
#include "comm/error.h"

namespace pg::model {

class TensorView {
 public:
  static constexpr int kMaxRank = 4;

  TensorView() = default;  // empty: "this optional operand is absent"
  TensorView(void* data, DType dtype, std::initializer_list<std::int64_t> shape,
             Device device = Device::kCpu);

  void* raw() const { return data_; }
  // Typed access; PG_ASSERTs that the view holds T.
  template <class T>
  T* data() const {
    PG_ASSERT(dtype_ == dtype_of<T>::value, "view holds {}", dtype_name(dtype_));
    return static_cast<T*>(data_);
  }

  DType dtype() const { return dtype_; }
  Device device() const { return device_; }
  int rank() const { return rank_; }
  std::int64_t dim(int axis) const { return shape_[axis]; }
  std::int64_t stride(int axis) const { return stride_[axis]; }  // in elements
  std::int64_t elements() const;
  std::size_t bytes() const { return static_cast<std::size_t>(elements()) * dtype_size(dtype_); }
  bool empty() const { return rank_ == 0; }
  bool contiguous() const;
  std::string text() const;  // "bf16[4, 256, 768]"

  // Elements [begin, begin + size) along `axis`.
  TensorView slice(int axis, std::int64_t begin, std::int64_t size) const;
  // Another shape over the same elements, in the same order; needs contiguous().
  TensorView reshape(std::initializer_list<std::int64_t> shape) const;
  // Splits the last axis into (size / inner, inner): [N, H*D] -> [N, H, D]. Keeps outer strides.
  TensorView split_last(std::int64_t inner) const;
  // Splits the first axis into (outer, size / outer): [B*T, H, D] -> [B, T, H, D].
  TensorView split_first(std::int64_t outer) const;

 private:
  void* data_ = nullptr;
  DType dtype_ = DType::kF32;
  Device device_ = Device::kCpu;
  int rank_ = 0;
  std::array<std::int64_t, kMaxRank> shape_{};
  std::array<std::int64_t, kMaxRank> stride_{};
};

}  // namespace pg::model

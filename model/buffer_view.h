// A contiguous tensor as the bytes that a group moves.
#pragma once

#include "comm/group.h"
#include "model/tensor.h"

namespace pg::model {

inline comm::BufferView buffer_view(const TensorView& x) {
  PG_ASSERT(x.contiguous(), "{} is not one message", x.text());
  return {x.raw(), static_cast<std::size_t>(x.elements()), x.dtype(), x.device()};
}

}  // namespace pg::model

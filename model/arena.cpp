#include "model/arena.h"

#include <algorithm>

namespace pg::model {

Arena::Arena(std::size_t bytes, Buffer::Kind kind, Device device)
    : buffer_(bytes, kind, device), dry_(false) {
  PG_ASSERT(kind != Buffer::Kind::kDry, "a dry arena of {} bytes", bytes);
}

TensorView Arena::push(DType dtype, std::initializer_list<std::int64_t> shape) {
  const TensorView sized(nullptr, dtype, shape);
  const std::size_t begin = used_;
  const std::size_t rounded =
      (sized.bytes() + Buffer::kAlignment - 1) / Buffer::kAlignment * Buffer::kAlignment;
  used_ += rounded;
  high_water_ = std::max(high_water_, used_);
  if (dry_) return sized;
  PG_ASSERT(used_ <= buffer_.bytes(), "{} more of {} bytes for {}", used_ - begin, buffer_.bytes(),
            sized.text());
  return TensorView(buffer_.at(begin), dtype, shape, buffer_.device());
}

void Arena::release(std::size_t mark) {
  PG_ASSERT(mark <= used_, "mark {} used {}", mark, used_);
  used_ = mark;
}

}  // namespace pg::model

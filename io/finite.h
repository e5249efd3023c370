// Whether stored values are finite numbers: a state that is not is never saved.
#pragma once

#include <cstddef>
#include <optional>

#include "comm/dtype.h"

namespace pg::io {

// Index of the first of `count` elements that is a NaN or an infinity; integers have none.
// `data` is aligned for its type. Runs at about the speed of memory.
std::optional<std::size_t> first_not_finite(DType type, const void* data, std::size_t count);

}  // namespace pg::io

// What the writer and the reader of state.h5 share.
#pragma once

#include <span>
#include <vector>

#include "comm/tensor_record.h"
#include "io/checkpoint_slabs.h"
#include "io/hdf5_file.h"

namespace pg::io {

inline constexpr const char* kTensorGroup = "tensors";
inline constexpr const char* kFormatAttribute = "format";
inline constexpr const char* kStateFormat = "pentagrid state 1";
inline constexpr const char* kDtypeAttribute = "dtype";

inline std::vector<hsize_t> dims_of(const std::vector<std::int64_t>& extents) {
  return {extents.begin(), extents.end()};
}

}  // namespace pg::io

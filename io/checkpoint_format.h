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
// Staging memory of a rank, and the most that one read or write moves.
inline constexpr std::int64_t kTransferBytes = std::int64_t{32} << 20;

inline std::vector<hsize_t> dims_of(const std::vector<std::int64_t>& extents) {
  return {extents.begin(), extents.end()};
}

// The selection of a transfer in the dataset's space.
h5::Handle select_in_file(const h5::Place& place, hid_t dataset, const Transfer& transfer);
// A flat memory space of as many elements.
h5::Handle memory_space(const h5::Place& place, const Transfer& transfer);

}  // namespace pg::io

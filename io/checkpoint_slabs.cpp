#include "io/checkpoint_slabs.h"

#include <algorithm>

#include "comm/error.h"

namespace pg::io {

namespace {

using comm::Slab;
using comm::TensorRecord;

// Row-major index in the whole tensor of `slab`'s first or last element.
std::int64_t first_index(const TensorRecord& tensor, const Slab& slab) {
  std::int64_t index = 0;
  for (std::size_t a = 0; a < tensor.shape.size(); ++a) {
    index = index * tensor.shape[a] + slab.offset[a];
  }
  return index;
}
std::int64_t last_index(const TensorRecord& tensor, const Slab& slab) {
  std::int64_t index = 0;
  for (std::size_t a = 0; a < tensor.shape.size(); ++a) {
    index = index * tensor.shape[a] + slab.offset[a] + slab.extent[a] - 1;
  }
  return index;
}

// Pieces of at most `limit` elements, each contiguous in the slab's memory.
void cut(const Slab& slab, std::size_t axis, std::int64_t limit, std::size_t element_bytes,
         std::vector<Slab>& out) {
  const auto elements = slab_elements(slab);
  if (elements <= limit || axis == slab.extent.size()) {
    if (elements > 0) out.push_back(slab);
    return;
  }
  const auto row = elements / slab.extent[axis];
  const auto rows = std::max<std::int64_t>(1, limit / row);
  for (std::int64_t done = 0; done < slab.extent[axis]; done += rows) {
    Slab piece = slab;
    piece.offset[axis] += done;
    piece.extent[axis] = std::min(rows, slab.extent[axis] - done);
    piece.data =
        static_cast<char*>(slab.data) + static_cast<std::size_t>(done * row) * element_bytes;
    cut(piece, axis + 1, limit, element_bytes, out);
  }
}

}  // namespace

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

std::vector<Transfer> plan_transfers(const TensorRecord& tensor, std::span<const Slab> slabs,
                                     std::int64_t limit_bytes) {
  const auto element_bytes = dtype_size(tensor.dtype);
  const auto limit =
      std::max<std::int64_t>(1, limit_bytes / static_cast<std::int64_t>(element_bytes));
  std::vector<Slab> pieces;
  for (const auto& slab : slabs) {
    check_inside(tensor, slab);
    if (slab_elements(slab) > 0) cut(slab, 0, limit, element_bytes, pieces);
  }
  std::stable_sort(pieces.begin(), pieces.end(), [&](const Slab& a, const Slab& b) {
    return first_index(tensor, a) < first_index(tensor, b);
  });

  std::vector<Transfer> transfers;
  for (auto& piece : pieces) {
    const auto elements = slab_elements(piece);
    const bool joins =
        !transfers.empty() && transfers.back().elements + elements <= limit &&
        last_index(tensor, transfers.back().slabs.back()) < first_index(tensor, piece);
    if (!joins) transfers.emplace_back();
    transfers.back().slabs.push_back(std::move(piece));
    transfers.back().elements += elements;
  }
  return transfers;
}

}  // namespace pg::io

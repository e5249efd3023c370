#include "io/file_runs.h"

#include <algorithm>

#include "io/checkpoint_slabs.h"

namespace pg::io {

namespace {

// Axes from the returned one on are taken whole: a run covers them and a stretch of the axis
// before.
std::size_t first_whole_axis(const comm::TensorRecord& tensor, const comm::Slab& slab) {
  auto axis = tensor.shape.size();
  while (axis > 0 && slab.extent[axis - 1] == tensor.shape[axis - 1]) --axis;
  return axis;
}

void add_runs(const comm::TensorRecord& tensor, const comm::Slab& slab, std::int64_t begin,
              std::vector<FileRun>& runs) {
  const auto element = static_cast<std::int64_t>(dtype_size(tensor.dtype));
  std::int64_t count = 1;
  for (const auto extent : slab.extent) count *= extent;
  if (count == 0) return;
  const auto whole = first_whole_axis(tensor, slab);
  const auto outer = whole == 0 ? 0 : whole - 1;  // axes before it are walked one by one
  std::int64_t run = element;
  for (auto a = outer; a < slab.extent.size(); ++a) run *= slab.extent[a];
  const auto* data = static_cast<const char*>(slab.data);

  std::vector<std::int64_t> at(outer, 0);
  for (std::int64_t done = 0; done < count * element; done += run) {
    std::int64_t index = 0;
    for (std::size_t a = 0; a < slab.extent.size(); ++a) {
      index = index * tensor.shape[a] + slab.offset[a] + (a < outer ? at[a] : 0);
    }
    runs.push_back({begin + index * element, data + done, static_cast<std::size_t>(run)});
    for (auto a = outer; a-- > 0;) {
      if (++at[a] < slab.extent[a]) break;
      at[a] = 0;
    }
  }
}

}  // namespace

std::vector<FileRun> owned_runs(const comm::TensorRecord& tensor, std::int64_t begin) {
  std::vector<FileRun> runs;
  for (const auto& slab : tensor.slabs) {
    if (!slab.owner) continue;
    check_inside(tensor, slab);
    add_runs(tensor, slab, begin, runs);
  }
  std::sort(runs.begin(), runs.end(),
            [](const FileRun& a, const FileRun& b) { return a.offset < b.offset; });
  return runs;
}

std::size_t joined_runs(std::span<const FileRun> runs, std::size_t limit, std::size_t most) {
  std::size_t count = 1;
  auto bytes = runs.front().bytes;
  while (count < std::min(runs.size(), most)) {
    const auto& last = runs[count - 1];
    const auto& next = runs[count];
    if (last.offset + static_cast<std::int64_t>(last.bytes) != next.offset) break;
    if (bytes + next.bytes > limit) break;
    bytes += next.bytes;
    ++count;
  }
  return count;
}

}  // namespace pg::io

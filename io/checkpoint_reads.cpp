#include "io/checkpoint_reads.h"

#include <algorithm>
#include <queue>

#include "comm/error.h"
#include "io/checkpoint_slabs.h"

namespace pg::io {

namespace {

using comm::Slab;
using comm::TensorRecord;

// A read of narrow runs keeps a list of them: 24 bytes each.
constexpr std::size_t kMostRuns = std::size_t{64} << 10;

// The runs of one slab, in the file's order.
class SlabRuns {
 public:
  SlabRuns(const TensorRecord& tensor, const Slab& slab, std::int64_t offset) {
    run_.at = offset;
    run_.bytes = static_cast<std::int64_t>(dtype_size(tensor.dtype));
    run_.data = static_cast<char*>(slab.data);
    // Bytes from one index of an axis to the next.
    std::vector<std::int64_t> strides(tensor.shape.size(), run_.bytes);
    for (std::size_t a = strides.size(); a-- > 1;) strides[a - 1] = strides[a] * tensor.shape[a];
    for (std::size_t a = 0; a < strides.size(); ++a) run_.at += slab.offset[a] * strides[a];
    // A run ends at the last axis that the slab does not fill; the axes before count runs.
    std::size_t outer = strides.size();
    bool filled = true;
    while (outer > 0 && filled) {
      --outer;
      run_.bytes *= slab.extent[outer];
      filled = slab.extent[outer] == tensor.shape[outer];
    }
    for (std::size_t a = 0; a < outer; ++a) axes_.push_back({slab.extent[a], strides[a], 0});
  }

  const Run& run() const { return run_; }
  // False when this was the last one.
  bool next() {
    run_.data += run_.bytes;
    for (std::size_t a = axes_.size(); a-- > 0;) {
      auto& axis = axes_[a];
      run_.at += axis.stride;
      if (++axis.index < axis.extent) return true;
      run_.at -= axis.extent * axis.stride;
      axis.index = 0;
    }
    return false;
  }

 private:
  struct Axis {
    std::int64_t extent, stride, index;
  };
  std::vector<Axis> axes_;
  Run run_;
};

class Reader {
 public:
  Reader(const ReadLimits& limits, const std::function<void(const Read&)>& visit)
      : limits_(limits), visit_(visit) {
    PG_ASSERT(limits.direct_bytes > 0 && limits.direct_bytes <= limits.read_bytes,
              "direct reads from {} bytes on, of {} at most", limits.direct_bytes,
              limits.read_bytes);
  }

  void add(const Run& run) {
    if (run.bytes >= limits_.direct_bytes) {
      flush();
      in_place(run);
      return;
    }
    if (!joins(run)) flush();
    if (read_.runs.empty()) read_.begin = read_.end = run.at;
    read_.end = std::max(read_.end, run.at + run.bytes);
    wanted_ += run.bytes;
    read_.runs.push_back(run);
  }

  void flush() {
    if (!read_.runs.empty()) visit_(read_);
    read_.runs.clear();
    wanted_ = 0;
  }

 private:
  bool joins(const Run& run) const {
    if (read_.runs.empty() || read_.runs.size() >= kMostRuns) return false;
    const auto span = std::max(read_.end, run.at + run.bytes) - read_.begin;
    return run.at - read_.end <= limits_.bridge_bytes && span <= limits_.read_bytes &&
           span <= kBridgedShare * (wanted_ + run.bytes);
  }

  void in_place(Run run) {
    for (auto left = run.bytes; left > 0; left -= run.bytes) {
      run.bytes = std::min(left, limits_.read_bytes);
      visit_({run.at, run.at + run.bytes, {run}});
      run.at += run.bytes;
      run.data += run.bytes;
    }
  }

  const ReadLimits limits_;
  const std::function<void(const Read&)>& visit_;
  Read read_;
  std::int64_t wanted_ = 0;
};

}  // namespace

void for_each_read(std::span<const TensorRecord> tensors, std::span<const std::int64_t> offsets,
                   const ReadLimits& limits, const std::function<void(const Read&)>& visit) {
  PG_ASSERT(tensors.size() == offsets.size(), "{} tensors, {} offsets", tensors.size(),
            offsets.size());
  std::vector<SlabRuns> slabs;
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    for (const auto& slab : tensors[t].slabs) {
      check_inside(tensors[t], slab);
      if (slab_elements(slab) > 0) slabs.emplace_back(tensors[t], slab, offsets[t]);
    }
  }
  // Slabs by the place of their next run: those of columns take turns.
  const auto later = [](const SlabRuns* a, const SlabRuns* b) { return a->run().at > b->run().at; };
  std::priority_queue<SlabRuns*, std::vector<SlabRuns*>, decltype(later)> queue(later);
  for (auto& slab : slabs) queue.push(&slab);
  Reader reader(limits, visit);
  while (!queue.empty()) {
    auto* slab = queue.top();
    queue.pop();
    reader.add(slab->run());
    if (slab->next()) queue.push(slab);
  }
  reader.flush();
}

std::int64_t slab_bytes(std::span<const TensorRecord> tensors) {
  std::int64_t bytes = 0;
  for (const auto& tensor : tensors) {
    for (const auto& slab : tensor.slabs) {
      bytes += slab_elements(slab) * static_cast<std::int64_t>(dtype_size(tensor.dtype));
    }
  }
  return bytes;
}

}  // namespace pg::io

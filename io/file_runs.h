// From the slabs of a tensor to the runs of bytes that lie without gaps both in memory and in the
// file: pure arithmetic for positional reads and writes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "comm/tensor_record.h"

namespace pg::io {

struct FileRun {
  std::int64_t offset = 0;  // in the file, bytes
  const char* data = nullptr;
  std::size_t bytes = 0;
};

// The runs of the slabs that this rank owns, by offset, when the tensor's first byte lies at
// `begin`. Asserts that each slab lies inside the tensor; empty ones have no runs.
std::vector<FileRun> owned_runs(const comm::TensorRecord& tensor, std::int64_t begin);

// The longest leading part of `runs` that is one piece of the file of at most `limit` bytes and
// `most` runs; at least one run. How many runs it has.
std::size_t joined_runs(std::span<const FileRun> runs, std::size_t limit, std::size_t most);

}  // namespace pg::io

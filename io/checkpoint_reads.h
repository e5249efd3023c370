// From the slabs a rank holds of a checkpoint's tensors to the few large reads that fill them: pure
// arithmetic, no file, no MPI.
//
// A slab is a sequence of runs, pieces that are contiguous in the file and in memory. The runs of
// all slabs of all tensors are walked in the file's order; neighbours share a read, also across the
// bytes between them that nobody wants where that is cheaper than another read (the columns of a
// tensor-parallel shard). Never more than kBridgedShare times the bytes that are wanted are read.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "comm/tensor_record.h"

namespace pg::io {

// At least one byte of this many read is wanted, in every read.
inline constexpr std::int64_t kBridgedShare = 4;

struct ReadLimits {
  std::int64_t read_bytes = std::int64_t{16} << 20;  // of one read, and of staging memory
  // Bytes between two runs that one read may skip over: what is copied from the page cache, where
  // verifying has put the file, in the time of one more system call. (With 64 KiB the quarter
  // columns of 4 ranks read 4 times their bytes, and took 7 times as long as rows.) Storage itself
  // is read ahead by the system, across gaps.
  std::int64_t bridge_bytes = std::int64_t{4} << 10;
  std::int64_t direct_bytes = std::int64_t{4} << 20;  // runs from here on are read in place
};

// `bytes` from byte `at` of the file on belong at `data`.
struct Run {
  std::int64_t at = 0, bytes = 0;
  char* data = nullptr;
};

// Bytes [begin, end) of the file, and the runs inside, in order of `at`. A single run that is the
// whole needs no staging.
struct Read {
  std::int64_t begin = 0, end = 0;
  std::vector<Run> runs;

  std::int64_t bytes() const { return end - begin; }
  bool in_place() const { return runs.size() == 1 && runs.front().bytes == bytes(); }
};

// Every byte of every slab lies in exactly one run of one read; reads come in the file's order.
// `offsets` are where each tensor's first element lies in the file. Asserts that the slabs lie
// inside their tensors.
void for_each_read(std::span<const comm::TensorRecord> tensors,
                   std::span<const std::int64_t> offsets, const ReadLimits& limits,
                   const std::function<void(const Read&)>& visit);

// Bytes of a rank's slabs, copies counted again.
std::int64_t slab_bytes(std::span<const comm::TensorRecord> tensors);

}  // namespace pg::io

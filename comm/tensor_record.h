// The plain record through which model state and files meet: model fills it, io reads or writes it,
// neither includes the other. It describes one logical tensor and the parts of it that this rank
// holds.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "comm/dtype.h"

namespace pg::comm {

// One hyperslab of the global tensor, held contiguously (row-major over `extent`) at `data`.
struct Slab {
  std::vector<std::int64_t> offset;  // global index of its first element, one entry an axis
  std::vector<std::int64_t> extent;
  void* data = nullptr;  // not owned; host memory
  // Copies of a slab exist on several ranks; exactly one of them is the owner and writes it.
  // Every rank reads its own copy.
  bool owner = false;
};

struct TensorRecord {
  std::string name;  // "blocks.3.attention.q.weight"
  DType dtype = DType::kF32;
  std::vector<std::int64_t> shape;  // global, without any padding
  std::vector<Slab> slabs;          // what this rank holds; may be empty

  std::int64_t elements() const {
    std::int64_t n = 1;
    for (const auto extent : shape) n *= extent;
    return n;
  }
};

}  // namespace pg::comm

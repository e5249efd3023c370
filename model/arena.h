// Memory of activations: a stack of views in one buffer, with a high-water mark. Forward pushes
// what backward will read; temporaries live between `mark` and `release`. A dry arena has no
// storage and only counts: the same layer code run over it tells the bytes a step will need.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "model/buffer.h"
#include "model/tensor.h"

namespace pg::model {

class Arena {
 public:
  static Arena dry() { return Arena(); }
  explicit Arena(std::size_t bytes, Buffer::Kind kind = Buffer::Kind::kReal,
                 Device device = Device::kCpu);

  // Uninitialised, cache-line aligned. Error(kBug) when the arena is too small.
  TensorView push(DType dtype, std::initializer_list<std::int64_t> shape);

  std::size_t mark() const { return used_; }
  void release(std::size_t mark);
  std::size_t high_water() const { return high_water_; }

 private:
  Arena() = default;
  Buffer buffer_;
  bool dry_ = true;
  std::size_t used_ = 0, high_water_ = 0;
};

// Frees on scope exit what was pushed inside the scope.
class ArenaScope {
 public:
  explicit ArenaScope(Arena& arena) : arena_(arena), mark_(arena.mark()) {}
  ~ArenaScope() { arena_.release(mark_); }
  ArenaScope(const ArenaScope&) = delete;
  ArenaScope& operator=(const ArenaScope&) = delete;

 private:
  Arena& arena_;
  std::size_t mark_;
};

}  // namespace pg::model

// A second copy of the slabs that this rank owns, in memory that stays from save to save: what an
// asynchronous save writes while training goes on.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "comm/tensor_record.h"

namespace pg::io {

class StateCopy {
 public:
  StateCopy() = default;
  StateCopy(const StateCopy&) = delete;
  StateCopy& operator=(const StateCopy&) = delete;
  ~StateCopy();

  // Bytes of the slabs that this rank owns, as they lie in the copy.
  static std::size_t bytes_for(std::span<const comm::TensorRecord> tensors);
  // Memory for as much, touched, so that the first copy takes no longer than later ones.
  // Error(kSave) when there is not enough.
  void reserve(std::size_t bytes);
  // The same records with the owned slabs only, which point into the copy; valid until the next
  // call.
  std::vector<comm::TensorRecord> take(std::span<const comm::TensorRecord> tensors);

 private:
  void release();

  char* memory_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace pg::io

// What the operations of expert routing share: masks of whole micro-batches, their checks, and the
// types that probabilities come in.
#pragma once

#include "model/kernels/cpu/elements.h"

namespace pg::model::cpu {

// work.operator()<A>() for the accumulator type A of `type`, which must be one.
template <class Work>
decltype(auto) dispatch_accumulator(DType type, Work&& work) {
  PG_ASSERT(type == accumulator_of(type), "{} is not an accumulator type", dtype_name(type));
  if (type == DType::kF64) return std::forward<Work>(work).template operator()<double>();
  return std::forward<Work>(work).template operator()<float>();
}

// A view [sequences, rows, width] whose rows and sequences may lie further apart than they are
// long: part of the positions of each sequence.
template <class T>
struct Sequences {
  T* base;
  std::int64_t n, rows, width, sequence_stride, row_stride;

  explicit Sequences(const TensorView& view) {
    PG_ASSERT(view.rank() == 3, "{} is not [B, R, E]", view.text());
    base = view.data<T>();
    n = view.dim(0);
    rows = view.dim(1);
    width = view.dim(2);
    sequence_stride = view.stride(0);
    row_stride = view.stride(1);
  }
  T* at(std::int64_t sequence, std::int64_t row) const {
    return base + sequence * sequence_stride + row * row_stride;
  }
};

// work(sequence, first, width) for pieces of at most kPiece columns of each of n sequences, in
// parallel: a column's rows are walked by one thread, in order.
template <std::int64_t kPiece, class Work>
void for_columns(std::int64_t n, std::int64_t rows, std::int64_t columns, const Work& work) {
  const std::int64_t pieces = (columns + kPiece - 1) / kPiece;
#pragma omp parallel for schedule(static) if (n * rows * columns > kWorthATeam)
  for (std::int64_t task = 0; task < n * pieces; ++task) {
    const std::int64_t first = task % pieces * kPiece;
    work(task / pieces, first, std::min(kPiece, columns - first));
  }
}

inline void check_same(const TensorView& a, const TensorView& b) {
  PG_ASSERT(a.rank() == 2 && same_shape(a, b), "{} and {}", a.text(), b.text());
}

// vector[n] lies flat.
inline void check_vector(const TensorView& vector, std::int64_t n) {
  PG_ASSERT(vector.rank() == 1 && vector.dim(0) == n && vector.contiguous(), "{} for {} elements",
            vector.text(), n);
}

}  // namespace pg::model::cpu

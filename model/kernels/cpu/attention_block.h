// What forward and backward of attention share: the geometry of blocks and how they are read and
// written. attention_mask.h has the panels of queries and what they see, attention_product.h the
// products.
//
// Queries come in panels, keys in blocks of kKeyBlock. Scores are held transposed, [key][query]:
// the softmax of a query then runs down a column, without any sum across a vector, and keys and
// values are used as they lie. `lane` counts the queries of a panel; lanes past the last query hold
// zeros and are never stored.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <new>

#include "model/kernels/cpu/attention_mask.h"
#include "model/kernels/cpu/dispatch.h"
#include "model/kernels/cpu/simd_math.h"

namespace pg::model::cpu {

// Panels of a query block: so many share one conversion of a block of keys and values.
inline constexpr std::int64_t kPanels = 4;
template <class A>
inline constexpr std::int64_t kQueryBlock = kPanels* kPanel<A>;

template <class A>
constexpr std::int64_t whole_vectors(std::int64_t n) {
  return (n + kLanes<A> - 1) / kLanes<A> * kLanes<A>;
}

// A thread's block memory: grows to the largest request and stays, so calls allocate once. take()
// returns vector-aligned parts in turn; reserve() begins anew.
template <class A>
class Scratch {
 public:
  void reserve(std::int64_t elements) {
    used_ = 0;
    if (elements <= size_) return;
    memory_.reset(static_cast<A*>(::operator new (static_cast<std::size_t>(elements) * sizeof(A),
                                                  std::align_val_t{kVectorBytes})));
    size_ = elements;
  }
  A* take(std::int64_t elements) {
    A* part = memory_.get() + used_;
    used_ += whole_vectors<A>(elements);
    PG_ASSERT(used_ <= size_, "scratch of {}, {} taken", size_, used_);
    return part;
  }

 private:
  struct Free {
    void operator()(A* memory) const { ::operator delete (memory, std::align_val_t{kVectorBytes}); }
  };
  std::unique_ptr<A, Free> memory_;
  std::int64_t size_ = 0, used_ = 0;
};

template <class A>
Scratch<A>& thread_scratch() {
  thread_local Scratch<A> scratch;
  return scratch;
}

// The rows of one head of one sequence, D elements each.
template <class T>
struct HeadRows {
  T* first;
  std::int64_t stride;
  T* operator[](std::int64_t row) const { return first + row * stride; }
};

template <class T>
HeadRows<T> head_rows(const TensorView& x, std::int64_t sequence, std::int64_t head) {
  return {x.data<T>() + sequence * x.stride(0) + head * x.stride(2), x.stride(1)};
}

// to[count, width] = rows [begin, begin + count) in the accumulator type, zeros past column `size`.
template <class T>
void load_rows(acc_t<T>* to, std::int64_t width, HeadRows<T> rows, std::int64_t begin,
               std::int64_t count, std::int64_t size) {
  for (std::int64_t i = 0; i < count; ++i) {
    const T* from = rows[begin + i];
    acc_t<T>* row = to + i * width;
#pragma omp simd
    for (std::int64_t d = 0; d < size; ++d) row[d] = load(from[d]);
    std::fill(row + size, row + width, acc_t<T>{0});
  }
}

// to[size][panel] = factor * from[panel, width]^T.
template <class A>
void transpose_panel(A* to, const A* from, std::int64_t width, std::int64_t size, A factor) {
  for (std::int64_t d = 0; d < size; ++d) {
    for (std::int64_t lane = 0; lane < kPanel<A>; ++lane) {
      to[d * kPanel<A> + lane] = factor * from[lane * width + d];
    }
  }
}

// work.operator()<E>() for the element type E of an operand that is of type T or its accumulator
// type.
template <class T, class Work>
void with_element_type(DType type, const Work& work) {
  if (type == dtype_of<T>::value) return work.template operator()<T>();
  work.template operator()<acc_t<T>>();
}

// to = x, or to += x; in the accumulator type before it is rounded.
template <class E>
void put_sum(E& to, acc_t<E> x, bool accumulate) {
  to = store<E>(accumulate ? load(to) + x : x);
}

// attention_forward.cpp and attention_backward.cpp, for T = double, float, bf16.
template <class T>
void attention_forward(TensorView o, TensorView lse, TensorView q, TensorView k, TensorView v,
                       const AttentionShape& shape, const Dropout& dropout, int threads);
template <class T>
void attention_backward(TensorView dq, TensorView dk, TensorView dv, TensorView d_o, TensorView q,
                        TensorView k, TensorView v, TensorView o, TensorView lse,
                        const AttentionShape& shape, const Dropout& dropout, bool accumulate,
                        int threads);

// attention_merge.cpp, for A = double, float.
template <class A>
void attention_merge(TensorView o, TensorView lse, TensorView other_o, TensorView other_lse,
                     int threads);

}  // namespace pg::model::cpu

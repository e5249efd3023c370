// What forward and backward of attention share: the geometry of blocks and the work on one block.
//
// Queries come in panels as wide as two vectors, keys in blocks of kKeyBlock. Scores are held
// transposed, [key][query]: the softmax of a query then runs down a column, without any sum across
// a vector, and keys and values are used as they lie. `lane` counts the queries of a panel; lanes
// past the last query hold zeros and are never stored.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <memory>
#include <new>

#include "comm/random.h"
#include "model/kernels/cpu/attention_product.h"
#include "model/kernels/cpu/dispatch.h"
#include "model/kernels/cpu/simd_math.h"
#include "model/kernels/kernels.h"

namespace pg::model::cpu {

template <class A>
inline constexpr std::int64_t kPanel = 2 * kLanes<A>;
inline constexpr std::int64_t kKeyBlock = 64;
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

// The keys [begin, end) inside [block_begin, block_end) that some query of [first, last] sees.
struct KeyRange {
  std::int64_t begin, end;
  std::int64_t size() const { return end - begin; }
};

inline KeyRange visible_keys(std::int64_t first, std::int64_t last, std::int64_t window,
                             std::int64_t block_begin, std::int64_t block_end) {
  const std::int64_t oldest = window > 0 ? std::max<std::int64_t>(0, first - window + 1) : 0;
  return {std::max(block_begin, oldest), std::min(block_end, last + 1)};
}

// Minus infinity wherever a query may not see a key. s[keys][panel]; `first` is lane 0's query.
template <class A>
void mask_scores(A* s, KeyRange keys, std::int64_t first, std::int64_t window) {
  for (std::int64_t key = keys.begin; key < keys.end; ++key, s += kPanel<A>) {
    const std::int64_t low = std::clamp<std::int64_t>(key - first, 0, kPanel<A>);
    const std::int64_t high =
        window > 0 ? std::clamp<std::int64_t>(key + window - first, 0, kPanel<A>) : kPanel<A>;
    std::fill(s, s + low, -std::numeric_limits<A>::infinity());
    std::fill(s + high, s + kPanel<A>, -std::numeric_limits<A>::infinity());
  }
}

// words[4][lanes] = the four words of the counter that holds element `begin` + lane * pitch. GCC
// 12 vectorises this loop only while it stands alone and computes its counters.
template <int kWidth>
[[gnu::noinline]] void draw(std::uint32_t* __restrict words, comm::RandomKey key,
                            std::uint64_t sample, std::uint64_t begin, std::uint64_t pitch) {
#pragma omp simd
  for (int lane = 0; lane < kWidth; ++lane) {
    const auto four =
        comm::philox(key, sample, (begin + static_cast<std::uint64_t>(lane) * pitch) / 4);
    words[lane] = four[0];
    words[lane + kWidth] = four[1];
    words[lane + 2 * kWidth] = four[2];
    words[lane + 3 * kWidth] = four[3];
  }
}

// Dropout of the probabilities of one head of one sequence.
struct HeadDropout {
  HeadDropout(const Dropout& dropout, std::int64_t sequence, std::int64_t head,
              std::int64_t positions)
      : active(dropout.rate > 0.0),
        // Scaling by a power of two is exact: a survivor has bits / 2^32 >= rate, as contracted.
        largest_dropped(static_cast<std::uint32_t>(
            active ? static_cast<std::uint64_t>(std::ceil(dropout.rate * 4294967296.0)) - 1 : 0)),
        survivor(1.0 / (1.0 - dropout.rate)),
        key(dropout.key),
        sample(active ? static_cast<std::uint64_t>(dropout.samples[sequence]) : 0),
        row((dropout.first_head + head) * positions),
        length(positions) {}

  // keep[keys][panel] = 0 for a dropped probability, else 1 / (1 - rate); lane 0 is query `first`.
  template <class A>
  void fill(A* keep, KeyRange keys, std::int64_t first) const;

  bool active;
  std::uint32_t largest_dropped;
  double survivor;
  comm::RandomKey key;
  std::uint64_t sample;
  std::int64_t row, length;
};

template <class A>
[[gnu::noinline]] void HeadDropout::fill(A* keep, KeyRange keys, std::int64_t first) const {
  constexpr auto kWidth = kPanel<A>;
  const auto factor = static_cast<A>(survivor);
  const auto begin = static_cast<std::uint64_t>((row + first) * length + keys.begin);
  const auto pitch = static_cast<std::uint64_t>(length);
  // Rows of one word of every query: so the lanes draw together.
  alignas(kVectorBytes) std::uint32_t words[(kKeyBlock + 8) * kWidth];
  for (std::int64_t i = 0; i < keys.size() + 3; i += 4) {
    draw<kWidth>(words + i * kWidth, key, sample, begin + static_cast<std::uint64_t>(i), pitch);
  }
  // Where the first key's word lies: a query's row of keys need not begin with a whole counter.
  alignas(kVectorBytes) std::int32_t shift[kWidth];
  for (int lane = 0; lane < kWidth; ++lane) {
    const std::uint64_t word = (begin + static_cast<std::uint64_t>(lane) * pitch) % 4;
    shift[lane] = static_cast<std::int32_t>(word) * static_cast<std::int32_t>(kWidth) + lane;
  }
  for (std::int64_t i = 0; i < keys.size(); ++i) {
    const std::uint32_t* from = words + i * kWidth;
    A* to = keep + i * kWidth;
#pragma omp simd
    for (std::int64_t lane = 0; lane < kWidth; ++lane) {
      to[lane] = from[shift[lane]] > largest_dropped ? factor : A{0};
    }
  }
}

// attention_forward.cpp and attention_backward.cpp, for T = double, float, bf16.
template <class T>
void attention_forward(TensorView o, TensorView lse, TensorView q, TensorView k, TensorView v,
                       const AttentionShape& shape, const Dropout& dropout, int threads);
template <class T>
void attention_backward(TensorView dq, TensorView dk, TensorView dv, TensorView d_o, TensorView q,
                        TensorView k, TensorView v, TensorView o, TensorView lse,
                        const AttentionShape& shape, const Dropout& dropout, int threads);

}  // namespace pg::model::cpu

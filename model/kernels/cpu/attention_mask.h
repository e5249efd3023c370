// Which keys a panel of queries sees, and which of those dropout drops.
//
// Queries and keys are counted from 0 as they lie in their views. What is invisible gets a score of
// minus infinity, hence a probability of exactly zero: as long as it is finite, it changes no bit
// of any result.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "comm/random.h"
#include "model/kernels/cpu/attention_product.h"
#include "model/kernels/kernels.h"

namespace pg::model::cpu {

template <class A>
inline constexpr std::int64_t kPanel = 2 * kLanes<A>;
inline constexpr std::int64_t kKeyBlock = 64;

struct Range {
  std::int64_t begin, end;
  std::int64_t size() const { return end - begin; }
  Range within(Range o) const { return {std::max(begin, o.begin), std::min(end, o.end)}; }
};

// What the queries of one sequence see.
class Visibility {
 public:
  Visibility(const AttentionShape& shape, std::int64_t sequence)
      : offset_(shape.first_query - shape.first_key),
        window_(shape.window),
        first_key_(shape.first_key) {
    if (shape.visible_from.empty()) return;
    documents_ = shape.visible_from.data<std::int32_t>() + sequence * shape.visible_from.stride(0);
  }

  // The smallest range that holds all keys of `among` that some query of [first, last] sees; of
  // size 0 or less when there are none. Documents follow each other, so nearly all of it is seen;
  // the results do not rely on that.
  Range some(std::int64_t first, std::int64_t last, Range among) const {
    Range seen{0, last + offset_ + 1};
    if (window_ > 0) seen.begin = first + offset_ - window_ + 1;
    if (documents_ != nullptr) {
      std::int32_t lowest = documents_[first];
#pragma omp simd reduction(min : lowest)
      for (std::int64_t i = first; i <= last; ++i) lowest = std::min(lowest, documents_[i]);
      seen.begin = std::max(seen.begin, lowest - first_key_);
    }
    return seen.within(among);
  }
  // The keys that all of these queries see; not cut to those that exist.
  Range every(std::int64_t first, std::int64_t last) const {
    Range seen{0, first + offset_ + 1};
    if (window_ > 0) seen.begin = last + offset_ - window_ + 1;
    if (documents_ != nullptr) {
      std::int32_t highest = documents_[first];
#pragma omp simd reduction(max : highest)
      for (std::int64_t i = first; i <= last; ++i) highest = std::max(highest, documents_[i]);
      seen.begin = std::max(seen.begin, highest - first_key_);
    }
    return seen;
  }
  // Queries before this one see no key from `key` on.
  std::int64_t first_query_of(std::int64_t key) const {
    return key - offset_;
  }

  // Minus infinity wherever a query of [first, last] may not see a key. s[keys][panel]; lane 0 is
  // query `first`.
  template <class A>
  void mask(A* s, Range keys, std::int64_t first, std::int64_t last) const;

 private:
  std::int64_t offset_;  // query i stands where key i + offset does
  std::int64_t window_, first_key_;
  const std::int32_t* documents_ = nullptr;  // where the document of each query begins
};

template <class A>
void Visibility::mask(A* s, Range keys, std::int64_t first, std::int64_t last) const {
  constexpr auto kWidth = kPanel<A>;
  constexpr A kHidden = -std::numeric_limits<A>::infinity();
  for (std::int64_t key = keys.begin; key < keys.end; ++key) {
    A* row = s + (key - keys.begin) * kWidth;
    const std::int64_t lane = key - offset_ - first;  // of the query at the key's position
    const std::int64_t low = std::clamp<std::int64_t>(lane, 0, kWidth);
    const std::int64_t high =
        window_ > 0 ? std::clamp<std::int64_t>(lane + window_, 0, kWidth) : kWidth;
    std::fill(row, row + low, kHidden);
    std::fill(row + high, row + kWidth, kHidden);
  }
  if (documents_ == nullptr) return;
  for (std::int64_t query = first; query <= last; ++query) {
    const std::int64_t hidden = std::min(documents_[query] - first_key_, keys.end);
    for (std::int64_t key = keys.begin; key < hidden; ++key) {
      s[(key - keys.begin) * kWidth + query - first] = kHidden;
    }
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
  // `keys`: how many there are; the whole sequence, when the shape does not say.
  HeadDropout(const Dropout& dropout, const AttentionShape& shape, std::int64_t keys,
              std::int64_t sequence, std::int64_t head)
      : active(dropout.rate > 0.0),
        // Scaling by a power of two is exact: a survivor has bits / 2^32 >= rate, as contracted.
        largest_dropped(static_cast<std::uint32_t>(
            active ? static_cast<std::uint64_t>(std::ceil(dropout.rate * 4294967296.0)) - 1 : 0)),
        survivor(1.0 / (1.0 - dropout.rate)),
        key(dropout.key),
        sample(active ? static_cast<std::uint64_t>(dropout.samples[sequence]) : 0),
        length(shape.seq > 0 ? shape.seq : keys),
        row((dropout.first_head + head) * length + shape.first_query),
        column(shape.first_key) {}

  // keep[keys][panel] = 0 for a dropped probability, else 1 / (1 - rate); lane 0 is query `first`.
  template <class A>
  void fill(A* keep, Range keys, std::int64_t first) const;

  bool active;
  std::uint32_t largest_dropped;
  double survivor;
  comm::RandomKey key;
  std::uint64_t sample;
  std::int64_t length, row, column;  // of query 0 and key 0
};

template <class A>
[[gnu::noinline]] void HeadDropout::fill(A* keep, Range keys, std::int64_t first) const {
  constexpr auto kWidth = kPanel<A>;
  const auto factor = static_cast<A>(survivor);
  const auto begin = static_cast<std::uint64_t>((row + first) * length + column + keys.begin);
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

}  // namespace pg::model::cpu

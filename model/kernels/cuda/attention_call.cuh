// What one call of attention hands to its kernels, by value: rows of operands, what each query
// sees, and which probabilities dropout drops. Queries and keys are counted from 0 as they lie in
// their views.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "comm/random.h"
#include "model/kernels/cuda/elements.cuh"

namespace pg::model::cuda {

// The rows of one head of one sequence.
template <class T>
struct HeadRows {
  const T* data;
  std::int64_t stride;
  bool packs;  // each row begins at a multiple of 16 bytes and is a multiple of 16 bytes long
  __device__ const T* at(int row) const { return data + row * stride; }
};

// [B, rows, heads, D] that kernels read.
template <class T>
struct Input {
  const T* data;
  std::int64_t sequence, row, head;  // strides
  bool packs;
  __device__ HeadRows<T> rows(int b, int h) const {
    return {data + b * sequence + h * head, row, packs};
  }
};

// [B, rows, heads, D] that kernels write: of the compute type, or `wide`: of its accumulator type.
struct Output {
  void* data;
  std::int64_t sequence, row, head;
  bool wide, pairs, accumulate;  // pairs: two elements from an even column are one access

  __device__ std::int64_t offset(int b, int r, int h) const {
    return b * sequence + r * row + h * head;
  }
  template <class T>
  __device__ void put(std::int64_t at, acc_t<T> x) const {
    if (wide) {
      auto& to = static_cast<acc_t<T>*>(data)[at];
      to = accumulate ? to + x : x;
    } else {
      auto& to = static_cast<T*>(data)[at];
      to = store<T>(accumulate ? load(to) + x : x);
    }
  }
  // bf16 alone. `two`: the second element exists.
  __device__ void put_pair(std::int64_t at, float x, float y, bool two) const {
    if (!pairs || !two || accumulate) {
      put<bf16>(at, x);
      if (two) put<bf16>(at + 1, y);
    } else if (wide) {
      *reinterpret_cast<float2*>(static_cast<float*>(data) + at) = make_float2(x, y);
    } else {
      struct alignas(4) Pair {
        bf16 x, y;
      };
      *reinterpret_cast<Pair*>(static_cast<bf16*>(data) + at) = {bf16(x), bf16(y)};
    }
  }
};

// Log-sum-exp of a query's scores and rowsum(dO O). Rows are padded to whole tiles: +infinity, 0
// make all probabilities of a row zero.
template <class A>
struct alignas(2 * sizeof(A)) RowStats {
  A lse, delta;
};

struct Span {
  int begin, end;
  __device__ int size() const { return end - begin; }
  __device__ bool holds(int i) const { return i >= begin && i < end; }
  __device__ Span within(int from, int to) const {
    return {begin > from ? begin : from, end < to ? end : to};
  }
};

// The earliest and latest beginning of a document among kDocumentTile queries.
struct DocumentRange {
  std::int32_t lowest, highest;
};
inline constexpr int kDocumentTile = 64;

// The block's own share of a grid over tiles, sequences, heads and slices of a head.
struct TileTask {
  int tile, b, h, slice;
  // Last tile first when `backwards`: the most work first, the least then fills the GPU's end.
  __device__ TileTask(int tiles, int sequences, int heads, int slices, bool backwards) {
    auto task = static_cast<int>(blockIdx.x);
    slice = task % slices;
    task /= slices;
    h = task % heads;
    task /= heads;
    b = task % sequences;
    tile = task / sequences;
    if (backwards) tile = tiles - 1 - tile;
  }
};

struct AttentionCall {
  int sequences, queries, keys, heads, kv_heads, size;
  int group;   // query heads of a key head
  int padded;  // queries of RowStats
  double scale;
  std::int64_t offset;  // query i stands where key i + offset does
  std::int64_t window;  // 0: none

  const std::int32_t* documents;  // [B, queries]: where the query's document begins; null: at 0
  std::int64_t documents_stride, first_key;
  const DocumentRange* document_ranges;  // [B, tiles]

  comm::RandomKey key;
  const std::int64_t* samples;       // [B]
  std::int64_t length, row, column;  // of the sequence; element of query 0 and key 0 of head 0
  std::uint32_t largest_dropped;
  double survivor;

  __device__ int clamped(std::int64_t at) const {
    return static_cast<int>(at < 0 ? 0 : at > keys ? keys : at);
  }
  __device__ std::int64_t document(int b, int query) const {
    return documents[b * documents_stride + query] - first_key;
  }
  // The keys that a query sees.
  __device__ Span seen_by(int b, int query) const {
    const auto last = query + offset;
    auto begin = window > 0 ? last - window + 1 : std::int64_t{0};
    if (documents != nullptr) begin = larger(begin, document(b, query));
    return {clamped(begin), clamped(last + 1)};
  }
  // Outside of it no query of [first, end) sees a key; size 0 or less: none does.
  __device__ Span seen_by_some(int b, int first, int end) const {
    auto begin = window > 0 ? first + offset - window + 1 : std::int64_t{0};
    if (documents != nullptr) begin = larger(begin, documents_of(b, first, end).lowest - first_key);
    return {clamped(begin), clamped(end + offset)};
  }
  // Every query of [first, end) sees these.
  __device__ Span seen_by_every(int b, int first, int end) const {
    auto begin = window > 0 ? end + offset - window : std::int64_t{0};
    if (documents != nullptr) {
      begin = larger(begin, documents_of(b, first, end).highest - first_key);
    }
    return {clamped(begin), clamped(first + offset + 1)};
  }
  // Queries outside of it see no key of [first, end).
  __device__ Span queries_of(int first, int end) const {
    const auto clamp = [&](std::int64_t query) {
      return static_cast<int>(query < 0 ? 0 : query > queries ? queries : query);
    };
    return {clamp(first - offset), window > 0 ? clamp(end - 1 - offset + window) : queries};
  }

  // What dropout makes of a probability: 0, or 1 / (1 - rate).
  template <class A>
  __device__ A keep(int b, int h, int query, int key_index) const {
    const auto at = element(h, query, key_index);
    const auto four = comm::philox(key, static_cast<std::uint64_t>(samples[b]), at / 4);
    // Chosen by comparisons: an index would put all four into memory.
    const auto low = at % 2 == 0 ? four[0] : four[1], high = at % 2 == 0 ? four[2] : four[3];
    return kept<A>(at % 4 < 2 ? low : high);
  }
  // Of two neighbouring keys: mostly of one counter.
  __device__ float2 keep_pair(int b, int h, int query, int key_index) const {
    const auto at = element(h, query, key_index);
    const auto sample = static_cast<std::uint64_t>(samples[b]);
    auto four = comm::philox(key, sample, at / 4);
    const auto word = static_cast<unsigned>(at % 4);
    const std::uint32_t first = word == 0   ? four[0]
                                : word == 1 ? four[1]
                                : word == 2 ? four[2]
                                            : four[3];
    if (word == 3) four = comm::philox(key, sample, at / 4 + 1);
    const std::uint32_t second = word == 0   ? four[1]
                                 : word == 1 ? four[2]
                                 : word == 2 ? four[3]
                                             : four[0];
    return make_float2(kept<float>(first), kept<float>(second));
  }

 private:
  __device__ std::uint64_t element(int h, int query, int key_index) const {
    return static_cast<std::uint64_t>((row + h * length + query) * length + column + key_index);
  }
  template <class A>
  __device__ A kept(std::uint32_t bits) const {
    return bits > largest_dropped ? static_cast<A>(survivor) : A{0};
  }
  __device__ DocumentRange documents_of(int b, int first, int end) const {
    const auto* ranges = document_ranges + static_cast<std::int64_t>(b) *
                                               ((queries + kDocumentTile - 1) / kDocumentTile);
    auto all = ranges[first / kDocumentTile];
    for (int i = first / kDocumentTile + 1; i <= (end - 1) / kDocumentTile; ++i) {
      all.lowest = ranges[i].lowest < all.lowest ? ranges[i].lowest : all.lowest;
      all.highest = ranges[i].highest > all.highest ? ranges[i].highest : all.highest;
    }
    return all;
  }
};

}  // namespace pg::model::cuda

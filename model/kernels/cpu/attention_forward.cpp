// Forward attention after Dao et al. 2022 (FlashAttention; the loop order of FlashAttention-2): a
// thread owns a block of queries and meets the keys block by block, keeping for each query the
// largest score so far, the sum of exponentials relative to it, and the unnormalised output.
#include "model/kernels/cpu/attention_block.h"

namespace pg::model::cpu {
namespace {

// State of a panel between key blocks; [.][panel] all of them.
template <class A>
struct Panel {
  A* q;               // [D][panel], scaled
  A* o;               // [D][panel]
  A* top;             // largest score
  A* sum;             // of exp(score - top)
  A* change;          // exp(old top - new top): what older sums are worth now
  Range some, every;  // keys that some, and that all, of its queries see
};

// s[keys][panel]: scores to exp(score - top), with the new top.
template <class A>
[[gnu::noinline]] void online_softmax(A* s, std::int64_t keys, const Panel<A>& panel) {
  using Vector = typename VectorOf<A>::type;
  constexpr auto kWidth = kPanel<A>;
  const auto at = [](A* x) -> Vector& { return *reinterpret_cast<Vector*>(x); };

  Vector top[2] = {at(panel.top), at(panel.top + kLanes<A>)};
  for (std::int64_t key = 0; key < keys; ++key) {
    for (int v = 0; v < 2; ++v) {
      const Vector score = at(s + key * kWidth + v * kLanes<A>);
      top[v] = score > top[v] ? score : top[v];  // passes NaN by; the exponential brings it back
    }
  }
  alignas(kVectorBytes) A offset[kWidth];
  at(offset) = top[0];
  at(offset + kLanes<A>) = top[1];
#pragma omp simd
  for (std::int64_t lane = 0; lane < kWidth; ++lane) {
    const A newest = offset[lane];
    // A query that has seen no key yet: any offset will do, but not infinity minus infinity.
    offset[lane] = newest == -std::numeric_limits<A>::infinity() ? A{0} : newest;
    panel.change[lane] = simd_exp(panel.top[lane] - offset[lane]);
    panel.top[lane] = newest;
  }
  for (std::int64_t key = 0; key < keys; ++key) {
    A* row = s + key * kWidth;
#pragma omp simd
    for (std::int64_t lane = 0; lane < kWidth; ++lane)
      row[lane] = simd_exp(row[lane] - offset[lane]);
  }
  Vector sum[2] = {};
  for (std::int64_t key = 0; key < keys; ++key) {
    for (int v = 0; v < 2; ++v) sum[v] += at(s + key * kWidth + v * kLanes<A>);
  }
  for (int v = 0; v < 2; ++v) {
    auto& total = at(panel.sum + v * kLanes<A>);
    total = total * at(panel.change + v * kLanes<A>) + sum[v];
  }
}

template <class T>
struct ForwardBlock {
  using A = acc_t<T>;
  static constexpr auto kWidth = kPanel<A>;

  HeadRows<T> q, k, v;
  A* lse;  // [Q] of this head
  std::int64_t queries, keys, size;
  A scale;
  Visibility visibility;
  HeadDropout dropout;

  // Queries [begin, begin + kQueryBlock); o[Q, D] is of this head.
  template <class E>
  void run(std::int64_t begin, HeadRows<E> o) const {
    const std::int64_t width = whole_vectors<A>(size);
    const std::int64_t end = std::min(begin + kQueryBlock<A>, queries);
    auto& scratch = thread_scratch<A>();
    scratch.reserve(kPanels * (2 * size + 3) * kWidth + 2 * kKeyBlock * (width + kWidth) +
                    kWidth * width);
    A* key_rows = scratch.take(kKeyBlock * width);
    A* value_rows = scratch.take(kKeyBlock * width);
    A* scores = scratch.take(kKeyBlock * kWidth);
    A* keep = scratch.take(kKeyBlock * kWidth);
    A* rows = scratch.take(kWidth * width);

    Panel<A> panels[kPanels];
    for (std::int64_t p = 0; begin + p * kWidth < end; ++p) {
      const std::int64_t first = begin + p * kWidth, count = std::min(kWidth, end - first);
      auto& panel = panels[p];
      panel = {scratch.take(size * kWidth),
               scratch.take(size * kWidth),
               scratch.take(kWidth),
               scratch.take(kWidth),
               scratch.take(kWidth),
               visibility.some(first, first + count - 1, {0, keys}),
               visibility.every(first, first + count - 1)};
      load_rows(rows, width, q, first, count, size);
      std::fill(rows + count * width, rows + kWidth * width, A{0});
      transpose_panel(panel.q, rows, width, size, scale);
      std::fill(panel.o, panel.o + size * kWidth, A{0});
      std::fill(panel.top, panel.top + kWidth, -std::numeric_limits<A>::infinity());
      std::fill(panel.sum, panel.sum + kWidth, A{0});
    }

    const auto all = visibility.some(begin, end - 1, {0, keys});
    for (std::int64_t block = all.begin / kKeyBlock * kKeyBlock; block < all.end;
         block += kKeyBlock) {
      const auto seen = all.within({block, block + kKeyBlock});
      if (seen.size() <= 0) break;  // only where `all` is empty
      load_rows(key_rows, width, k, seen.begin, seen.size(), size);
      load_rows(value_rows, width, v, seen.begin, seen.size(), size);
      for (std::int64_t p = 0; begin + p * kWidth < end; ++p) {
        const std::int64_t first = begin + p * kWidth, last = std::min(first + kWidth, end) - 1;
        const auto part = panels[p].some.within(seen);
        if (part.size() <= 0) continue;
        const auto& panel = panels[p];
        const std::int64_t skip = (part.begin - seen.begin) * width;
        multiply<A, Order::kRows, Into::kAssign>(
            {scores, kWidth, key_rows + skip, width, panel.q, kWidth, size}, part.size(), kWidth);
        if (part.begin < panel.every.begin || part.end > panel.every.end) {
          visibility.mask(scores, part, first, last);
        }
        online_softmax(scores, part.size(), panel);
        if (dropout.active) {
          dropout.fill(keep, part, first);
          for (std::int64_t i = 0; i < part.size() * kWidth; ++i) scores[i] *= keep[i];
        }
        multiply<A, Order::kColumns, Into::kScaleAdd>(
            {panel.o, kWidth, value_rows + skip, width, scores, kWidth, part.size(), panel.change},
            size, kWidth);
      }
    }

    for (std::int64_t p = 0; begin + p * kWidth < end; ++p) {
      const std::int64_t first = begin + p * kWidth, count = std::min(kWidth, end - first);
      const auto& panel = panels[p];
      for (std::int64_t lane = 0; lane < count; ++lane) {
        const std::int64_t query = first + lane;
        E* row = o[query];
        if (visibility.some(query, query, {0, keys}).size() <= 0) {
          std::fill_n(row, size, E{});
          lse[query] = -std::numeric_limits<A>::infinity();
          continue;
        }
        // Only infinite operands make every score minus infinity: not to be taken for "sees none".
        const A sum =
            panel.sum[lane] == A{0} ? std::numeric_limits<A>::quiet_NaN() : panel.sum[lane];
        const A factor = A{1} / sum;
        for (std::int64_t d = 0; d < size; ++d) {
          row[d] = store<E>(panel.o[d * kWidth + lane] * factor);
        }
        lse[query] = panel.top[lane] + std::log(sum);
      }
    }
  }
};

}  // namespace

template <class T>
void attention_forward(TensorView o, TensorView lse, TensorView q, TensorView k, TensorView v,
                       const AttentionShape& shape, const Dropout& dropout, int threads) {
  using A = acc_t<T>;
  const std::int64_t sequences = q.dim(0), queries = q.dim(1), heads = q.dim(2), keys = k.dim(1);
  const std::int64_t group = heads / k.dim(2);
  const std::int64_t blocks = (queries + kQueryBlock<A> - 1) / kQueryBlock<A>;
  // Longest blocks first: the short ones then fill the threads' ends.
#pragma omp parallel for num_threads(threads) schedule(dynamic)
  for (std::int64_t task = 0; task < sequences * heads * blocks; ++task) {
    const std::int64_t block = blocks - 1 - task / (sequences * heads);
    const std::int64_t b = task / heads % sequences, h = task % heads;
    const ForwardBlock<T> work{head_rows<T>(q, b, h),
                               head_rows<T>(k, b, h / group),
                               head_rows<T>(v, b, h / group),
                               lse.data<A>() + b * lse.stride(0) + h * lse.stride(1),
                               queries,
                               keys,
                               q.dim(3),
                               static_cast<A>(shape.scale),
                               Visibility(shape, b),
                               HeadDropout(dropout, shape, keys, b, h)};
    with_element_type<T>(
        o.dtype(), [&]<class E>() { work.run(block * kQueryBlock<A>, head_rows<E>(o, b, h)); });
  }
}

template void attention_forward<double>(TensorView, TensorView, TensorView, TensorView, TensorView,
                                        const AttentionShape&, const Dropout&, int);
template void attention_forward<float>(TensorView, TensorView, TensorView, TensorView, TensorView,
                                       const AttentionShape&, const Dropout&, int);
template void attention_forward<bf16>(TensorView, TensorView, TensorView, TensorView, TensorView,
                                      const AttentionShape&, const Dropout&, int);

}  // namespace pg::model::cpu

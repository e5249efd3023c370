// Backward attention after Dao et al. 2022 (FlashAttention-2, algorithm 2). The probabilities are
// made again from scores and log-sum-exp:
//   P = exp(S - lse)   dV = (mask P)^T dO   dS = P (mask dO V^T - rowsum(dO O))   dQ = dS K   dK =
//   dS^T Q
//
// One sweep over a rectangle of queries and keys gives dQ of its queries, dK and dV of its keys, or
// all three. Where (sequence, kv head) pairs keep all threads busy, a sweep takes a whole pair and
// does five products a block. Otherwise two passes, over blocks of keys and over blocks of queries,
// do seven. Every sum has the same terms in the same order either way: for a key over heads, then
// panels of queries; for a query over blocks of keys. So the bits depend neither on the thread
// count nor on the path, and nothing is summed by two threads.
#include "model/kernels/cpu/attention_block.h"

namespace pg::model::cpu {
namespace {

// Keys that a task of the pass for dK and dV owns.
constexpr std::int64_t kKeyTask = 4 * kKeyBlock;
// The one-pass sweep holds dK and dV of a pair in the accumulator type: 8 MiB is 16,384 keys of 64.
constexpr std::int64_t kMaxGradientBytes = std::int64_t{8} << 20;

template <class A>
struct Panel {
  A *q_columns, *do_columns;  // [D][panel], q scaled
  A *q_rows, *do_rows;        // [panel][D, padded]
  A *lse, *delta;             // [panel]; delta = rowsum(dO O)
  A* dq;                      // [D][panel]
  Range some, every;          // keys that some, and that all, of its queries see
};

// s[keys][panel], dp likewise: scores and dO V^T to mask P and dS.
template <class A>
[[gnu::noinline]] void probabilities(A* s, A* dp, const A* keep, std::int64_t keys,
                                     const Panel<A>& panel, A scale) {
  constexpr auto kWidth = kPanel<A>;
  const A *lse = panel.lse, *delta = panel.delta;
  for (std::int64_t key = 0; key < keys; ++key) {
    A *score = s + key * kWidth, *gradient = dp + key * kWidth;
    if (keep == nullptr) {
#pragma omp simd
      for (std::int64_t lane = 0; lane < kWidth; ++lane) {
        const A p = simd_exp(score[lane] - lse[lane]);
        score[lane] = p;
        gradient[lane] = scale * p * (gradient[lane] - delta[lane]);
      }
    } else {
      const A* mask = keep + key * kWidth;
#pragma omp simd
      for (std::int64_t lane = 0; lane < kWidth; ++lane) {
        const A p = simd_exp(score[lane] - lse[lane]);
        score[lane] = p * mask[lane];
        gradient[lane] = scale * p * (gradient[lane] * mask[lane] - delta[lane]);
      }
    }
  }
}

template <class T>
struct BackwardCall {
  using A = acc_t<T>;
  static constexpr auto kWidth = kPanel<A>;

  TensorView dq, dk, dv, d_o, q, k, v, o, lse;
  const AttentionShape& shape;
  const Dropout& dropout;
  bool accumulate;

  std::int64_t size() const { return q.dim(3); }
  std::int64_t group() const { return q.dim(2) / k.dim(2); }

  // `queries` and `keys` begin at multiples of their blocks.
  void sweep(std::int64_t b, Range heads, Range queries, Range keys, bool want_dq,
             bool want_dkv) const;

 private:
  void load_panel(const Panel<A>& panel, A* rows, std::int64_t b, std::int64_t h,
                  std::int64_t first, std::int64_t count) const;
  void put_dq(std::int64_t b, std::int64_t h, Range queries, const Panel<A>* panels) const;
  void put_keys(TensorView to, std::int64_t b, std::int64_t kv_head, Range keys,
                const A* gradients) const;
};

template <class T>
void BackwardCall<T>::load_panel(const Panel<A>& panel, A* rows, std::int64_t b, std::int64_t h,
                                 std::int64_t first, std::int64_t count) const {
  const std::int64_t width = whole_vectors<A>(size()), past = kWidth - count;
  load_rows(panel.q_rows, width, head_rows<T>(q, b, h), first, count, size());
  load_rows(panel.do_rows, width, head_rows<T>(d_o, b, h), first, count, size());
  std::fill_n(panel.q_rows + count * width, past * width, A{0});
  std::fill_n(panel.do_rows + count * width, past * width, A{0});
  transpose_panel(panel.q_columns, panel.q_rows, width, size(), static_cast<A>(shape.scale));
  transpose_panel(panel.do_columns, panel.do_rows, width, size(), A{1});

  with_element_type<T>(o.dtype(), [&]<class E>() {
    load_rows(rows, width, head_rows<E>(o, b, h), first, count, size());
  });
  for (std::int64_t lane = 0; lane < count; ++lane) {
    const A *output = rows + lane * width, *gradient = panel.do_rows + lane * width;
    A sum{0};
#pragma omp simd reduction(+ : sum)
    for (std::int64_t d = 0; d < width; ++d) sum += output[d] * gradient[d];
    panel.delta[lane] = sum;
  }
  std::fill_n(panel.delta + count, past, A{0});
  // Infinity makes every probability of a lane zero: those past the last query, and those of
  // queries that see no key at all.
  constexpr A kInfinity = std::numeric_limits<A>::infinity();
  const A* from = lse.data<A>() + b * lse.stride(0) + h * lse.stride(1) + first;
  std::replace_copy(from, from + count, panel.lse, -kInfinity, kInfinity);
  std::fill_n(panel.lse + count, past, kInfinity);
}

template <class T>
void BackwardCall<T>::sweep(std::int64_t b, Range heads, Range queries, Range keys, bool want_dq,
                            bool want_dkv) const {
  const std::int64_t width = whole_vectors<A>(size()), kv_head = heads.begin / group();
  const Visibility visibility(shape, b);
  const std::int64_t owned = want_dkv ? keys.end - keys.begin : 0;
  auto& scratch = thread_scratch<A>();
  scratch.reserve(2 * owned * width + 2 * kKeyBlock * width + 3 * kKeyBlock * kWidth +
                  kWidth * width + kPanels * kWidth * (3 * size() + 2 * width + 2));
  A* key_gradients = scratch.take(owned * width);
  A* value_gradients = scratch.take(owned * width);
  A* key_rows = scratch.take(kKeyBlock * width);
  A* value_rows = scratch.take(kKeyBlock * width);
  A* scores = scratch.take(kKeyBlock * kWidth);
  A* slopes = scratch.take(kKeyBlock * kWidth);
  A* keep = scratch.take(kKeyBlock * kWidth);
  A* rows = scratch.take(kWidth * width);
  Panel<A> panels[kPanels];
  for (auto& panel : panels) {
    panel.q_columns = scratch.take(size() * kWidth);
    panel.do_columns = scratch.take(size() * kWidth);
    panel.q_rows = scratch.take(kWidth * width);
    panel.do_rows = scratch.take(kWidth * width);
    panel.lse = scratch.take(kWidth);
    panel.delta = scratch.take(kWidth);
    panel.dq = scratch.take(size() * kWidth);
  }
  std::fill_n(key_gradients, owned * width, A{0});
  std::fill_n(value_gradients, owned * width, A{0});

  for (std::int64_t h = heads.begin; h < heads.end; ++h) {
    const HeadDropout mask(dropout, shape, k.dim(1), b, h);
    for (std::int64_t begin = queries.begin; begin < queries.end; begin += kQueryBlock<A>) {
      const std::int64_t end = std::min(begin + kQueryBlock<A>, queries.end);
      const auto all = visibility.some(begin, end - 1, keys);
      if (all.size() <= 0) {
        if (want_dq && !accumulate) put_dq(b, h, {begin, end}, nullptr);
        continue;
      }
      for (std::int64_t p = 0; begin + p * kWidth < end; ++p) {
        const std::int64_t first = begin + p * kWidth, count = std::min(kWidth, end - first);
        load_panel(panels[p], rows, b, h, first, count);
        panels[p].some = visibility.some(first, first + count - 1, keys);
        panels[p].every = visibility.every(first, first + count - 1);
        std::fill_n(panels[p].dq, size() * kWidth, A{0});
      }

      for (std::int64_t block = all.begin / kKeyBlock * kKeyBlock; block < all.end;
           block += kKeyBlock) {
        const auto seen = all.within({block, block + kKeyBlock});
        load_rows(key_rows, width, head_rows<T>(k, b, kv_head), seen.begin, seen.size(), size());
        load_rows(value_rows, width, head_rows<T>(v, b, kv_head), seen.begin, seen.size(), size());
        for (std::int64_t p = 0; begin + p * kWidth < end; ++p) {
          const std::int64_t first = begin + p * kWidth, last = std::min(first + kWidth, end) - 1;
          const auto& panel = panels[p];
          const auto part = panel.some.within(seen);
          if (part.size() <= 0) continue;
          const std::int64_t skip = (part.begin - seen.begin) * width;
          multiply<A, Order::kRows, Into::kAssign>(
              {scores, kWidth, key_rows + skip, width, panel.q_columns, kWidth, size()},
              part.size(), kWidth);
          multiply<A, Order::kRows, Into::kAssign>(
              {slopes, kWidth, value_rows + skip, width, panel.do_columns, kWidth, size()},
              part.size(), kWidth);
          if (part.begin < panel.every.begin || part.end > panel.every.end) {
            visibility.mask(scores, part, first, last);
          }
          if (mask.active) mask.fill(keep, part, first);
          probabilities(scores, slopes, mask.active ? keep : nullptr, part.size(), panel,
                        static_cast<A>(shape.scale));
          if (want_dkv) {
            const std::int64_t row = (part.begin - keys.begin) * width;
            multiply<A, Order::kRows, Into::kAdd>(
                {value_gradients + row, width, scores, kWidth, panel.do_rows, width, kWidth},
                part.size(), width);
            multiply<A, Order::kRows, Into::kAdd>(
                {key_gradients + row, width, slopes, kWidth, panel.q_rows, width, kWidth},
                part.size(), width);
          }
          if (want_dq) {
            multiply<A, Order::kColumns, Into::kAdd>(
                {panel.dq, kWidth, key_rows + skip, width, slopes, kWidth, part.size()}, size(),
                kWidth);
          }
        }
      }

      if (want_dq) put_dq(b, h, {begin, end}, panels);
    }
  }

  if (!want_dkv) return;
  put_keys(dk, b, kv_head, keys, key_gradients);
  put_keys(dv, b, kv_head, keys, value_gradients);
}

// dQ of `queries`, one block at most, from its panels; zeros without panels.
template <class T>
void BackwardCall<T>::put_dq(std::int64_t b, std::int64_t h, Range queries,
                             const Panel<A>* panels) const {
  with_element_type<T>(dq.dtype(), [&]<class E>() {
    const auto to = head_rows<E>(dq, b, h);
    for (std::int64_t query = queries.begin; query < queries.end; ++query) {
      if (panels == nullptr) {
        std::fill_n(to[query], size(), E{});
        continue;
      }
      const std::int64_t at = query - queries.begin;
      const A* from = panels[at / kWidth].dq + at % kWidth;
      for (std::int64_t d = 0; d < size(); ++d) put_sum(to[query][d], from[d * kWidth], accumulate);
    }
  });
}

// dK or dV of `keys` from gradients[keys][D, padded].
template <class T>
void BackwardCall<T>::put_keys(TensorView to, std::int64_t b, std::int64_t kv_head, Range keys,
                               const A* gradients) const {
  const std::int64_t width = whole_vectors<A>(size());
  with_element_type<T>(to.dtype(), [&]<class E>() {
    const auto rows = head_rows<E>(to, b, kv_head);
    for (std::int64_t key = keys.begin; key < keys.end; ++key) {
      const A* from = gradients + (key - keys.begin) * width;
      E* row = rows[key];
#pragma omp simd
      for (std::int64_t d = 0; d < size(); ++d) put_sum(row[d], from[d], accumulate);
    }
  });
}

}  // namespace

template <class T>
void attention_backward(TensorView dq, TensorView dk, TensorView dv, TensorView d_o, TensorView q,
                        TensorView k, TensorView v, TensorView o, TensorView lse,
                        const AttentionShape& shape, const Dropout& dropout, bool accumulate,
                        int threads) {
  using A = acc_t<T>;
  const BackwardCall<T> call{dq, dk, dv, d_o, q, k, v, o, lse, shape, dropout, accumulate};
  const std::int64_t queries = q.dim(1), keys = k.dim(1), kv_heads = k.dim(2);
  const std::int64_t group = call.group();
  const std::int64_t pairs = q.dim(0) * kv_heads;

  // One pass costs 5 products and as many rounds as the threads need for all pairs; two passes cost
  // 7 products, spread evenly.
  const std::int64_t rounds = (pairs + threads - 1) / threads;
  const bool fits = 2 * keys * whole_vectors<A>(q.dim(3)) * static_cast<std::int64_t>(sizeof(A)) <=
                    kMaxGradientBytes;
  if (fits && 5 * rounds * threads <= 7 * pairs) {
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (std::int64_t pair = 0; pair < pairs; ++pair) {
      const std::int64_t b = pair / kv_heads, h = pair % kv_heads * group;
      call.sweep(b, {h, h + group}, {0, queries}, {0, keys}, true, true);
    }
    return;
  }
  const std::int64_t key_tasks = (keys + kKeyTask - 1) / kKeyTask;
  const std::int64_t query_blocks = (queries + kQueryBlock<A> - 1) / kQueryBlock<A>;
#pragma omp parallel num_threads(threads)
  {
#pragma omp for schedule(dynamic) nowait
    for (std::int64_t task = 0; task < key_tasks * pairs; ++task) {
      const std::int64_t pair = task % pairs, b = pair / kv_heads, h = pair % kv_heads * group;
      const std::int64_t begin = task / pairs * kKeyTask, end = std::min(begin + kKeyTask, keys);
      // Earlier queries do not see these keys.
      const std::int64_t first =
          std::clamp<std::int64_t>(Visibility(shape, b).first_query_of(begin), 0, queries) /
          kQueryBlock<A> * kQueryBlock<A>;
      call.sweep(b, {h, h + group}, {first, queries}, {begin, end}, false, true);
    }
#pragma omp for schedule(dynamic)
    for (std::int64_t task = 0; task < query_blocks * pairs * group; ++task) {
      const std::int64_t b = task % (pairs * group) / (kv_heads * group);
      const std::int64_t h = task % (kv_heads * group);
      const std::int64_t begin =
          (query_blocks - 1 - task / (pairs * group)) * kQueryBlock<A>;  // longest first
      call.sweep(b, {h, h + 1}, {begin, std::min(begin + kQueryBlock<A>, queries)}, {0, keys}, true,
                 false);
    }
  }
}

template void attention_backward<double>(TensorView, TensorView, TensorView, TensorView, TensorView,
                                         TensorView, TensorView, TensorView, TensorView,
                                         const AttentionShape&, const Dropout&, bool, int);
template void attention_backward<float>(TensorView, TensorView, TensorView, TensorView, TensorView,
                                        TensorView, TensorView, TensorView, TensorView,
                                        const AttentionShape&, const Dropout&, bool, int);
template void attention_backward<bf16>(TensorView, TensorView, TensorView, TensorView, TensorView,
                                       TensorView, TensorView, TensorView, TensorView,
                                       const AttentionShape&, const Dropout&, bool, int);

}  // namespace pg::model::cpu

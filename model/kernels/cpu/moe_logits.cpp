// The router's product and its gradients, computed in the accumulator type whatever tokens and
// weights are stored in: which expert a token meets must not hang on the rounding of its logits.
// They share the small products of attention, which add each result's terms in the same order
// wherever it stands: a token's logits depend on no other token and on no thread count.
//
// Second operands are packed into panels as wide as two vectors, zeros past their last column.
#include "model/kernels/cpu/attention_block.h"
#include "model/kernels/cpu/cpu_kernels.h"
#include "model/kernels/cpu/moe_views.h"

namespace pg::model {

namespace {

using cpu::kPanel;
using cpu::Order;
using cpu::Rows;

constexpr std::int64_t kTokens = 64;  // of a block, which one thread works on
constexpr std::int64_t kDepth = 128;  // terms of a sum that are added at once

constexpr std::int64_t pieces(std::int64_t n, std::int64_t size) {
  return (n + size - 1) / size;
}

// Memory for packed panels that all threads read, kept from call to call by the calling thread.
template <class A>
A* panel_memory(std::int64_t elements) {
  thread_local cpu::Scratch<A> memory;
  memory.reserve(cpu::whole_vectors<A>(elements));
  return memory.take(elements);
}

// c[rows, panel] = or += a b for one panel, kDepth terms at a time. A(m, k) as `order` says.
template <class A, Order order>
void multiply_panel(A* c, const A* a, std::int64_t lda, const A* b, std::int64_t rows,
                    std::int64_t columns, std::int64_t depth, bool assign) {
  const std::int64_t lanes = cpu::whole_vectors<A>(columns);
  const cpu::Product<A> product{c, kPanel<A>, a, lda, b, kPanel<A>, depth};
  if (assign) {
    cpu::multiply<A, order, cpu::Into::kAssign>(product, rows, lanes);
  } else {
    cpu::multiply<A, order, cpu::Into::kAdd>(product, rows, lanes);
  }
}

// to[count, panel] = columns [first, first + columns) of `count` rows, zeros behind.
template <class T>
void pack_rows(cpu::acc_t<T>* to, const Rows<T>& from, std::int64_t row, std::int64_t count,
               std::int64_t first, std::int64_t columns) {
  using A = cpu::acc_t<T>;
  for (std::int64_t i = 0; i < count; ++i, to += kPanel<A>) {
    const T* const in = from[row + i] + first;
#pragma omp simd
    for (std::int64_t j = 0; j < columns; ++j) to[j] = cpu::load(in[j]);
    std::fill(to + columns, to + kPanel<A>, A{0});
  }
}

// The same of the transpose: to[C, panel] = w[first + lane, c].
template <class T>
void pack_columns(cpu::acc_t<T>* to, const Rows<T>& w, std::int64_t first, std::int64_t experts) {
  using A = cpu::acc_t<T>;
  for (std::int64_t c = 0; c < w.width; ++c, to += kPanel<A>) {
    for (std::int64_t e = 0; e < experts; ++e) to[e] = cpu::load(w[first + e][c]);
    std::fill(to + experts, to + kPanel<A>, A{0});
  }
}

// logits = x w^T.
template <class T>
void forward(const Rows<cpu::acc_t<T>>& logits, const Rows<T>& x, const Rows<T>& w) {
  using A = cpu::acc_t<T>;
  constexpr std::int64_t kWide = kPanel<A>;
  const std::int64_t channels = w.width, experts = w.n, panels = pieces(experts, kWide);
  A* const packed = panel_memory<A>(panels * channels * kWide);
#pragma omp parallel for schedule(static) if (experts * channels > cpu::kWorthATeam)
  for (std::int64_t p = 0; p < panels; ++p) {
    pack_columns(packed + p * channels * kWide, w, p * kWide, std::min(kWide, experts - p * kWide));
  }
#pragma omp parallel for schedule(static) if (x.n * channels > cpu::kWorthATeam)
  for (std::int64_t block = 0; block < pieces(x.n, kTokens); ++block) {
    const std::int64_t first = block * kTokens, rows = std::min(kTokens, x.n - first);
    auto& scratch = cpu::thread_scratch<A>();
    scratch.reserve(panels * kTokens * kWide + kTokens * kDepth);
    A* const sums = scratch.take(panels * kTokens * kWide);
    A* const converted = scratch.take(kTokens * kDepth);
    for (std::int64_t c = 0; c < channels; c += kDepth) {
      const std::int64_t depth = std::min(kDepth, channels - c);
      const A* tokens = converted;
      std::int64_t stride = kDepth;
      if constexpr (std::is_same_v<T, A>) {
        tokens = x[first] + c;
        stride = x.stride;
      } else {
        for (std::int64_t i = 0; i < rows; ++i) {
          const T* const in = x[first + i] + c;
#pragma omp simd
          for (std::int64_t k = 0; k < depth; ++k) converted[i * kDepth + k] = cpu::load(in[k]);
        }
      }
      for (std::int64_t p = 0; p < panels; ++p) {
        multiply_panel<A, Order::kRows>(sums + p * kTokens * kWide, tokens, stride,
                                        packed + (p * channels + c) * kWide, rows,
                                        std::min(kWide, experts - p * kWide), depth, c == 0);
      }
    }
    for (std::int64_t i = 0; i < rows; ++i) {
      for (std::int64_t p = 0; p < panels; ++p) {
        std::copy_n(sums + (p * kTokens + i) * kWide, std::min(kWide, experts - p * kWide),
                    logits[first + i] + p * kWide);
      }
    }
  }
}

// dx += dlogits w.
template <class T>
void backward_input(const Rows<T>& dx, const Rows<cpu::acc_t<T>>& dlogits, const Rows<T>& w) {
  using A = cpu::acc_t<T>;
  constexpr std::int64_t kWide = kPanel<A>;
  const std::int64_t channels = w.width, experts = w.n, panels = pieces(channels, kWide);
  A* const packed = panel_memory<A>(panels * experts * kWide);
#pragma omp parallel for schedule(static) if (experts * channels > cpu::kWorthATeam)
  for (std::int64_t p = 0; p < panels; ++p) {
    pack_rows(packed + p * experts * kWide, w, 0, experts, p * kWide,
              std::min(kWide, channels - p * kWide));
  }
#pragma omp parallel for schedule(static) if (dx.n * channels > cpu::kWorthATeam)
  for (std::int64_t block = 0; block < pieces(dx.n, kTokens); ++block) {
    const std::int64_t first = block * kTokens, rows = std::min(kTokens, dx.n - first);
    auto& scratch = cpu::thread_scratch<A>();
    scratch.reserve(kTokens * kWide);
    A* const sums = scratch.take(kTokens * kWide);
    for (std::int64_t p = 0; p < panels; ++p) {
      const std::int64_t columns = std::min(kWide, channels - p * kWide);
      for (std::int64_t e = 0; e < experts; e += kDepth) {
        multiply_panel<A, Order::kRows>(sums, dlogits[first] + e, dlogits.stride,
                                        packed + (p * experts + e) * kWide, rows, columns,
                                        std::min(kDepth, experts - e), e == 0);
      }
      for (std::int64_t i = 0; i < rows; ++i) {
        T* const to = dx[first + i] + p * kWide;
        const A* const sum = sums + i * kWide;
#pragma omp simd
        for (std::int64_t c = 0; c < columns; ++c) cpu::put(to[c], cpu::load(to[c]) + sum[c]);
      }
    }
  }
}

// dw += dlogits^T x: each panel of channels by one thread, tokens in order.
template <class T>
void backward_weight(const Rows<cpu::acc_t<T>>& dw, const Rows<cpu::acc_t<T>>& dlogits,
                     const Rows<T>& x) {
  using A = cpu::acc_t<T>;
  constexpr std::int64_t kWide = kPanel<A>;
  const std::int64_t channels = x.width, experts = dw.n;
#pragma omp parallel for schedule(static) if (x.n * channels > cpu::kWorthATeam)
  for (std::int64_t c = 0; c < channels; c += kWide) {
    const std::int64_t columns = std::min(kWide, channels - c);
    auto& scratch = cpu::thread_scratch<A>();
    scratch.reserve((experts + kDepth) * kWide);
    A* const sums = scratch.take(experts * kWide);
    A* const tokens = scratch.take(kDepth * kWide);
    for (std::int64_t n = 0; n < x.n; n += kDepth) {
      const std::int64_t depth = std::min(kDepth, x.n - n);
      pack_rows(tokens, x, n, depth, c, columns);
      multiply_panel<A, Order::kColumns>(sums, dlogits[n], dlogits.stride, tokens, experts, columns,
                                         depth, n == 0);
    }
    for (std::int64_t e = 0; e < experts; ++e) {
      A* const to = dw[e] + c;
      const A* const sum = sums + e * kWide;
#pragma omp simd
      for (std::int64_t i = 0; i < columns; ++i) to[i] += sum[i];
    }
  }
}

void check_shapes(const TensorView& logits, const TensorView& x, const TensorView& w) {
  PG_ASSERT(logits.rank() == 2 && x.rank() == 2 && w.rank() == 2 && logits.dim(0) == x.dim(0) &&
                logits.dim(1) == w.dim(0) && x.dim(1) == w.dim(1) && x.dtype() == w.dtype(),
            "logits {} x {} w {}", logits.text(), x.text(), w.text());
}

}  // namespace

void CpuKernels::moe_logits(TensorView logits, TensorView x, TensorView w) {
  check_shapes(logits, x, w);
  cpu::dispatch(x.dtype(), [&]<class T>() {
    forward<T>(Rows<cpu::acc_t<T>>(logits), Rows<T>(x), Rows<T>(w));
  });
}

void CpuKernels::moe_logits_backward(TensorView dx, TensorView dw, TensorView dlogits, TensorView x,
                                     TensorView w) {
  check_shapes(dlogits, x, w);
  cpu::check_same(dw, w);
  if (!dx.empty()) cpu::check_same(dx, x);
  if (x.dim(0) == 0) return;
  cpu::dispatch(x.dtype(), [&]<class T>() {
    using A = cpu::acc_t<T>;
    const Rows<A> given(dlogits);
    if (!dx.empty()) backward_input<T>(Rows<T>(dx), given, Rows<T>(w));
    backward_weight<T>(Rows<A>(dw), given, Rows<T>(x));
  });
}

}  // namespace pg::model

// Attention over some keys and over others, to attention over both: each output is weighed by its
// share of the whole sum of exponentials (Liu et al. 2023).
#include <cmath>
#include <limits>

#include "model/kernels/cpu/attention_block.h"

namespace pg::model::cpu {

template <class A>
void attention_merge(TensorView o, TensorView lse, TensorView other_o, TensorView other_lse,
                     int threads) {
  constexpr A kNone = -std::numeric_limits<A>::infinity();
  const std::int64_t sequences = o.dim(0), queries = o.dim(1), heads = o.dim(2), size = o.dim(3);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (std::int64_t row = 0; row < sequences * queries; ++row) {
    const std::int64_t b = row / queries, query = row % queries;
    for (std::int64_t h = 0; h < heads; ++h) {
      A* to = head_rows<A>(o, b, h)[query];
      const A* from = head_rows<A>(other_o, b, h)[query];
      A& ours = lse.data<A>()[b * lse.stride(0) + h * lse.stride(1) + query];
      const A theirs =
          other_lse.data<A>()[b * other_lse.stride(0) + h * other_lse.stride(1) + query];
      // An empty side is not weighed by zero but left out: the other keeps its bits.
      if (theirs == kNone) continue;
      if (ours == kNone) {
        std::copy_n(from, size, to);
        ours = theirs;
        continue;
      }
      // Both shares from the exponential of a number that is never positive; NaN reaches both.
      const A smaller = std::exp(-std::abs(ours - theirs)), share = A{1} / (A{1} + smaller);
      const bool more = ours >= theirs;
      const A keep = more ? share : smaller * share, add = more ? smaller * share : share;
#pragma omp simd
      for (std::int64_t d = 0; d < size; ++d) to[d] = to[d] * keep + from[d] * add;
      ours = (more ? ours : theirs) + std::log1p(smaller);
    }
  }
}

template void attention_merge<double>(TensorView, TensorView, TensorView, TensorView, int);
template void attention_merge<float>(TensorView, TensorView, TensorView, TensorView, int);

}  // namespace pg::model::cpu

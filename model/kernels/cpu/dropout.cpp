// Inverted dropout with a counter-based mask: blocks of 256 Philox counters, four elements each, so
// the generator runs in vector lanes and its words stay in the nearest cache.
#include <cmath>

#include "model/kernels/cpu/cpu_kernels.h"
#include "model/kernels/cpu/elements.h"

namespace pg::model {

namespace {

constexpr int kCounters = 256;
constexpr std::int64_t kBlock = 4 * kCounters;

// words[0, kBlock) of elements [first, first + kBlock) of stream (key, sample); `first` is a
// multiple of 4. Spelled out, with plain pointers: GCC 12 does not vectorise the loop otherwise.
void draw(std::uint32_t* __restrict words, comm::RandomKey key, std::int64_t sample,
          std::int64_t first) {
  const auto high = static_cast<std::uint64_t>(sample);
  const auto low = static_cast<std::uint64_t>(first) / 4;
#pragma omp simd
  for (int i = 0; i < kCounters; ++i) {
    const auto four = comm::philox(key, high, low + static_cast<std::uint64_t>(i));
    words[4 * i] = four[0];
    words[4 * i + 1] = four[1];
    words[4 * i + 2] = four[2];
    words[4 * i + 3] = four[3];
  }
}

// A product, not a choice: NaN and infinity stay visible where they are dropped.
template <class T>
void scale_kept(T* __restrict to, const std::uint32_t* __restrict words, std::int64_t n,
                std::uint32_t highest_dropped, cpu::acc_t<T> scale) {
  using A = cpu::acc_t<T>;
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) {
    const A factor = words[i] > highest_dropped ? scale : A{0};
    cpu::put(to[i], cpu::load(to[i]) * factor);
  }
}

}  // namespace

void CpuKernels::dropout(TensorView x, const Dropout& dropout) {
  if (dropout.rate == 0.0) return;
  const auto sequences = static_cast<std::int64_t>(dropout.samples.size());
  PG_ASSERT(dropout.rate > 0.0 && dropout.rate < 1.0, "rate {}", dropout.rate);
  PG_ASSERT(x.rank() == 2 && sequences > 0 && x.dim(0) % sequences == 0, "{} with {} samples",
            x.text(), sequences);
  // bits / 2^32 >= rate, for whole numbers: bits > ceil(rate 2^32) - 1.
  const auto highest_dropped =
      static_cast<std::uint32_t>(std::ceil(std::ldexp(dropout.rate, 32)) - 1.0);
  const std::int64_t width = x.dim(1), length = x.dim(0) / sequences * width;
  const std::int64_t blocks = (length + kBlock - 1) / kBlock;
  cpu::dispatch(x.dtype(), [&]<class T>() {
    using A = cpu::acc_t<T>;
    const A scale = static_cast<A>(1.0 / (1.0 - dropout.rate));
    const cpu::Rows<T> rows(x);
    cpu::for_rows(sequences * blocks, kBlock, [&](std::int64_t piece) {
      const std::int64_t sequence = piece / blocks, first = piece % blocks * kBlock;
      const std::int64_t first_row = sequence * (x.dim(0) / sequences);
      alignas(64) std::uint32_t words[kBlock];
      draw(words, dropout.key, dropout.samples[sequence], first);
      const std::int64_t end = std::min(length, first + kBlock);
      for (std::int64_t e = first; e < end;) {  // run by run, as rows may be padded
        const std::int64_t column = e % width, run = std::min(width - column, end - e);
        T* const to = rows[first_row + e / width] + column;
        scale_kept(to, words + (e - first), run, highest_dropped, scale);
        e += run;
      }
    });
  });
}

}  // namespace pg::model

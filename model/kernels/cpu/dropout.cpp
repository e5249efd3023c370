// Inverted dropout with a counter-based mask: blocks of 256 Philox counters, four elements each, so
// the generator runs in vector lanes and its words stay in the nearest cache.
#include <cmath>

#include "model/kernels/cpu/cpu_kernels.h"
#include "model/kernels/cpu/elements.h"

namespace pg::model {

namespace {

constexpr std::int64_t kCounters = 256, kBlock = 4 * kCounters;

struct Words {
  alignas(64) std::uint32_t at[kBlock];

  // Elements [first, first + kBlock) of stream (key, sample); `first` is a multiple of 4.
  void draw(comm::RandomKey key, std::int64_t sample, std::int64_t first) {
    const auto high = static_cast<std::uint64_t>(sample);
    const auto low = static_cast<std::uint64_t>(first) / 4;
#pragma omp simd
    for (std::int64_t i = 0; i < kCounters; ++i) {
      const auto word = comm::philox(key, high, low + static_cast<std::uint64_t>(i));
      for (int k = 0; k < 4; ++k) at[4 * i + k] = word[k];
    }
  }
};

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
      Words words;
      words.draw(dropout.key, dropout.samples[sequence], first);
      const std::int64_t end = std::min(length, first + kBlock);
      for (std::int64_t e = first; e < end;) {  // run by run, as rows may be padded
        const std::int64_t column = e % width, run = std::min(width - column, end - e);
        T* const to = rows[first_row + e / width] + column;
        const std::uint32_t* const word = words.at + (e - first);
        // A product, not a choice: NaN and infinity stay visible where they are dropped.
#pragma omp simd
        for (std::int64_t i = 0; i < run; ++i) {
          cpu::put(to[i], cpu::load(to[i]) * (word[i] > highest_dropped ? scale : A{0}));
        }
        e += run;
      }
    });
  });
}

}  // namespace pg::model

// Inverted dropout with a counter-based mask: blocks of 256 Philox counters, four elements each, so
// the generator runs in vector lanes and its words stay in the nearest cache.
#include <cmath>
#include <vector>

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

// Of one sequence, elements counted in it: [begin, end), of which `drawn` <= begin is a multiple of
// 4 and end - drawn <= kBlock; element e lies at element e + shift of x.
struct Piece {
  std::int64_t sequence, drawn, begin, end, shift;
};

// Rows [first_row, first_row + n) of sequences of `length` rows, cut into blocks of at most kBlock
// elements of one sequence each: the rows left of the first sequence, whole sequences, the rest.
class Pieces {
 public:
  Pieces(std::int64_t first_row, std::int64_t n, std::int64_t length, std::int64_t width)
      : sequence_(first_row / length),
        skipped_(first_row % length * width),
        head_(std::min(n, length - first_row % length) * width),
        lead_(skipped_ % 4),
        total_(n * width),
        length_(length * width),
        head_blocks_(blocks(lead_ + head_)),
        full_blocks_(blocks(length_)) {}

  std::int64_t count() const {
    const std::int64_t rest = total_ - head_;
    return head_blocks_ + rest / length_ * full_blocks_ + blocks(rest % length_);
  }
  Piece operator[](std::int64_t i) const {
    if (i < head_blocks_) {
      const std::int64_t drawn = skipped_ - lead_ + i * kBlock;
      return {sequence_, drawn, std::max(drawn, skipped_),
              std::min(drawn + kBlock, skipped_ + head_), -skipped_};
    }
    const std::int64_t later = (i - head_blocks_) / full_blocks_;
    const std::int64_t drawn = (i - head_blocks_) % full_blocks_ * kBlock;
    const std::int64_t shift = head_ + later * length_;
    return {sequence_ + 1 + later, drawn, drawn,
            std::min({drawn + kBlock, length_, total_ - shift}), shift};
  }

 private:
  static std::int64_t blocks(std::int64_t elements) { return (elements + kBlock - 1) / kBlock; }

  // In elements: of the first sequence before x, and in x; `lead_` more are drawn before those.
  std::int64_t sequence_, skipped_, head_, lead_, total_, length_, head_blocks_, full_blocks_;
};

// The same rows where positions[R] says at which row of its sequence row R stands: a run of rows at
// consecutive positions of one sequence is cut into blocks as a whole.
std::vector<Piece> pieces_at(TensorView positions, std::int64_t first_row, std::int64_t n,
                             std::int64_t length, std::int64_t width) {
  const auto* at = positions.data<std::int32_t>() + first_row;
  std::vector<Piece> pieces;
  for (std::int64_t row = 0; row < n;) {
    PG_ASSERT(at[row] >= 0, "row {} at position {}", first_row + row, at[row]);
    const std::int64_t sequence = (first_row + row) / length;
    const std::int64_t stop = std::min(n, (sequence + 1) * length - first_row);
    std::int64_t past = row + 1;
    while (past < stop && at[past] == at[past - 1] + 1) ++past;
    const std::int64_t begin = at[row] * width, end = begin + (past - row) * width;
    for (std::int64_t drawn = begin - begin % 4; drawn < end; drawn += kBlock) {
      pieces.push_back({sequence, drawn, std::max(drawn, begin), std::min(drawn + kBlock, end),
                        row * width - begin});
    }
    row = past;
  }
  return pieces;
}

}  // namespace

void CpuKernels::dropout(TensorView x, const Dropout& dropout) {
  if (dropout.rate == 0.0) return;
  const auto sequences = static_cast<std::int64_t>(dropout.samples.size());
  PG_ASSERT(dropout.rate > 0.0 && dropout.rate < 1.0, "rate {}", dropout.rate);
  PG_ASSERT(x.rank() == 2 && sequences > 0, "{} with {} samples", x.text(), sequences);
  PG_ASSERT(dropout.seq > 0 || (dropout.first_row == 0 && x.dim(0) % sequences == 0),
            "{} from row {} with {} samples of {} rows", x.text(), dropout.first_row, sequences,
            dropout.seq);
  const std::int64_t length = dropout.seq > 0 ? dropout.seq : x.dim(0) / sequences;
  PG_ASSERT(dropout.first_row >= 0 && dropout.first_row + x.dim(0) <= sequences * length,
            "{} from row {} with {} samples of {} rows", x.text(), dropout.first_row, sequences,
            length);
  PG_ASSERT(dropout.positions.empty() ||
                (dropout.positions.rank() == 1 && dropout.positions.dtype() == DType::kI32 &&
                 dropout.positions.dim(0) == sequences * length && dropout.positions.contiguous()),
            "positions {} of {} sequences of {} rows", dropout.positions.text(), sequences, length);
  if (x.elements() == 0) return;
  // bits / 2^32 >= rate, for whole numbers: bits > ceil(rate 2^32) - 1.
  const auto highest_dropped =
      static_cast<std::uint32_t>(std::ceil(std::ldexp(dropout.rate, 32)) - 1.0);
  const std::int64_t width = x.dim(1);
  const auto apply = [&](std::int64_t count, const auto& pieces) {
    cpu::dispatch(x.dtype(), [&]<class T>() {
      using A = cpu::acc_t<T>;
      const A scale = static_cast<A>(1.0 / (1.0 - dropout.rate));
      const cpu::Rows<T> rows(x);
      cpu::for_rows(count, kBlock, [&](std::int64_t i) {
        const auto [sequence, drawn, begin, end, shift] = pieces[i];
        alignas(64) std::uint32_t words[kBlock];
        draw(words, dropout.key, dropout.samples[sequence], drawn);
        for (std::int64_t e = begin; e < end;) {  // run by run, as rows may be padded
          const std::int64_t column = e % width, run = std::min(width - column, end - e);
          T* const to = rows[(e + shift) / width] + column;
          scale_kept(to, words + (e - drawn), run, highest_dropped, scale);
          e += run;
        }
      });
    });
  };
  if (dropout.positions.empty()) {
    const Pieces pieces(dropout.first_row, x.dim(0), length, width);
    apply(pieces.count(), pieces);
  } else {
    const auto pieces = pieces_at(dropout.positions, dropout.first_row, x.dim(0), length, width);
    apply(static_cast<std::int64_t>(pieces.size()), pieces);
  }
}

}  // namespace pg::model

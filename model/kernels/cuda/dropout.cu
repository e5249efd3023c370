// Inverted dropout with a counter-based mask: the CPU's, bit by bit. A thread draws whole counters
// of four words, so that elements whose row begins on a counter cost a quarter of one each.
#include "model/kernels/cuda/cuda_kernels.h"
#include "model/kernels/cuda/random.cuh"
#include "model/kernels/cuda/tiles.cuh"

namespace pg::model {

namespace {

using namespace cuda;

// Sequences of one launch: their numbers travel with the kernel's parameters.
constexpr int kSamples = 64;

// Rows [0, n) of x are rows first + i of sequences of `length` rows, of which samples[] are the
// numbers in the run.
struct Sequences {
  std::int64_t first, length;
  const std::int32_t* positions;  // of row 0 and on, or null
  std::int64_t samples[kSamples];
};

// Elements of a thread's access: whole packs and whole counters.
template <class T>
constexpr int kGroup = Pack<T>::kSize < 4 ? 4 : Pack<T>::kSize;

// The sequence's number in the run, and where in it the row begins.
struct Row {
  std::int64_t sample, element;
};
__device__ __forceinline__ Row row_of(const Sequences& sequences, std::int64_t row,
                                      std::int64_t width) {
  const std::int64_t at = sequences.first + row, sequence = at / sequences.length;
  const std::int64_t position = sequences.positions != nullptr
                                    ? std::int64_t{sequences.positions[row]}
                                    : at - sequence * sequences.length;
  return {sequences.samples[sequence], position * width};
}

// Rows begin at multiples of 16 bytes and of kGroup elements.
template <class T>
__global__ void __launch_bounds__(256)
    dropout_groups(T* x, std::int64_t stride, const __grid_constant__ Sequences sequences,
                   DropoutMask mask, acc_t<T> scale, Tiles<kGroup<T>> tiles) {
  constexpr int kPacks = kGroup<T> / Pack<T>::kSize;
  const std::int64_t row = tiles.row();
  if (row >= tiles.rows) return;
  T* const to = x + row * stride;
  Held<T> packs[2][kPacks];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const std::int64_t at = tiles.column(i);
    if (at >= tiles.width) break;
#pragma unroll
    for (int p = 0; p < kPacks; ++p)
      packs[i][p] = load_held<true>(to + at + p * Pack<T>::kSize, Pack<T>::kSize);
  }
  const Row place = row_of(sequences, row, tiles.width);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const std::int64_t at = tiles.column(i);
    if (at >= tiles.width) break;
    bool kept[kGroup<T>];
#pragma unroll
    for (int c = 0; c < kGroup<T>; c += 4) {
      const auto four = mask.keep_four(place.sample, (place.element + at + c) / 4);
#pragma unroll
      for (int e = 0; e < 4; ++e) kept[c + e] = four.at[e];
    }
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      acc_t<T> out[Pack<T>::kSize];
#pragma unroll
      for (int e = 0; e < Pack<T>::kSize; ++e) {
        // A product, not a choice: NaN and infinity stay visible where they are dropped.
        const acc_t<T> factor = kept[p * Pack<T>::kSize + e] ? scale : acc_t<T>{0};
        out[e] = packs[i][p][e] * factor;
      }
      store_held<true>(to + at + p * Pack<T>::kSize, round_held<T>(out), Pack<T>::kSize);
    }
  }
}

// Any rows: a thread takes the elements of its row that one counter serves, four or fewer. Tiles
// are of counters: the most that a row can touch.
template <class T>
__global__ void __launch_bounds__(256)
    dropout_counters(T* x, std::int64_t stride, std::int64_t width,
                     const __grid_constant__ Sequences sequences, DropoutMask mask, acc_t<T> scale,
                     Tiles<1> tiles) {
  const std::int64_t row = tiles.row();
  if (row >= tiles.rows) return;
  T* const to = x + row * stride;
  const Row place = row_of(sequences, row, width);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const std::int64_t counter = place.element / 4 + tiles.column(i);
    const auto four = mask.keep_four(place.sample, counter);
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const std::int64_t at = counter * 4 + e - place.element;
      if (at < 0 || at >= width) continue;
      to[at] = store<T>(load(to[at]) * (four.at[e] ? scale : acc_t<T>{0}));
    }
  }
}

}  // namespace

// Positions below 0 are bugs that only the CPU's kernel reports: here they lie on the GPU.
void CudaKernels::dropout(TensorView x, const Dropout& dropout) {
  if (dropout.rate == 0.0) return;
  const auto count = static_cast<std::int64_t>(dropout.samples.size());
  PG_ASSERT(dropout.rate > 0.0 && dropout.rate < 1.0, "rate {}", dropout.rate);
  PG_ASSERT(x.rank() == 2 && count > 0, "{} with {} samples", x.text(), count);
  PG_ASSERT(dropout.seq > 0 || (dropout.first_row == 0 && x.dim(0) % count == 0),
            "{} from row {} with {} samples of {} rows", x.text(), dropout.first_row, count,
            dropout.seq);
  const std::int64_t length = dropout.seq > 0 ? dropout.seq : x.dim(0) / count;
  PG_ASSERT(dropout.first_row >= 0 && dropout.first_row + x.dim(0) <= count * length,
            "{} from row {} with {} samples of {} rows", x.text(), dropout.first_row, count,
            length);
  PG_ASSERT(dropout.positions.empty() ||
                (dropout.positions.rank() == 1 && dropout.positions.dtype() == DType::kI32 &&
                 dropout.positions.dim(0) == count * length && dropout.positions.contiguous()),
            "positions {} of {} sequences of {} rows", dropout.positions.text(), count, length);
  require_cuda(x);
  require_cuda(dropout.positions);
  if (x.elements() == 0) return;
  const DropoutMask mask(dropout);
  const std::int64_t width = x.dim(1), end = dropout.first_row + x.dim(0);
  for (std::int64_t row = dropout.first_row; row < end;) {
    Sequences sequences{};
    const std::int64_t sequence = row / length;
    const std::int64_t held = std::min<std::int64_t>(kSamples, count - sequence);
    const std::int64_t past = std::min(end, (sequence + held) * length);
    sequences.first = row - sequence * length;
    sequences.length = length;
    sequences.positions =
        dropout.positions.empty() ? nullptr : dropout.positions.data<std::int32_t>() + row;
    std::copy_n(dropout.samples.begin() + sequence, held, sequences.samples);
    const TensorView part = x.slice(0, row - dropout.first_row, past - row);
    dispatch(x.dtype(), [&]<class T>() {
      const auto scale = static_cast<acc_t<T>>(1.0 / (1.0 - dropout.rate));
      T* const data = part.data<T>();
      if (width % kGroup<T> == 0 && aligned16(data) && strides_aligned(part)) {
        const Tiles<kGroup<T>> tiles(part.dim(0), width);
        launch("dropout", dropout_groups<T>, tiles.grid(), tiles.block, 0, stream_, data,
               part.stride(0), sequences, mask, scale, tiles);
      } else {
        const Tiles<1> tiles(part.dim(0), (width + 2) / 4 + 1);
        launch("dropout", dropout_counters<T>, tiles.grid(), tiles.block, 0, stream_, data,
               part.stride(0), width, sequences, mask, scale, tiles);
      }
    });
    row = past;
  }
}

}  // namespace pg::model

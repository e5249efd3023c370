// Matrices in both memories whose rows lie further apart than they are long, random masks, and runs
// of an operation that must give the same bits again.
#pragma once

#include <string>
#include <vector>

#include "tests/cuda/mirror.h"

namespace pg::model::testing {

// How the rows of a matrix lie: its first column, and what follows the last.
struct Layout {
  std::int64_t shift, padding;
};
// Contiguous; rows that begin on 16 bytes; rows that do not.
inline constexpr Layout kLayouts[] = {{0, 0}, {16, 16}, {1, 2}};

struct Padded {
  Mirror whole;
  std::int64_t width, shift;

  Padded(DType type, std::int64_t n, std::int64_t columns, Layout layout = {0, 0})
      : whole(type, {n, layout.shift + columns + layout.padding}),
        width(columns),
        shift(layout.shift) {}
  TensorView host() const { return whole.host().slice(1, shift, width); }
  TensorView device() const { return whole.device().slice(1, shift, width); }
  // [sequences, n / sequences, width]
  TensorView host(std::int64_t sequences) const { return cut(whole.host(), sequences); }
  TensorView device(std::int64_t sequences) const { return cut(whole.device(), sequences); }

 private:
  TensorView cut(TensorView x, std::int64_t sequences) const {
    return x.reshape({sequences, x.dim(0) / sequences, x.dim(1)}).slice(2, shift, width);
  }
};
inline bool same(const Padded& x) {
  return same(x.whole);
}
inline double deviation(const Padded& x) {
  return deviation(x.whole);
}

// Each entry is set with this probability, and only where it is in `within`.
inline void random_mask(Padded& mask, const std::string& name, double share,
                        const Padded* within = nullptr) {
  const auto key = comm::random_key(13, name);
  std::vector<double> all;
  for (std::int64_t i = 0; i < mask.whole.elements(); ++i) {
    const double uniform = comm::random_bits(key, 0, static_cast<std::uint64_t>(i)) * 0x1.0p-32;
    all.push_back(uniform < share && (within == nullptr || within->whole.at_host(i) != 0) ? 1 : 0);
  }
  mask.whole.values(all);
}

// Runs `work` on the GPU and again with the same operands: whether x holds the same bits.
template <class Work>
bool repeats(Mirror& x, const Work& work) {
  work();
  const auto first = x.from_device();
  x.upload();
  work();
  const auto second = x.from_device();
  return std::memcmp(first.data(), second.data(), first.size() * sizeof(double)) == 0;
}

inline DType accumulator(DType type) {
  return accumulator_of(type);
}

}  // namespace pg::model::testing

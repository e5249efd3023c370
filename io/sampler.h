// Which tokens the i-th sample of a run is: pure arithmetic on (seed, epoch, index), without state,
// so that the cursor of a run is one number and every grid and every restart draws the same
// samples.
//
// A stream of n tokens holds floor((n - 1) / seq) samples: sample s is tokens [s*seq, s*seq + seq],
// the last one only as a target. Each epoch visits each sample once, in an order that is a keyed
// permutation of [0, samples) (a Feistel network with cycle walking: Black & Rogaway, CT-RSA 2002).
#pragma once

#include <cstdint>

namespace pg::io {

class Sampler {
 public:
  // Error(kData) when the stream is too short for one sample. `shuffle` false: file order
  // (validation).
  Sampler(std::int64_t tokens, std::int64_t seq, std::int64_t seed, bool shuffle);

  std::int64_t samples() const { return samples_; }
  // First token of the sample that the run draws as its `index`-th (from 0, over all epochs).
  std::int64_t first_token(std::int64_t index) const;
  std::int64_t epoch(std::int64_t index) const { return index / samples_; }

 private:
  std::int64_t samples_ = 0, seq_ = 0, seed_ = 0;
  bool shuffle_ = true;
};

}  // namespace pg::io

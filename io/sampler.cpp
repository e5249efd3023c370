#include "io/sampler.h"

#include <bit>

#include "comm/error.h"
#include "comm/random.h"

namespace pg::io {

namespace {

// A keyed permutation of [0, size). A balanced Feistel network permutes the next power of four
// whatever its round function is; images outside [0, size) are permuted again until they fall
// inside (cycle walking), which leaves a permutation of [0, size). The domain is under four times
// the size, so fewer than four walks are expected. Eight rounds: the halves of small domains have
// few bits.
std::int64_t permuted(std::int64_t value, std::int64_t size, comm::RandomKey key,
                      std::int64_t epoch) {
  constexpr std::uint64_t kRounds = 8;
  const auto bits = std::bit_width(static_cast<std::uint64_t>(size - 1));
  const int half = bits < 2 ? 1 : (bits + 1) / 2;  // at most 32
  const std::uint64_t mask = (std::uint64_t{1} << half) - 1;
  auto x = static_cast<std::uint64_t>(value);
  do {
    std::uint64_t left = x >> half, right = x & mask;
    for (std::uint64_t round = 0; round < kRounds; ++round) {
      const auto word =
          comm::philox(key, static_cast<std::uint64_t>(epoch), (round << 32) | right)[0];
      const auto next = left ^ (word & mask);
      left = right;
      right = next;
    }
    x = (left << half) | right;
  } while (x >= static_cast<std::uint64_t>(size));
  return static_cast<std::int64_t>(x);
}

}  // namespace

Sampler::Sampler(std::int64_t tokens, std::int64_t seq, std::int64_t seed, bool shuffle)
    : seq_(seq), seed_(seed), shuffle_(shuffle) {
  PG_ASSERT(seq > 0, "seq {}", seq);
  samples_ = (tokens - 1) / seq;
  if (tokens <= seq) {
    throw fail(ExitCode::kData, "{} tokens are too few for one sample of train.seq = {} (and one)",
               tokens, seq);
  }
}

std::int64_t Sampler::first_token(std::int64_t index) const {
  PG_ASSERT(index >= 0, "index {}", index);
  const std::int64_t within = index % samples_;
  if (!shuffle_) return within * seq_;
  const auto key = comm::random_key(static_cast<std::uint64_t>(seed_), "data/epoch");
  return permuted(within, samples_, key, epoch(index)) * seq_;
}

}  // namespace pg::io

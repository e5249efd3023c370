// What each context-parallel rank computes: the attention code runs with kernels that only note
// down their calls, and the visible (query, key) pairs of the calls are counted.
//
// Derivation. Of a sequence in 2c chunks of h positions rank r of c has chunks r and 2c-1-r. With
// its own keys it sees h(h+1)/2 pairs inside each chunk and h^2 from the later one to the earlier:
// 2h^2 + h. With the keys of an earlier rank s < r both of its chunks see chunk s and neither sees
// chunk 2c-1-s, which is later than both: 2h^2. With those of a later rank only its last chunk sees
// anything, both chunks of it: 2h^2. So all ranks have the same number of pairs, in all (2c h^2 +
// h) and at each step of the ring: balance is exact, for every c and every length.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <numeric>
#include <vector>

#include "comm/dry_group.h"
#include "model/kernels/dry/dry_kernels.h"
#include "model/layers/context_attention.h"

namespace pg::model {
namespace {

// One call: queries [first_query, + queries) meet keys [first_key, + keys), of some heads.
struct Call {
  std::int64_t first_query, queries, first_key, keys, heads;

  // Of one head, causal.
  std::int64_t pairs() const {
    std::int64_t sum = 0;
    for (auto q = first_query; q < first_query + queries; ++q) {
      sum += std::clamp<std::int64_t>(q - first_key + 1, 0, keys);
    }
    return sum;
  }
};

class CountingKernels final : public DryKernels {
 public:
  void attention_forward(TensorView, TensorView, TensorView q, TensorView k, TensorView,
                         const AttentionShape& shape, const Dropout&) override {
    forward.push_back({shape.first_query, q.dim(1), shape.first_key, k.dim(1), q.dim(2)});
  }
  void attention_backward(TensorView, TensorView, TensorView, TensorView, TensorView q,
                          TensorView k, TensorView, TensorView, TensorView,
                          const AttentionShape& shape, const Dropout&, bool) override {
    backward.push_back({shape.first_query, q.dim(1), shape.first_key, k.dim(1), q.dim(2)});
  }
  std::vector<Call> forward, backward;
};

ModelConfig config(std::int64_t heads, std::int64_t window) {
  ModelConfig c;
  c.layers = 1;
  c.hidden = 4;
  c.heads = c.kv_heads = heads;
  c.head_dim = 2;
  c.ffn = 4;
  c.vocab = 8;
  c.max_seq = 8;
  c.window = window;
  return c;
}

struct Calls {
  std::vector<Call> forward, backward;
};

// What rank `rank` of `cp` executes for one sequence of `seq` positions.
Calls calls_of(ContextMethod method, int cp, int rank, std::int64_t seq, std::int64_t window = 0) {
  const auto c = config(/*heads=*/cp, window);
  Sharding sharding;
  sharding.cp = cp;
  sharding.cp_rank = rank;
  sharding.context = method;
  const auto groups = dry_groups(sharding, c.kv_heads);
  const TensorParallel tensor(sharding, *groups.tensor);
  const ContextParallel context(sharding, *groups.context, seq);
  const ExpertParallel experts(sharding, 0, *groups.experts);
  ParamStore params(ParamLayout(c), DType::kF64, Buffer::Kind::kDry);
  CountingKernels kernels;
  auto keep = Arena::dry(), scratch = Arena::dry();
  MicroBatch batch;
  batch.sequences = 1;
  batch.seq = seq / cp;
  const LayerContext ctx{.kernels = kernels,
                         .keep = keep,
                         .scratch = scratch,
                         .config = c,
                         .params = params,
                         .tensor = tensor,
                         .context = context,
                         .experts = experts,
                         .batch = batch};
  const auto qkv = ctx.push(keep, c.q_width() + 2 * c.kv_width());
  AttentionSaved saved;
  saved.qkv = attends_to_whole_sequences(ctx) ? to_heads(ctx, keep, qkv) : qkv;
  attend(ctx, keep, saved, "attention");
  attend_backward(ctx, ctx.push(scratch, qkv.dim(1)), ctx.push(scratch, c.q_width()), saved,
                  "attention");
  return {kernels.forward, kernels.backward};
}

std::int64_t pairs(const std::vector<Call>& calls) {
  return std::accumulate(
      calls.begin(), calls.end(), std::int64_t{0},
      [](auto sum, const auto& call) { return sum + call.heads * call.pairs(); });
}

double max_over_mean(const std::vector<std::int64_t>& x) {
  const auto sum = static_cast<double>(std::accumulate(x.begin(), x.end(), std::int64_t{0}));
  return static_cast<double>(*std::max_element(x.begin(), x.end())) *
         static_cast<double>(x.size()) / sum;
}

// Pairs of each rank in each step: keys of the rank `step` before it.
std::vector<std::int64_t> pairs_by_step(const std::vector<Call>& calls, int cp, int rank,
                                        std::int64_t seq) {
  std::vector<std::int64_t> sums(static_cast<std::size_t>(cp));
  for (const auto& call : calls) {
    for (int owner = 0; owner < cp; ++owner) {
      for (const auto& run : sequence_runs(ContextMethod::kRing, cp, owner, seq)) {
        if (call.first_key != run.begin) continue;
        EXPECT_EQ(call.keys, run.length);
        sums[static_cast<std::size_t>((rank + cp - owner) % cp)] += call.heads * call.pairs();
      }
    }
  }
  return sums;
}

constexpr int kMostRanks = 8;
constexpr std::int64_t kChunks[] = {1, 3, 16, 256};

TEST(ContextBalance, ring_gives_every_rank_the_same_pairs_at_every_step) {
  for (int cp = 2; cp <= kMostRanks; ++cp) {
    for (const auto h : kChunks) {
      const auto seq = 2 * cp * h;
      std::vector<std::int64_t> all;
      for (int rank = 0; rank < cp; ++rank) {
        const auto calls = calls_of(ContextMethod::kRing, cp, rank, seq);
        for (const auto* direction : {&calls.forward, &calls.backward}) {
          const auto steps = pairs_by_step(*direction, cp, rank, seq);
          EXPECT_EQ(steps[0], cp * (2 * h * h + h)) << "cp " << cp << " rank " << rank;
          for (std::size_t step = 1; step < steps.size(); ++step) {
            EXPECT_EQ(steps[step], cp * 2 * h * h) << "cp " << cp << " rank " << rank;
          }
        }
        all.push_back(pairs(calls.forward));
      }
      EXPECT_EQ(max_over_mean(all), 1.0);
      EXPECT_EQ(std::accumulate(all.begin(), all.end(), std::int64_t{0}), cp * seq * (seq + 1) / 2)
          << "all pairs of all heads, each once";
    }
  }
}

TEST(ContextBalance, allgather_and_ulysses_give_every_rank_the_same_pairs) {
  for (const auto method : {ContextMethod::kAllGather, ContextMethod::kUlysses}) {
    for (int cp = 2; cp <= kMostRanks; ++cp) {
      for (const auto h : kChunks) {
        const auto seq = 2 * cp * h;
        for (int rank = 0; rank < cp; ++rank) {
          const auto calls = calls_of(method, cp, rank, seq);
          EXPECT_EQ(pairs(calls.forward), seq * (seq + 1) / 2) << "cp " << cp << " rank " << rank;
          EXPECT_EQ(pairs(calls.backward), seq * (seq + 1) / 2);
        }
      }
    }
  }
}

// Contiguous parts under the same ring: the last of c ranks sees all keys with all its queries.
// Rank r has L r L pairs with earlier parts and L(L+1)/2 with its own (L = T/c): the last one's
// share of the mean is ((c - 1/2) L + 1/2) / ((c L + 1) / 2), nearly (2c - 1) / c.
TEST(ContextBalanceControl, contiguous_parts_are_not_balanced) {
  for (int cp = 2; cp <= kMostRanks; ++cp) {
    const std::int64_t length = 64, seq = cp * length;
    std::vector<std::vector<SequenceRun>> runs;
    for (int rank = 0; rank < cp; ++rank) {
      runs.push_back(sequence_runs(ContextMethod::kUlysses, cp, rank, seq));
    }
    std::vector<std::int64_t> all;
    for (const auto& queries : runs) {
      std::int64_t sum = 0;
      for (const auto& keys : runs) {
        for (const auto& [query, key] : ring_tiles(queries, keys, 0)) {
          sum += Call{query.begin, query.length, key.begin, key.length, 1}.pairs();
        }
      }
      all.push_back(sum);
    }
    const auto c = static_cast<double>(cp), l = static_cast<double>(length);
    EXPECT_DOUBLE_EQ(max_over_mean(all), ((c - 0.5) * l + 0.5) / ((c * l + 1) / 2));
    EXPECT_GT(max_over_mean(all), 1.03 * 1.4);
    std::printf("    cp %d: contiguous parts %.3f times the mean, zigzag 1\n", cp,
                max_over_mean(all));
  }
}

// Every pair that a mask shows is in exactly one call, whatever the window; each query is in a call
// with itself as a key.
TEST(ContextCalls, every_visible_pair_is_computed_once) {
  for (const auto method :
       {ContextMethod::kRing, ContextMethod::kAllGather, ContextMethod::kUlysses}) {
    for (int cp = 2; cp <= 4; ++cp) {
      const std::int64_t seq = 12 * cp;
      for (const std::int64_t window : {std::int64_t{0}, std::int64_t{1}, std::int64_t{5}, seq}) {
        const auto n = static_cast<std::size_t>(seq);
        std::vector<int> forward(n * n), backward(n * n);
        for (int rank = 0; rank < cp; ++rank) {
          const auto calls = calls_of(method, cp, rank, seq, window);
          const auto mark = [&](const std::vector<Call>& list, std::vector<int>& seen) {
            for (const auto& call : list) {
              for (auto q = call.first_query; q < call.first_query + call.queries; ++q) {
                for (auto k = call.first_key; k < call.first_key + call.keys; ++k) {
                  seen[static_cast<std::size_t>(q * seq + k)] += static_cast<int>(call.heads);
                }
              }
            }
          };
          mark(calls.forward, forward);
          mark(calls.backward, backward);
        }
        for (std::int64_t q = 0; q < seq; ++q) {
          for (std::int64_t k = 0; k <= q; ++k) {
            if (window > 0 && q - k >= window) continue;
            const auto at = static_cast<std::size_t>(q * seq + k);
            ASSERT_EQ(forward[at], cp)
                << "cp " << cp << " window " << window << ": " << q << ", " << k;
            ASSERT_EQ(backward[at], cp);
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace pg::model

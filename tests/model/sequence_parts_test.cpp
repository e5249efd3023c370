// Which positions each context-parallel rank holds, and which pairs of runs the ring computes: by
// brute force over positions.
#include "model/sequence_parts.h"

#include <gtest/gtest.h>

#include <vector>

#include "comm/error.h"
#include "model/layers/context_attention.h"

namespace pg::model {
namespace {

constexpr ContextMethod kMethods[] = {ContextMethod::kRing, ContextMethod::kUlysses,
                                      ContextMethod::kAllGather};

std::vector<std::vector<SequenceRun>> runs_of_all(ContextMethod method, int cp, std::int64_t seq) {
  std::vector<std::vector<SequenceRun>> all;
  for (int rank = 0; rank < cp; ++rank) all.push_back(sequence_runs(method, cp, rank, seq));
  return all;
}

bool sees(std::int64_t query, std::int64_t key, std::int64_t window) {
  return key <= query && (window == 0 || query - key < window);
}

TEST(SequenceRuns, every_position_is_held_once_and_in_ascending_order) {
  for (const auto method : kMethods) {
    for (int cp = 1; cp <= 8; ++cp) {
      for (const std::int64_t chunk : {1, 2, 7, 64}) {
        const auto seq = 2 * cp * chunk;
        std::vector<int> held(static_cast<std::size_t>(seq));
        for (const auto& runs : runs_of_all(method, cp, seq)) {
          std::int64_t row = 0, last = -1;
          for (const auto& run : runs) {
            EXPECT_EQ(run.row, row) << "rows of a rank's part follow each other";
            EXPECT_GT(run.begin, last);
            EXPECT_GT(run.length, 0);
            row += run.length;
            last = run.end() - 1;
            for (auto p = run.begin; p < run.end(); ++p) ++held[static_cast<std::size_t>(p)];
          }
          EXPECT_EQ(row, seq / cp) << "parts are equal";
        }
        EXPECT_EQ(held, std::vector<int>(held.size(), 1)) << "cp " << cp << " seq " << seq;
      }
    }
  }
}

TEST(SequenceRuns, ulysses_needs_no_even_number_of_chunks_and_the_others_do) {
  EXPECT_EQ(sequence_runs(ContextMethod::kUlysses, 3, 1, 9), (std::vector<SequenceRun>{{3, 3, 0}}));
  EXPECT_THROW(sequence_runs(ContextMethod::kUlysses, 3, 1, 10), Error);
  EXPECT_THROW(sequence_runs(ContextMethod::kRing, 3, 1, 9), Error);
  EXPECT_THROW(sequence_runs(ContextMethod::kAllGather, 3, 1, 9), Error);
  EXPECT_THROW(sequence_runs(ContextMethod::kRing, 3, 3, 12), Error);
}

TEST(SequenceRuns, zigzag_gives_a_rank_one_chunk_from_each_end) {
  for (const auto method : {ContextMethod::kRing, ContextMethod::kAllGather}) {
    EXPECT_EQ(sequence_runs(method, 2, 0, 8), (std::vector<SequenceRun>{{0, 2, 0}, {6, 2, 2}}));
    EXPECT_EQ(sequence_runs(method, 2, 1, 8), (std::vector<SequenceRun>{{2, 2, 0}, {4, 2, 2}}));
    EXPECT_EQ(sequence_runs(method, 1, 0, 8), (std::vector<SequenceRun>{{0, 8, 0}}));
  }
}

// A tile is a pair of runs of which some query sees some key: none is missing (no visible pair is
// lost), none is there twice, and none is in vain, whatever the window.
TEST(RingTiles, are_the_pairs_of_runs_with_a_visible_pair) {
  for (const auto method : {ContextMethod::kRing, ContextMethod::kUlysses}) {
    for (int cp = 2; cp <= 5; ++cp) {
      for (const std::int64_t chunk : {1, 2, 5}) {
        const auto seq = 2 * cp * chunk;
        const auto runs = runs_of_all(method, cp, seq);
        for (std::int64_t window = 0; window <= seq + 1; ++window) {
          for (const auto& queries : runs) {
            for (const auto& keys : runs) {
              std::vector<AttentionTile> visible;
              for (const auto& query : queries) {
                for (const auto& key : keys) {
                  bool any = false;
                  for (auto q = query.begin; q < query.end(); ++q) {
                    for (auto k = key.begin; k < key.end(); ++k) any = any || sees(q, k, window);
                  }
                  if (any) visible.push_back({query, key});
                }
              }
              const auto tiles = ring_tiles(queries, keys, window);
              ASSERT_EQ(tiles.size(), visible.size())
                  << "cp " << cp << " seq " << seq << " window " << window;
              for (std::size_t i = 0; i < tiles.size(); ++i) {
                EXPECT_EQ(tiles[i].query, visible[i].query);
                EXPECT_EQ(tiles[i].key, visible[i].key);
              }
            }
          }
        }
      }
    }
  }
}

// The skipping pays: with a window of one chunk a run sees itself and the run before it.
TEST(RingTiles, a_window_of_a_chunk_leaves_two_tiles_a_run) {
  constexpr int kRanks = 4;
  constexpr std::int64_t kSeq = 64, kChunk = kSeq / (2 * kRanks);
  const auto runs = runs_of_all(ContextMethod::kRing, kRanks, kSeq);
  std::size_t causal = 0, windowed = 0;
  for (const auto& queries : runs) {
    for (const auto& keys : runs) {
      causal += ring_tiles(queries, keys, 0).size();
      windowed += ring_tiles(queries, keys, kChunk).size();
    }
  }
  EXPECT_EQ(causal, 2 * kRanks * (2 * kRanks + 1) / 2);
  EXPECT_EQ(windowed, 2 * 2 * kRanks - 1);
}

}  // namespace
}  // namespace pg::model

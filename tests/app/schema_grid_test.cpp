// Grids, cuts and pipeline schedules that do not fit: each refused at the key to change, with what
// would be legal; and those that fit pass.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <set>

#include "app/check.h"
#include "app/parallel_plan.h"
#include "tests/app/decks.h"

namespace pg::app {
namespace {

// kLeastDeck: 2 layers, 4 heads, 300 tokens, seq 32, 4 micro-batches of 2. Its lines keep their
// numbers.
std::string deck_with(const std::string& lines) {
  return kLeastDeck + lines;
}

std::string refused(const std::vector<std::string>& overrides, int ranks = 0) {
  return refusal_of(overrides, ranks);
}

TEST(SchemaGrid, tp_divides_what_it_cuts) {
  EXPECT_EQ(refusal(deck_with("[grid]\ntp = 3\n"), Purpose::kTrain),
            "d.toml:14:6: grid.tp: 3 does not divide model.heads = 4; legal for this model: 1, 2, "
            "4");
  EXPECT_EQ(refused({"grid.tp=4", "model.heads=12", "model.head_dim=6", "model.kv_heads=6"}),
            "command line: grid.tp=4: grid.tp: 4 neither divides model.kv_heads = 6 nor is a "
            "multiple of it; legal for this model: 1, 2, 3, 6, 12");
  EXPECT_EQ(refused({"grid.tp=4", "model.ffn=250"}),
            "command line: grid.tp=4: grid.tp: 4 does not divide model.ffn = 250; legal for this "
            "model: 1, 2");
  EXPECT_EQ(refused({"grid.tp=4", "model.vocab=3"}),
            "command line: grid.tp=4: grid.tp: 4 is more than model.vocab = 3; legal for this "
            "model: 1, 2");
  EXPECT_EQ(refused({"grid.tp=4", "model.kv_heads=1", "model.vocab=61"}), "");
  EXPECT_EQ(refused({"grid.tp=4"}, 4), "");
}

TEST(SchemaGrid, sequence_parallel_needs_a_sequence_that_tp_divides) {
  EXPECT_EQ(refused({"grid.tp=4", "grid.sequence_parallel=true", "train.seq=30"}),
            "command line: grid.sequence_parallel=true: grid.sequence_parallel: it cuts train.seq "
            "= 30 over grid.tp = 4, which does not divide it (legal: false, or train.seq = 28 or "
            "32)");
  EXPECT_EQ(refused({"grid.tp=4", "train.seq=30"}), "");
  EXPECT_EQ(refused({"grid.tp=4", "grid.sequence_parallel=true"}), "");
}

TEST(SchemaGrid, stages_and_chunks_hold_at_least_one_layer) {
  EXPECT_EQ(refused({"grid.pp=3"}),
            "command line: grid.pp=3: grid.pp: 3 stages need a layer each, and model.layers = 2 "
            "(legal: 1 to 2)");
  EXPECT_EQ(refused({"grid.pp=2", "model.layers=5", "pipeline.schedule=interleaved",
                     "pipeline.chunks=4"}),
            "command line: pipeline.chunks=4: pipeline.chunks: 4 chunks on each of grid.pp = 2 "
            "stages need a layer each, and model.layers = 5 (legal: 2)");
  EXPECT_EQ(refused({"grid.pp=4", "model.layers=6", "pipeline.schedule=interleaved",
                     "pipeline.chunks=2"}),
            "command line: pipeline.schedule=interleaved: pipeline.schedule: \"interleaved\" needs "
            "at least 2 layers on each of grid.pp = 4 stages, and model.layers = 6 (legal: "
            "\"gpipe\", \"1f1b\")");
  EXPECT_EQ(refused({"grid.pp=5", "model.layers=5"}), "");
  EXPECT_EQ(refused({"grid.pp=2", "model.layers=4", "pipeline.schedule=interleaved",
                     "pipeline.chunks=2"}),
            "");
}

TEST(SchemaGrid, schedules_name_the_key_to_change) {
  EXPECT_EQ(refused({"grid.pp=2", "model.layers=8", "pipeline.schedule=interleaved"}),
            "d.toml:1:1: pipeline.chunks: \"interleaved\" needs at least 2 chunks a stage (legal: "
            "2 to 4)");
  EXPECT_EQ(refused({"pipeline.schedule=interleaved", "pipeline.chunks=2"}),
            "command line: pipeline.schedule=interleaved: pipeline.schedule: \"interleaved\" needs "
            "at least 2 stages, and grid.pp = 1 (legal: \"gpipe\", \"1f1b\")");
  EXPECT_EQ(refused({"pipeline.schedule=interleaved", "grid.pp=2"}),
            "command line: pipeline.schedule=interleaved: pipeline.schedule: \"interleaved\" needs "
            "at least 2 layers on each of grid.pp = 2 stages, and model.layers = 2 (legal: "
            "\"gpipe\", \"1f1b\")");
  EXPECT_EQ(refused({"pipeline.chunks=2"}),
            "command line: pipeline.chunks=2: pipeline.chunks: pipeline.schedule = \"1f1b\" has "
            "one chunk a stage (legal: 1, or more with \"interleaved\" on grid.pp >= 2)");
  EXPECT_EQ(refused({"grid.pp=3", "grid.dp=2", "model.layers=6", "pipeline.schedule=interleaved",
                     "pipeline.chunks=2", "train.global_batch=16"},
                    6),
            "command line: train.global_batch=16: train.global_batch: 16 sequences are 4 "
            "micro-batches of 2 on each of dp*ep = 2*1 ranks; \"interleaved\" needs a multiple of "
            "grid.pp = 3 of them; nearest: 12 or 24");
  EXPECT_EQ(refused({"pipeline.schedule=zero_bubble"}),
            "command line: pipeline.schedule=zero_bubble: pipeline.schedule: \"zero_bubble\" is "
            "not supported yet; this version supports only \"gpipe\", \"1f1b\", \"interleaved\"");
  // Fewer micro-batches than stages are legal, if slow.
  EXPECT_EQ(refused({"grid.pp=8", "model.layers=8"}), "");
  EXPECT_EQ(refused({"grid.pp=8", "model.layers=8", "pipeline.schedule=gpipe"}), "");
}

TEST(SchemaGrid, zero_and_recompute_have_their_ranges) {
  EXPECT_EQ(refused({"grid.zero=4"}),
            "command line: grid.zero=4: grid.zero: 4 is out of range; it takes an integer from 0 "
            "to 3");
  EXPECT_EQ(refused({"recompute.layers=1"}),
            "command line: recompute.layers=1: recompute.layers: recompute.mode = \"none\" "
            "recomputes no layers (legal: 0)");
  EXPECT_EQ(refused({"recompute.mode=full", "recompute.layers=3"}),
            "command line: recompute.layers=3: recompute.layers: 3 is more than model.layers = 2 "
            "(legal: 0 to 2)");
  EXPECT_EQ(
      refused({"recompute.mode=some"}),
      "command line: recompute.mode=some: recompute.mode: \"some\" is none of the choices; it "
      "takes \"none\", \"selective\", \"full\" (nearest: \"none\")");
  for (const char* zero : {"grid.zero=0", "grid.zero=1", "grid.zero=2", "grid.zero=3"}) {
    EXPECT_EQ(refused({zero, "recompute.mode=selective", "recompute.layers=2"}), "") << zero;
  }
}

TEST(SchemaGrid, product_of_axes_is_the_rank_count) {
  EXPECT_EQ(refused({"grid.dp=2"}, 2), "");
  EXPECT_EQ(refused({"grid.dp=4"}, 2),
            "command line: grid.dp=4: grid.dp: dp 4 x tp 1 x pp 1 x ep 1 x cp 1 is 4 ranks, but "
            "there are 2; legal: dp = 2, or 0 for what is left");
  EXPECT_EQ(refused({"grid.dp=1", "grid.pp=2"}, 4),
            "command line: grid.dp=1: grid.dp: dp 1 x tp 1 x pp 2 x ep 1 x cp 1 is 2 ranks, but "
            "there are 4; legal: dp = 2, or 0 for what is left");
  EXPECT_EQ(refused({"grid.tp=2"}, 3),
            "command line: grid.tp=2: grid.tp: dp (what is left) x tp 2 x pp 1 x ep 1 x cp 1 does "
            "not fit 3 ranks: tp*pp*ep*cp = 2 does not divide 3 (legal: a divisor of 3, or 2 "
            "ranks)");
  EXPECT_EQ(refused({"grid.pp=2"}, 1),
            "command line: grid.pp=2: grid.pp: dp (what is left) x tp 1 x pp 2 x ep 1 x cp 1 does "
            "not fit 1 ranks: tp*pp*ep*cp = 2 does not divide 1 (legal: a divisor of 1, or 2 "
            "ranks)");
  // Without a rank count (a login node) dp speaks for itself.
  EXPECT_EQ(refused({"grid.dp=4"}, 0), "");
  EXPECT_EQ(refused({"grid.dp=1048576", "grid.tp=4", "train.global_batch=1048576",
                     "train.micro_batch=1"}),
            "command line: grid.dp=1048576: grid.dp: the axes' product is 4194304 ranks; 1048576 "
            "is the limit");
}

TEST(SchemaGrid, axes_that_do_not_divide_the_ranks_are_refused) {
  GridSection grid;
  grid.tp = 2;
  EXPECT_NE(grid_problem(grid, 3).find("tp*pp*ep*cp = 2 does not divide 3"), std::string::npos);
  EXPECT_EQ(grid_problem(grid, 6), "");
  Deck deck;
  deck.grid = grid;
  EXPECT_EQ(grid_of(deck, 6).size(comm::Axis::kDP), 3);
  EXPECT_THROW(grid_of(deck, 3), Error);
}

TEST(SchemaGrid, all_that_is_wrong_with_a_grid_comes_at_once) {
  EXPECT_EQ(refusal(deck_with("[grid]\n"
                              "tp = 3\n"
                              "pp = 4\n"
                              "zero = 5\n"
                              "sequence_parallel = true\n"
                              "[pipeline]\n"
                              "chunks = 2\n"
                              "[recompute]\n"
                              "mode = 'full'\n"
                              "layers = 9\n"),
                    Purpose::kTrain, 7, {}),
            "d.toml:14:6: grid.tp: 3 does not divide model.heads = 4; legal for this model: 1, 2, "
            "4\n"
            "d.toml:14:6: grid.tp: dp (what is left) x tp 3 x pp 4 x ep 1 x cp 1 does not fit 7 "
            "ranks: tp*pp*ep*cp = 12 does not divide 7 (legal: a divisor of 7, or 12 ranks)\n"
            "d.toml:15:6: grid.pp: 4 stages need a layer each, and model.layers = 2 (legal: 1 to "
            "2)\n"
            "d.toml:16:8: grid.zero: 5 is out of range; it takes an integer from 0 to 3\n"
            "d.toml:17:21: grid.sequence_parallel: it cuts train.seq = 32 over grid.tp = 3, which "
            "does not divide it (legal: false, or train.seq = 30 or 33)\n"
            "d.toml:22:10: recompute.layers: 9 is more than model.layers = 2 (legal: 0 to 2)");
}

// The deck's checks and the schedules' own say the same of every shape.
TEST(SchemaGrid, what_passes_can_be_scheduled_and_nothing_else_is_refused) {
  int legal = 0, illegal = 0;
  for (const auto kind : {model::ScheduleKind::kGPipe, model::ScheduleKind::k1F1B,
                          model::ScheduleKind::kInterleaved}) {
    for (const std::int64_t pp : {1, 2, 3, 4, 6}) {
      for (const std::int64_t chunks : {1, 2, 3}) {
        for (const std::int64_t dp : {1, 2}) {
          for (const std::int64_t batch : {4, 8, 12, 24}) {
            Deck deck;
            deck.model.layers = 18;
            deck.model.heads = deck.model.kv_heads = deck.model.ffn = deck.model.vocab = 8;
            deck.grid.pp = pp;
            deck.pipeline = {kind, chunks};
            deck.train.global_batch = batch;
            deck.train.micro_batch = 2;
            const auto micro_batches = static_cast<int>(batch / (2 * dp));
            const bool fits = model::schedule_problem({kind, static_cast<int>(pp),
                                                       static_cast<int>(chunks), micro_batches})
                                  .empty();
            EXPECT_EQ(cut_problems(deck).empty() && schedule_problems(deck, dp).empty(), fits)
                << model::schedule_name(kind) << " pp " << pp << " chunks " << chunks << " dp "
                << dp << " batch " << batch;
            (fits ? legal : illegal) += 1;
          }
        }
      }
    }
  }
  EXPECT_GT(legal, 50);
  EXPECT_GT(illegal, 50);
}

// "KEY: ... (legal: 2 to 4)", "(legal: 2)" or "(legal: \"gpipe\", ...)": the values named.
std::vector<std::string> named_values(const std::string& what) {
  const std::string opens = "(legal: ";
  const auto begin = what.find(opens) + opens.size();
  const auto list = what.substr(begin, what.find(')', begin) - begin);
  if (list.starts_with('"')) return {"gpipe", "1f1b"};
  if (const auto to = list.find(" to "); to != list.npos) {
    return {list.substr(0, to), list.substr(to + 4)};
  }
  return {list.substr(0, list.find(','))};
}

// Following the messages one after another leads to a legal deck, whichever named value is taken.
TEST(SchemaGrid, values_named_as_legal_are_legal) {
  int followed = 0;
  for (const char* schedule : {"gpipe", "1f1b", "interleaved"}) {
    for (const int layers : {1, 2, 5, 6, 12}) {
      for (const int pp : {1, 2, 4, 7}) {
        for (const int chunks : {1, 2, 4}) {
          for (const std::size_t pick : {0, 1}) {
            std::map<std::string, std::string> keys = {{"pipeline.schedule", schedule},
                                                       {"grid.pp", std::to_string(pp)},
                                                       {"pipeline.chunks", std::to_string(chunks)},
                                                       {"model.layers", std::to_string(layers)},
                                                       {"train.global_batch", "840"}};
            std::set<std::string> changed;
            for (;;) {
              std::vector<std::string> overrides;
              for (const auto& [key, value] : keys) overrides.push_back(key + "=" + value);
              const auto text = refused(overrides);
              if (text.empty()) break;
              const auto line = text.substr(0, text.find('\n'));
              std::string key;
              for (const auto& [name, value] : keys) {
                if (line.find(": " + name + ": ") != line.npos) key = name;
              }
              ASSERT_TRUE(changed.insert(key).second) << "again: " << line;
              const auto values = named_values(line);
              keys[key] = values[std::min(pick, values.size() - 1)];
              ++followed;
            }
          }
        }
      }
    }
  }
  EXPECT_GT(followed, 100);
}

TEST(SchemaGrid, schedules_that_would_eat_memory_are_refused) {
  EXPECT_EQ(refused({"grid.pp=4096", "model.layers=16384", "train.global_batch=1048576",
                     "train.micro_batch=1"}),
            "command line: grid.pp=4096: grid.pp: a schedule of 4096 stages x 1 chunks is too "
            "large: 2*pp*pp*chunks is at most 262144");
  EXPECT_EQ(refused({"grid.pp=64", "model.layers=64", "train.global_batch=1048576",
                     "train.micro_batch=1"}),
            "command line: train.global_batch=1048576: train.global_batch: 1048576 sequences are "
            "1048576 micro-batches of 1 on each of pp*chunks = 64*1 parts of the model, a schedule "
            "that is too large (legal: at most 4096, or a larger train.micro_batch)");
  EXPECT_EQ(
      refused({"grid.pp=64", "model.layers=64", "train.global_batch=4096", "train.micro_batch=1"}),
      "");
}

// A wide pipeline with many micro-batches: `check` answers at once (2 s is asked of the optimised
// program; the limit of the test itself holds for any build).
TEST(SchemaGrid, bytes_of_a_long_step_on_many_stages_are_planned_quickly) {
  const auto deck = parse_deck(kLeastDeck, "d.toml",
                               {"grid.pp=16", "model.layers=32", "train.global_batch=1024",
                                "pipeline.schedule=interleaved", "pipeline.chunks=2"},
                               Purpose::kCheck, 16);
  const auto begin = std::chrono::steady_clock::now();
  const auto report = check_report(deck, 16);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  EXPECT_NE(report.find("1 ranks x 512 micro-batches x 2"), std::string::npos) << report;
  EXPECT_LT(seconds.count(), 20.0);
}

}  // namespace
}  // namespace pg::app

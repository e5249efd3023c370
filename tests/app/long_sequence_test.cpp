// Memory of long sequences: activations are linear in the length, fall as 1/cp, and hold nothing of
// length x length. By the plan at 131,072 positions, and by runs of short ones. (bench/LONG.md has
// the runs of long ones.)
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <string>

#include "app/memory_plan.h"
#include "app/parallel_plan.h"
#include "harness/tiny_run.h"

namespace pg::testing {
namespace {

using model::ContextMethod;

constexpr ContextMethod kMethods[] = {ContextMethod::kRing, ContextMethod::kUlysses,
                                      ContextMethod::kAllGather};

comm::Communicator world() {
  return comm::Communicator::world();
}

// One layer with as many KV heads as query heads and a feed-forward layer of four widths.
app::Deck deck_of(ContextMethod method, int cp, std::int64_t seq,
                  const std::filesystem::path& tokens) {
  auto deck = llama_deck(tokens, DType::kF32);
  auto& m = deck.model;
  m.layers = 1;
  m.hidden = 16;
  m.heads = m.kv_heads = 4;
  m.head_dim = 4;
  m.ffn = 64;
  m.max_seq = deck.train.seq = seq;
  deck.train.micro_batch = deck.train.global_batch = 1;
  deck.context.method = method;
  deck.grid.cp = cp;
  return deck;
}

// With grouped KV heads, or more layers, the method's own buffers weigh less; in bf16 some of them,
// which are fp32, weigh more.
app::Deck grouped(app::Deck deck) {
  deck.model.heads = 8;
  deck.model.head_dim = 2;
  deck.model.layers = 2;
  return deck;
}
app::Deck selective(app::Deck deck) {
  deck.model.layers = 4;
  deck.recompute.mode = model::Recompute::kSelective;
  return deck;
}
app::Deck rounded(app::Deck deck) {
  deck.model.layers = 6;
  deck.run.precision = DType::kBF16;
  return deck;
}

std::int64_t planned(const app::Deck& deck) {
  return app::plan_memory(deck, comm::GridShape(1, 1, 1, 1, static_cast<int>(deck.grid.cp)), {})
      .activations;
}

using Variant = app::Deck (*)(app::Deck);
constexpr Variant kVariants[] = {[](app::Deck deck) { return deck; }, grouped, selective, rounded};

std::string name(ContextMethod method, int cp) {
  return fmt::format("method {} cp {}", static_cast<int>(method), cp);
}

// Each tensor is padded to 64 bytes, which a rank's 64 positions or more hide.
constexpr double kPadding = 0.01;

TEST(LongSequences, planned_bytes_are_linear_in_the_length) {
  for (const auto variant : kVariants) {
    for (const auto method : kMethods) {
      for (const int cp : {1, 2, 4}) {
        const auto of = [&](std::int64_t seq) {
          return static_cast<double>(planned(variant(deck_of(method, cp, seq, "")))) /
                 static_cast<double>(seq);
        };
        const double a_token = of(256);
        for (std::int64_t seq = 512; seq <= 131072; seq *= 2) {
          EXPECT_NEAR(of(seq), a_token, kPadding * a_token) << name(method, cp) << ", " << seq;
        }
        // What a byte for each pair of positions would add.
        EXPECT_LT(a_token, 0.1 * 131072) << name(method, cp);
      }
    }
  }
}

// Ring keeps what one rank would keep of its part; its travelling keys and gradients are one
// layer's and find room, or most of it, where the feed-forward layer's temporaries were. Ulysses
// keeps attention's outputs twice. Whole keys and values do not fall.
TEST(LongSequences, planned_bytes_fall_as_one_over_cp_but_for_gathered_keys) {
  for (const std::int64_t seq : {1024, 131072}) {
    for (std::size_t v = 0; v < std::size(kVariants); ++v) {
      for (const auto method : kMethods) {
        const auto of = [&](int cp) {
          return static_cast<double>(planned(kVariants[v](deck_of(method, cp, seq, ""))));
        };
        for (const int cp : {2, 4}) {
          const double share = of(cp) * cp / of(1);
          if (method == ContextMethod::kAllGather) continue;
          EXPECT_NEAR(share, 1.0, 0.1) << name(method, cp) << " variant " << v << ", " << seq;
        }
        if (method == ContextMethod::kAllGather && v == 0) {
          EXPECT_GT(of(4) * 4 / of(1), 1.2) << "gathered keys of " << seq;
        }
      }
    }
  }
}

// Collective over the first `cp` ranks; the others get 0.
double taken(ContextMethod method, int cp, std::int64_t seq, const std::filesystem::path& tokens) {
  const auto part = world().split(world().rank() < cp ? 0 : -1, world().rank());
  double most = 0;
  if (part) {
    const auto deck = deck_of(method, cp, seq, tokens);
    comm::ProcessGrid grid(part, app::grid_of(deck, part.size()));
    app::Trainer trainer(deck, grid);
    trainer.step();
    EXPECT_EQ(trainer.arena_high_water(), planned(deck)) << name(method, cp) << ", " << seq;
    most = static_cast<double>(trainer.arena_high_water());
  }
  const auto all = comm::make_mpi_group(world().split(0, world().rank()), "all");
  return comm::all_reduce(*all, most, comm::ReduceOp::kMax);
}

TEST(LongSequences, bytes_of_runs_are_linear_in_the_length_and_fall_as_one_over_cp) {
  const auto tokens = make_tokens(world(), "long_sequences", 2049, 61, 5);
  double one = 0;
  for (const auto method : kMethods) {
    for (const int cp : {1, 2, 4}) {
      if (cp == 1 && method != kMethods[0]) continue;
      const double a_token = taken(method, cp, 256, tokens) / 256;
      for (const std::int64_t seq : {512, 1024}) {
        EXPECT_NEAR(taken(method, cp, seq, tokens) / static_cast<double>(seq), a_token,
                    kPadding * a_token)
            << name(method, cp) << ", " << seq;
      }
      if (cp == 1) one = a_token;
      if (method != ContextMethod::kAllGather) {
        EXPECT_NEAR(a_token * cp / one, 1.0, 0.1) << name(method, cp);
      }
    }
  }
}

std::int64_t peak_rss() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::int64_t>(usage.ru_maxrss) * 1024;
}

// The arenas hold what layers push; kernels have memory of their own. Scores of one head would take
// length x length numbers: 64 MiB here. A rank grows by a fraction of it.
TEST(LongSequences, no_process_holds_length_times_length_numbers) {
  constexpr std::int64_t kSeq = 4096;
  const auto tokens = make_tokens(world(), "long_scores", kSeq + 1, 61, 5);
  for (const auto method : kMethods) {
    for (const int cp : {1, world().size()}) {
      if (cp == 1 && method != kMethods[0]) continue;
      const auto before = peak_rss();
      taken(method, cp, kSeq, tokens);
      EXPECT_LT(peak_rss() - before, kSeq * kSeq * 4 / 2) << name(method, cp);
    }
  }
}

}  // namespace
}  // namespace pg::testing

// How `verify` cuts a deck: to the most that fits, to nothing illegal, and said.
#include "app/verify_cut.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <tuple>

#include "app/host_memory.h"
#include "app/memory_plan.h"
#include "app/parallel_plan.h"
#include "comm/error.h"
#include "harness/tiny_run.h"
#include "model/param_table.h"

namespace pg::testing {
namespace {

namespace fs = std::filesystem;
using model::ScheduleKind;

constexpr std::int64_t kPlenty = std::int64_t{1} << 50;

app::Deck deck_on(int dp, int tp, int pp, int zero = 0) {
  auto deck = llama_deck("", DType::kBF16);
  deck.model.layers = 12;
  deck.train.global_batch = 48;
  deck.grid.dp = dp;
  deck.grid.tp = tp;
  deck.grid.pp = pp;
  deck.grid.zero = zero;
  return deck;
}

comm::GridShape shape_of(const app::Deck& deck) {
  const auto& g = deck.grid;
  return app::grid_of(deck, static_cast<int>(g.dp * g.tp * g.pp * g.ep * g.cp));
}

// Every rank of the grid on one host.
std::vector<app::VerifyHost> one_host(const app::Deck& deck, std::int64_t available) {
  const auto grid = shape_of(deck);
  const int stages = grid.size(comm::Axis::kPP);
  const auto on_stage = static_cast<std::size_t>(stages);
  return {{std::vector<int>(on_stage, grid.world() / stages), true, available}};
}

app::VerifyDeck cut(const app::Deck& deck, std::int64_t available) {
  return app::cut_for_verify(deck, shape_of(deck), one_host(deck, available));
}

// The least available memory that lets this deck be verified with all its layers.
std::int64_t enough_for(const app::Deck& deck) {
  const auto all = cut(deck, kPlenty);
  // The usable share of this is what is needed, but for the last byte of rounding.
  return static_cast<std::int64_t>(static_cast<double>(all.needed) * static_cast<double>(kPlenty) /
                                   static_cast<double>(all.usable)) +
         2;
}

std::string joined(const std::vector<std::string>& lines) {
  std::string text;
  for (const auto& line : lines) text += line + "\n";
  return text;
}

// Experts in every `every`-th block, each width as large as the dense one.
app::Deck with_experts(app::Deck deck, std::int64_t every) {
  deck.model.moe = {.experts = 4, .top_k = 2, .ffn = deck.model.ffn, .every = every};
  return deck;
}

std::vector<app::Deck> decks() {
  std::vector<app::Deck> all{deck_on(1, 1, 1), deck_on(4, 1, 1, 3), deck_on(2, 2, 2, 1),
                             deck_on(1, 2, 4), deck_on(2, 1, 3, 2)};
  all[3].grid.sequence_parallel = true;
  for (const int chunks : {2, 3}) {
    auto interleaved = deck_on(2, 1, 2);
    interleaved.pipeline.schedule = ScheduleKind::kInterleaved;
    interleaved.pipeline.chunks = chunks;
    interleaved.recompute = {model::Recompute::kFull, 7};
    all.push_back(interleaved);
  }
  auto experts = with_experts(deck_on(2, 1, 2), 1);
  experts.grid.ep = 2;
  all.push_back(experts);
  auto parts = deck_on(1, 2, 2);
  parts.grid.cp = 3;
  parts.grid.sequence_parallel = true;
  all.push_back(parts);
  return all;
}

void expect_legal(const app::Deck& deck) {
  EXPECT_TRUE(app::cut_problems(deck).empty());
  const auto at_once = deck.grid.dp * deck.grid.ep * deck.train.micro_batch;
  EXPECT_EQ(deck.train.global_batch % at_once, 0);
  EXPECT_EQ(model::schedule_problem({deck.pipeline.schedule, static_cast<int>(deck.grid.pp),
                                     static_cast<int>(deck.pipeline.chunks),
                                     static_cast<int>(deck.train.global_batch / at_once)}),
            "");
}

TEST(VerifyCut, what_fits_keeps_its_layers_and_is_run_in_fp64) {
  for (const auto& deck : decks()) {
    const auto v = cut(deck, kPlenty);
    EXPECT_EQ(v.deck.model, deck.model);
    EXPECT_EQ(v.deck.grid, deck.grid);
    EXPECT_EQ(v.deck.recompute, deck.recompute);
    EXPECT_EQ(v.deck.run.precision, DType::kF64);
    expect_legal(v.deck);
  }
}

TEST(VerifyCut, layers_are_cut_to_the_most_that_fit) {
  for (const auto& deck : decks()) {
    const auto fewest = deck.grid.pp * deck.pipeline.chunks;
    for (std::int64_t layers = fewest; layers < deck.model.layers; ++layers) {
      auto smaller = deck;
      smaller.model.layers = layers;
      smaller.recompute.layers = std::min(deck.recompute.layers, layers);
      const auto available = enough_for(smaller);
      const auto v = cut(deck, available);
      EXPECT_EQ(v.deck.model.layers, layers);
      EXPECT_LE(v.needed, v.usable);
      EXPECT_NE(joined(v.cuts).find("layers cut from 12 to " + std::to_string(layers) + ","),
                std::string::npos)
          << joined(v.cuts);
      EXPECT_EQ(v.deck.recompute.layers, smaller.recompute.layers);
      EXPECT_EQ(joined(v.cuts).find("recompute.layers cut from 7") != std::string::npos,
                deck.recompute.layers > layers);
      expect_legal(v.deck);
    }
    // One layer fewer would fit, but not the grid.
    auto least = deck;
    least.model.layers = fewest;
    least.recompute.layers = std::min(deck.recompute.layers, fewest);
    EXPECT_THROW(cut(deck, enough_for(least) * 99 / 100), Error);
  }
}

TEST(VerifyCut, a_block_with_experts_is_kept) {
  const auto deck = with_experts(deck_on(1, 1, 2), 4);
  const auto with_layers = [&](std::int64_t layers) {
    auto smaller = deck;
    smaller.model.layers = layers;
    return smaller;
  };
  const auto four = enough_for(with_layers(4));
  EXPECT_EQ(cut(deck, four).deck.model.layers, 4);
  try {
    cut(deck, four * 99 / 100);  // three dense blocks would fit
    ADD_FAILURE() << "cut to a dense model";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("even with 4 layers"), std::string::npos)
        << error.what();
  }
  EXPECT_LT(enough_for(with_layers(3)), four * 99 / 100);
}

// The load of fresh routers is anybody's guess: the grid must hold the largest.
TEST(VerifyCut, one_rank_s_experts_may_be_asked_for_alone) {
  auto deck = with_experts(deck_on(1, 1, 1), 1);
  deck.grid.ep = 4;
  deck.train.micro_batch = 12;  // where activations are most of the memory
  const auto even = app::plan_stages(deck, shape_of(deck)).front();
  EXPECT_GT(even.activations_most, even.activations);
  const auto v = cut(deck, kPlenty);
  const auto plan = app::plan_stages(v.deck, shape_of(deck)).front();
  EXPECT_GE(v.needed, 4 * (plan.total - plan.activations + plan.activations_most));
}

TEST(VerifyCut, the_reference_is_cut_by_nothing) {
  auto deck = decks().back();
  deck.context.method = model::ContextMethod::kAllGather;
  const auto one = app::one_rank_deck(deck);
  EXPECT_EQ(one.grid, app::GridSection{});
  EXPECT_EQ(one.context, app::ContextSection{});
  EXPECT_EQ(one.model, deck.model);
}

TEST(VerifyCut, one_rank_needs_40_bytes_a_parameter_and_more) {
  // Weights, gradients, two moments and the gradients that are kept, 8 bytes each.
  for (const auto& deck : decks()) {
    const auto parameters = model::ParamTable(deck.model).elements();
    EXPECT_GT(cut(deck, kPlenty).needed, 40 * parameters);
  }
}

TEST(VerifyCut, the_host_with_the_least_memory_decides) {
  const auto deck = deck_on(4, 1, 2);
  auto smaller = deck;
  smaller.model.layers = 5;
  auto hosts = one_host(deck, kPlenty);
  hosts[0].ranks_of_stage = {3, 3};
  hosts.push_back({{1, 1}, false, 0});
  const auto needed = [&](const app::Deck& of) {
    auto alone = hosts;
    std::swap(alone[0].available, alone[1].available);
    alone[0].available = kPlenty;
    alone[1].available = kPlenty / (1 << 20);  // the tightest, though it fits
    return app::cut_for_verify(of, shape_of(of), alone).needed;
  };
  // Rank 0's host has plenty; the other one just what two ranks need with 5 layers.
  hosts[1].available = static_cast<std::int64_t>(static_cast<double>(needed(smaller)) / 0.8) + 2;
  const auto v = app::cut_for_verify(deck, shape_of(deck), hosts);
  EXPECT_EQ(v.deck.model.layers, 5);
  EXPECT_NE(joined(v.cuts).find("in fp64 each host holds the model"), std::string::npos);
}

// What a refusal names as legal is legal: "KEY: ... (legal: at most N[ with KEY = M])".
TEST(VerifyCut, when_the_fewest_layers_do_not_fit_the_value_named_does) {
  for (const auto& [key, share, cp] : {std::tuple{"train.micro_batch", 0.6, 1},
                                       {"train.seq", 0.35, 1},
                                       {"train.seq", 0.35, 2},
                                       {"model.hidden", 0.2, 1}}) {
    auto deck = deck_on(1, 2, 2);
    deck.train.micro_batch = 8;
    deck.grid.sequence_parallel = true;
    deck.grid.cp = cp;
    // Where activations are most of the memory, and where parameters are.
    deck.train.seq = deck.model.max_seq = std::string(key) == "model.hidden" ? 4 : 4096;
    deck.model.hidden = std::string(key) == "model.hidden" ? 768 : 24;
    auto fewest = deck;
    fewest.model.layers = 2;
    if (std::string(key) == "train.seq") fewest.train.micro_batch = 1;
    const auto available =
        static_cast<std::int64_t>(share * static_cast<double>(enough_for(fewest)));
    std::string message;
    try {
      cut(deck, available);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kDeck);
      message = error.what();
    }
    ASSERT_TRUE(message.starts_with(std::string(key) + ": ")) << message;
    EXPECT_NE(message.find("even with 2 layers"), std::string::npos) << message;
    const auto at = message.find("(legal: at most ");
    ASSERT_NE(at, std::string::npos) << message;
    const auto value = std::stoll(message.substr(at + 16));
    if (message.find("with train.micro_batch = 1)") != std::string::npos) {
      deck.train.micro_batch = 1;
    }
    (std::string(key) == "train.micro_batch" ? deck.train.micro_batch
     : std::string(key) == "train.seq"       ? deck.train.seq
                                             : deck.model.hidden) = value;
    EXPECT_NO_THROW(cut(deck, available)) << message;
    EXPECT_TRUE(app::cut_problems(deck).empty()) << message;
  }
}

TEST(VerifyCut, nothing_fits_into_nothing) {
  for (const auto& deck : decks()) {
    EXPECT_THROW(cut(deck, 1), Error);
  }
}

TEST(VerifyCut, the_batch_is_cut_to_what_fills_the_pipeline) {
  const auto batch = [](app::Deck deck, std::int64_t global_batch) {
    deck.train.global_batch = global_batch;
    const auto v = cut(deck, kPlenty);
    EXPECT_EQ(v.deck.train.global_batch != global_batch,
              joined(v.cuts).find("global_batch cut from") != std::string::npos);
    return v.deck.train.global_batch;
  };
  // micro_batch is 2; without a pipeline two micro-batches add up.
  EXPECT_EQ(batch(deck_on(1, 1, 1), 48), 4);
  EXPECT_EQ(batch(deck_on(4, 1, 1), 48), 16);
  EXPECT_EQ(batch(deck_on(4, 1, 1), 8), 8);    // one micro-batch each stays one
  EXPECT_EQ(batch(deck_on(2, 1, 3), 48), 24);  // 2 * pp of them
  EXPECT_EQ(batch(deck_on(2, 1, 3), 12), 12);
  auto interleaved = deck_on(1, 1, 4);
  interleaved.pipeline = {ScheduleKind::kInterleaved, 3};
  EXPECT_EQ(batch(interleaved, 48), 16);
  EXPECT_EQ(batch(interleaved, 8), 8);
}

TEST(VerifyCut, a_real_model_is_cut_to_what_its_grid_allows) {
  auto deck = deck_on(2, 4, 4, 1);
  deck.model.layers = 32;
  deck.model.hidden = 4096;
  deck.model.heads = 32;
  deck.model.kv_heads = 8;
  deck.model.head_dim = 128;
  deck.model.ffn = 14336;
  deck.model.vocab = 32000;
  deck.train.seq = deck.model.max_seq = 2048;
  deck.train.micro_batch = 1;
  const auto v = cut(deck, std::int64_t{256} << 30);
  EXPECT_GE(v.deck.model.layers, 4);
  EXPECT_LT(v.deck.model.layers, 32);
  expect_legal(v.deck);
}

// -- the memory of a host
// ----------------------------------------------------------------------------

class HostMemory : public ::testing::Test {
 protected:
  void SetUp() override {
    root_ = scratch_folder("host_memory") / std::to_string(comm::Communicator::world().rank());
    fs::remove_all(root_);
    write("proc/meminfo", "MemTotal: 1000 kB\nMemFree: 100 kB\nMemAvailable:  600 kB\n");
  }
  void write(const std::string& path, const std::string& text) const {
    fs::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text;
  }
  std::int64_t available() const { return app::available_memory(root_); }

  fs::path root_;
};

TEST_F(HostMemory, is_what_the_kernel_says) {
  EXPECT_EQ(available(), 600 * 1024);
  EXPECT_GT(app::available_memory(), std::int64_t{1} << 20);  // of this machine
}

TEST_F(HostMemory, is_less_in_a_group_of_version_2_that_has_less_left) {
  write("proc/self/cgroup", "0::/job/step\n");
  write("sys/fs/cgroup/job/step/memory.max", "max\n");
  write("sys/fs/cgroup/job/step/memory.current", "1000\n");
  EXPECT_EQ(available(), 600 * 1024);
  write("sys/fs/cgroup/job/memory.max", "50000\n");
  write("sys/fs/cgroup/job/memory.current", "20000\n");
  EXPECT_EQ(available(), 30000);
  write("sys/fs/cgroup/job/memory.stat", "anon 11000\ninactive_file 9000\nslab 1\n");
  EXPECT_EQ(available(), 39000);
  write("sys/fs/cgroup/job/step/memory.max", "1500\n");
  EXPECT_EQ(available(), 500);
}

TEST_F(HostMemory, is_less_in_a_group_of_version_1_and_never_negative) {
  write("proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/slurm/job_1\n0::/\n");
  write("sys/fs/cgroup/memory/slurm/job_1/memory.limit_in_bytes", "40000\n");
  write("sys/fs/cgroup/memory/slurm/job_1/memory.usage_in_bytes", "10000\n");
  write("sys/fs/cgroup/memory/slurm/job_1/memory.stat", "total_inactive_file 500\n");
  EXPECT_EQ(available(), 30500);
  write("sys/fs/cgroup/memory/slurm/job_1/memory.usage_in_bytes", "90000\n");
  EXPECT_EQ(available(), 0);
}

TEST_F(HostMemory, that_nobody_tells_is_an_error) {
  write("proc/meminfo", "MemTotal: 1000 kB\n");
  EXPECT_THROW(available(), Error);
}

}  // namespace
}  // namespace pg::testing

// `verify` itself: sound grids agree with one rank, each broken sum is found and its layer named,
// and nothing is written.
#include <gtest/gtest.h>

#include <cmath>

#include "app/verify_report.h"
#include "harness/tiny_run.h"
#include "tests/app/verify_run.h"

namespace pg::testing {
namespace {

namespace fs = std::filesystem;
using model::Recompute;
using model::ScheduleKind;

enum class Style { kLlama, kGpt2 };

struct Case {
  const char* name;
  Style style;
  int dp, tp, pp, zero;
  bool sequence;
  ScheduleKind schedule = ScheduleKind::k1F1B;
  int chunks = 1;
  Recompute recompute = Recompute::kNone;

  // 4 layers, 12 sequences; heads, ffn and vocabulary for tp up to 4, the vocabulary unevenly.
  app::Deck deck() const {
    static const auto tokens =
        make_tokens(world(), "verify" + std::to_string(world().size()), 2401, 61, 5);
    auto deck =
        style == Style::kLlama ? llama_deck(tokens, DType::kBF16) : gpt2_deck(tokens, DType::kF32);
    deck.model.layers = 4;
    if (style == Style::kLlama) deck.model.heads = 8;
    deck.model.ffn = 40;
    deck.train.global_batch = 48;
    deck.train.micro_batch = 1;
    deck.grid.dp = dp;
    deck.grid.tp = tp;
    deck.grid.pp = pp;
    deck.grid.zero = zero;
    deck.grid.sequence_parallel = sequence;
    deck.pipeline.schedule = schedule;
    deck.pipeline.chunks = chunks;
    deck.recompute.mode = recompute;
    deck.run.output = (scratch_folder("verify") / "no_such_run").string();
    return deck;
  }
};

const Case kSound[] = {
    {"one rank, recomputed", Style::kLlama, 1, 1, 1, 0, false, ScheduleKind::k1F1B, 1,
     Recompute::kFull},
    {"dp2 tp2 zero3 sp", Style::kLlama, 2, 2, 1, 3, true},
    {"tp4, KV heads held twice", Style::kLlama, 1, 4, 1, 0, false},
    {"dp2 pp2 zero2, tied", Style::kGpt2, 2, 1, 2, 2, false, ScheduleKind::kGPipe, 1,
     Recompute::kSelective},
    {"tp2 pp2 interleaved sp", Style::kLlama, 1, 2, 2, 1, true, ScheduleKind::kInterleaved, 2,
     Recompute::kFull},
    {"pp4, tied", Style::kGpt2, 1, 1, 4, 0, false},
    {"tp2 pp2 dp2 zero3 sp interleaved", Style::kLlama, 2, 2, 2, 3, true,
     ScheduleKind::kInterleaved, 2, Recompute::kSelective},
    {"tp4 dp2 zero1 sp", Style::kLlama, 2, 4, 1, 1, true},
    {"tp2 pp4, tied", Style::kGpt2, 1, 2, 4, 0, true},
};

TEST(Verify, sound_grids_agree_with_one_rank_and_nothing_is_written) {
  int cases = 0;
  for (const auto& c : kSound) {
    if (c.dp * c.tp * c.pp != world().size()) continue;
    ++cases;
    const auto deck = c.deck();
    const auto outcome = verify(deck);
    EXPECT_EQ(outcome.code, ExitCode::kDone) << c.name << ": " << outcome.error;
    EXPECT_FALSE(fs::exists(deck.run.output));
    if (world().rank() > 0) {
      EXPECT_EQ(outcome.text, "");
      continue;
    }
    EXPECT_TRUE(has(outcome.text, "the grid computes what one rank does")) << outcome.text;
    EXPECT_TRUE(layers_over(outcome.text).empty()) << outcome.text;
    for (const char* row : {"\nembedding", "\nblock 0 ", "\nblock 3 ", "\nfinal norm", "\n3 "}) {
      EXPECT_TRUE(has(outcome.text, row)) << c.name << row;
    }
    EXPECT_FALSE(has(outcome.text, "\n4 "));
    EXPECT_TRUE(has(outcome.text, "is not what is compared"));
    EXPECT_TRUE(has(outcome.text, "global_batch cut from 48 to ")) << outcome.text;
  }
  EXPECT_GE(cases, 1);
}

TEST(Verify, a_run_of_fewer_steps_is_verified_for_as_many) {
  auto deck = kSound[0].deck();
  deck.grid = {};
  deck.train.global_batch = world().size();
  deck.train.steps = 2;
  deck.schedule.warmup = 1;
  const auto outcome = verify(deck);
  EXPECT_EQ(outcome.code, ExitCode::kDone) << outcome.error;
  if (world().rank() == 0) {
    EXPECT_TRUE(has(outcome.text, "\n2 "));
    EXPECT_FALSE(has(outcome.text, "\n3 "));
  }
}

TEST(Verify, layers_are_cut_so_that_one_rank_holds_the_model) {
  const int ranks = world().size();
  const Case c{"", Style::kLlama, 1, ranks > 1 ? 2 : 1, std::max(1, ranks / 2), 0, false};
  auto deck = c.deck();
  deck.model.layers = 16;
  // What 9 layers need, and a part of what the tenth does.
  auto nine = deck;
  nine.model.layers = 9;
  const std::vector<int> on_stage(static_cast<std::size_t>(c.pp), ranks / c.pp);
  const std::vector<app::VerifyHost> host{{on_stage, true, std::int64_t{1} << 40}};
  const auto plan = app::cut_for_verify(nine, app::grid_of(nine, ranks), host);
  const auto available = static_cast<double>(plan.needed) * static_cast<double>(host[0].available) /
                         static_cast<double>(plan.usable);
  const auto outcome = verify(deck, {.available = static_cast<std::int64_t>(1.01 * available)});
  EXPECT_EQ(outcome.code, ExitCode::kDone) << outcome.error;
  if (world().rank() == 0) {
    EXPECT_TRUE(has(outcome.text, "layers cut from 16 to 9, so that ")) << outcome.text;
    EXPECT_TRUE(has(outcome.text, "\nblock 8 "));
    EXPECT_FALSE(has(outcome.text, "\nblock 9 "));
  }
}

TEST(Verify, what_no_cut_makes_small_enough_is_refused_on_all_ranks) {
  auto deck = kSound[0].deck();
  deck.grid = {};
  const auto outcome = verify(deck, {.available = 1000});
  EXPECT_EQ(outcome.code, ExitCode::kDeck);
  EXPECT_EQ(outcome.ranks, world().size());
  EXPECT_TRUE(has(outcome.error, "model.hidden: 30: ")) << outcome.error;
  EXPECT_TRUE(has(outcome.error, "(legal: ")) << outcome.error;
}

TEST(Verify, a_missing_token_file_is_an_error_of_the_data_on_all_ranks) {
  auto deck = kSound[0].deck();
  deck.grid = {};
  deck.data.train = (scratch_folder("verify") / "none.h5").string();
  const auto outcome = verify(deck);
  EXPECT_EQ(outcome.code, ExitCode::kData) << outcome.error;
  EXPECT_EQ(outcome.ranks > 1, world().size() > 1);
}

// -- every sum that a grid adds, dropped once
// ---------------------------------------------------------

struct Control {
  Case on;
  model::Sabotage sabotage;
  std::vector<std::string> over;  // the layers that must be over the bound, and no others
  const char* named;              // in the message
};

const std::vector<std::string> kBlocks{"block 0", "block 1", "block 2", "block 3"};

std::vector<std::string> blocks_and(std::vector<std::string> before,
                                    const std::vector<std::string>& after) {
  before.insert(before.end(), kBlocks.begin(), kBlocks.end());
  before.insert(before.end(), after.begin(), after.end());
  return before;
}

std::vector<Control> controls() {
  return {
      {{"a replica's sum", Style::kLlama, 4, 1, 1, 0, false},
       {.drop_replica_sum = true},
       blocks_and({"embedding"}, {"final norm, head"}),
       "gradient of "},
      {{"one bucket", Style::kLlama, 2, 1, 2, 0, false},
       {.drop_one_bucket = true},
       {"block 0"},
       "the gradient of block 0 deviates"},
      {{"one bucket of ZeRO 3", Style::kGpt2, 2, 2, 1, 3, false},
       {.drop_one_bucket = true},
       {"block 0"},
       "of blocks.0."},
      {{"a norm's sum over tp", Style::kLlama, 1, 2, 2, 0, true},
       {.drop_stream_sum = true},
       blocks_and({}, {"final norm, head"}),
       "norm.weight"},
      {{"a tied table's sum", Style::kGpt2, 1, 1, 4, 0, false},
       {.drop_tied_sum = true},
       {"embedding, head"},
       "the gradient of embedding, head deviates"},
      {{"a tied table's sum under ZeRO 2", Style::kGpt2, 2, 1, 2, 2, false},
       {.drop_tied_sum = true},
       {"embedding, head"},
       "of embed.tokens.weight by"},
      {{"a KV head's copies", Style::kLlama, 1, 4, 1, 0, false},
       {.drop_kv_copy = true},
       kBlocks,
       ".attention."},
      {{"a bucket, deep in a grid", Style::kLlama, 2, 2, 2, 1, true, ScheduleKind::kInterleaved, 2,
        Recompute::kFull},
       {.drop_one_bucket = true},
       {"block 0"},
       "the gradient of block 0 deviates"},
      {{"a KV head's copies under ZeRO 2", Style::kLlama, 2, 4, 1, 2, true},
       {.drop_kv_copy = true},
       kBlocks,
       ".attention."},
      {{"a norm's sum over tp under ZeRO 3", Style::kGpt2, 2, 2, 2, 3, true},
       {.drop_stream_sum = true},
       blocks_and({}, {"final norm"}),
       "norm."},
  };
}

TEST(VerifyControl, a_dropped_sum_is_found_and_its_layer_named) {
  int cases = 0;
  for (const auto& control : controls()) {
    const auto& on = control.on;
    if (on.dp * on.tp * on.pp != world().size()) continue;
    ++cases;
    const auto outcome = verify(on.deck(), {.sabotage = control.sabotage});
    EXPECT_EQ(outcome.code, ExitCode::kNumerical) << on.name;
    EXPECT_EQ(outcome.ranks, world().size()) << on.name;
    EXPECT_TRUE(has(outcome.error, control.named)) << on.name << ": " << outcome.error;
    if (world().rank() == 0) {
      EXPECT_EQ(layers_over(outcome.text), control.over) << on.name << "\n" << outcome.text;
      EXPECT_FALSE(has(outcome.text, "computes what one rank does")) << outcome.text;
    }
  }
  EXPECT_EQ(cases > 0, world().size() > 1);  // one rank adds nothing up
}

// -- the arithmetic
// -----------------------------------------------------------------------------------

TEST(VerifyReport, the_header_says_what_is_compared_and_what_makes_a_long_step_shorter) {
  app::VerifyDeck run;
  run.deck = kSound[1].deck();
  run.cuts = {"layers cut from 32 to 4, so that one rank holds the model"};
  auto asked = run.deck;
  const comm::GridShape grid(2, 2, 1, 1, 1);
  auto text = app::verify_header(asked, run, grid);
  EXPECT_TRUE(has(text, "dp 2 x tp 2 x pp 1 x ep 1 x cp 1, zero 3, sequence parallel\n")) << text;
  EXPECT_TRUE(has(text, "fp64 on both sides; the deck's own bf16 is not what is compared\n"));
  EXPECT_TRUE(has(text, "  cut          layers cut from 32 to 4, so that")) << text;
  EXPECT_FALSE(has(text, "hint")) << text;
  asked.run.precision = DType::kF64;
  run.deck.train.global_batch = 1 << 20;
  run.deck.grid.pp = 2;
  run.deck.recompute = {Recompute::kSelective, 3};
  text = app::verify_header(asked, run, grid);
  EXPECT_TRUE(has(text, "  precision    fp64\n")) << text;
  EXPECT_TRUE(has(text, "  pipeline     1f1b, 1 chunk a stage\n")) << text;
  EXPECT_TRUE(has(text, "  recompute    selective, in the first 3 layers\n")) << text;
  EXPECT_TRUE(has(text, "  hint         model.layers=N or train.seq=N")) << text;
}

TEST(VerifyReport, deviations_are_relative_and_have_a_floor) {
  const std::vector<double> one{3, 4}, grid{3, 4.5};
  EXPECT_DOUBLE_EQ(app::relative_deviation(grid, one, 0), 0.1);
  EXPECT_DOUBLE_EQ(app::relative_deviation(grid, one, 50), 0.01);
  const std::vector<double> zero{0, 0}, nan{3, NAN}, infinite{INFINITY, 4};
  EXPECT_EQ(app::relative_deviation(zero, zero, 0), 0);
  EXPECT_EQ(app::relative_deviation(one, zero, 0), INFINITY);
  EXPECT_EQ(app::relative_deviation(nan, one, 0), INFINITY);
  EXPECT_EQ(app::relative_deviation(infinite, infinite, 0), INFINITY);
}

TEST(VerifyReport, a_layer_is_all_its_parameters_and_names_the_worst) {
  model::ModelConfig config;
  config.layers = 2;
  app::LayerDeviations layers(config, 1.0);
  const auto add = [&](const char* name, std::int64_t place, double grid, double one) {
    model::ParamSpec spec;
    spec.name = name;
    spec.place = place;
    layers.add(spec, {&grid, 1}, {&one, 1});
  };
  add("tokens", 0, 1, 1);
  add("q", 1, 3, 3);
  add("k", 1, 5, 4);
  add("norm", 2, 7e-7, 6e-7);  // below the floor of 1e-6
  add("head", 3, 1, 1);
  add("experts", 6, 30, 30);  // of block 1, behind positions
  add("positions", 4, 2, 2);  // behind the head in the table, in front of the blocks in the network
  const auto all = layers.layers();
  ASSERT_EQ(all.size(), 4U);
  EXPECT_EQ(all[0].layer, "embedding");
  EXPECT_DOUBLE_EQ(all[0].norm, std::sqrt(5.0));
  EXPECT_EQ(all[1].layer, "block 0");
  EXPECT_DOUBLE_EQ(all[1].deviation, 0.2);
  EXPECT_DOUBLE_EQ(all[1].worst, 0.25);
  EXPECT_EQ(all[1].parameter, "k");
  EXPECT_DOUBLE_EQ(all[2].norm, 30);
  EXPECT_NEAR(all[2].worst, 0.1, 1e-12);
  EXPECT_EQ(all[2].parameter, "norm");
  EXPECT_EQ(all[3].layer, "final norm, head");
  EXPECT_DOUBLE_EQ(all[3].norm, 1);
}

TEST(VerifyReport, the_worst_is_named_and_nothing_is_within_a_bound_that_is_not_a_number) {
  app::VerifyResult result;
  result.layers = {{"block 0", 1, 1e-12, 1e-11, "a"}, {"block 1", 1, 0, 0, "b"}};
  result.steps = {{1, 1, 1e-12, 0}, {1, 1, 0, 1e-11}};
  EXPECT_EQ(result.problem(), "");
  result.steps[1].norm_deviation = 1e-8;
  EXPECT_TRUE(has(result.problem(), "the loss of step 2 deviates")) << result.problem();
  result.steps[0].deviation = NAN;
  EXPECT_TRUE(has(result.problem(), "the loss of step 1 deviates")) << result.problem();
  result.layers[1].worst = 2e-9;
  EXPECT_TRUE(has(result.problem(), "the gradient of block 1 deviates")) << result.problem();
  result.layers[0].deviation = INFINITY;
  EXPECT_TRUE(has(result.problem(), "the gradient of block 0 deviates")) << result.problem();
}

}  // namespace
}  // namespace pg::testing

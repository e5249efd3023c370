// What `train` leaves behind and refuses: metrics, validation, folders, not-finite values, memory.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>

#include "app/memory_plan.h"
#include "app/run_saver.h"
#include "app/train.h"
#include "harness/tiny_run.h"
#include "io/checkpoint.h"
#include "io/files.h"
#include "io/run_folder.h"

namespace pg::testing {
namespace {

namespace fs = std::filesystem;

comm::Communicator world() {
  return comm::Communicator::world();
}

app::Deck deck_in(const std::string& folder) {
  static const auto train_tokens =
      make_tokens(world(), "train" + std::to_string(world().size()), 2401, 61, 5);
  auto deck = llama_deck(train_tokens, DType::kF64);
  deck.train.steps = 4;
  deck.run.output = no_folder(world(), "train", folder);
  return deck;
}

// Those of saves apart.
std::vector<nlohmann::json> records(const app::Deck& deck, bool saves = false) {
  std::vector<nlohmann::json> all;
  std::ifstream in(fs::path(deck.run.output) / "metrics.jsonl");
  for (std::string line; std::getline(in, line);) {
    const auto record = nlohmann::json::parse(line);
    if (record.contains("save_s") == saves) all.push_back(record);
  }
  return all;
}

ExitCode code_of(const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& error) {
    return error.code();
  }
  return ExitCode::kDone;
}

TEST(Train, metrics_hold_every_key_of_every_step) {
  const auto deck = deck_in("metrics");
  ASSERT_EQ(app::run_train(deck, world()), ExitCode::kDone);
  const auto all = records(deck);
  ASSERT_EQ(all.size(), 4U);
  for (std::size_t i = 0; i < all.size(); ++i) {
    EXPECT_EQ(all[i]["step"], i + 1);
    for (const char* key : {"loss", "aux_loss", "lr", "grad_norm", "tokens", "step_s",
                            "tokens_per_s", "mfu", "peak_bytes"}) {
      EXPECT_TRUE(all[i].contains(key)) << key;
    }
    EXPECT_EQ(all[i]["tokens"], 24 * 12);
  }
  // A fresh model knows nothing: its loss is near ln(vocab).
  EXPECT_NEAR(all[0]["loss"].get<double>(), std::log(61.0), 0.1);
}

// FAULTS 6: an output folder that cannot be written is refused with the sizes, before any work. The
// need is told from the deck, and is that of the model.
TEST(Train, an_output_folder_that_cannot_be_written_is_refused_with_the_sizes) {
  auto deck = deck_in("unwritable");
  deck.run.output = "/proc/nowhere/run";
  try {
    app::run_train(deck, world());
    ADD_FAILURE() << "trained";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kSave);
    EXPECT_EQ(error.ranks(), world().size());
    const std::string text = error.what();
    EXPECT_NE(text.find("run.output: /proc/nowhere/run"), std::string::npos) << text;
    EXPECT_NE(text.find("(a checkpoint needs " +
                        io::readable_bytes(app::planned_checkpoint_bytes(deck)) + ", "),
              std::string::npos)
        << text;
    EXPECT_NE(text.find(" are free)"), std::string::npos) << text;
  }
}

// Experts over all ranks; capacity that drops some tokens.
app::Deck experts_in(const std::string& folder) {
  auto deck = deck_in(folder);
  deck.model.layers = 4;
  deck.model.moe = {.experts = 4,
                    .top_k = 2,
                    .ffn = 16,
                    .capacity_factor = 1.0,
                    .every = 2,
                    .aux_loss = 0.3,
                    .z_loss = 0.07};
  deck.grid.ep = world().size();
  return deck;
}

TEST(Train, what_a_checkpoint_needs_is_told_from_the_deck) {
  for (auto deck : {deck_in("needs"), experts_in("needs_of_experts")}) {
    if (deck.model.moe.experts > 0) deck.model.moe.bias_update = 0.01;
    deck.train.steps = 1;
    std::int64_t needed = 0;
    app::TrainControls controls;
    controls.before_step = [&](app::Trainer& trainer) {
      needed = io::checkpoint_bytes(trainer.records(), deck.checkpoint.alignment);
    };
    ASSERT_EQ(app::run_train(deck, world(), {}, controls), ExitCode::kDone);
    EXPECT_EQ(app::planned_checkpoint_bytes(deck), needed);
  }
}

TEST(Train, metrics_say_what_the_routers_did) {
  const auto deck = experts_in("routers");
  ASSERT_EQ(app::run_train(deck, world()), ExitCode::kDone);
  const auto& moe = deck.model.moe;
  for (const auto& record : records(deck)) {
    const auto& routers = record["moe"];
    EXPECT_EQ(routers.size(), 5U) << routers;
    EXPECT_EQ(routers["blocks"], (std::vector<int>{1, 3}));
    EXPECT_GT(routers["dropped"], 0.0);  // nobody asks for all experts alike
    EXPECT_LT(routers["dropped"], 0.5);
    double aux_loss = 0;
    for (std::size_t b = 0; b < 2; ++b) {
      const auto load = routers["load"][b].get<std::vector<std::int64_t>>();
      EXPECT_EQ(load.size(), 4U);
      EXPECT_EQ(std::accumulate(load.begin(), load.end(), std::int64_t{0}),
                record["tokens"].get<std::int64_t>() * moe.top_k);
      const auto balance = routers["balance"][b].get<double>();
      const auto z = routers["z"][b].get<double>();
      EXPECT_NEAR(balance, 1.0, 0.5);  // a fresh router prefers nobody by much
      EXPECT_NEAR(z, std::log(4.0) * std::log(4.0), 0.5);
      aux_loss += moe.aux_loss * balance + moe.z_loss * z;
    }
    EXPECT_NEAR(record["aux_loss"].get<double>(), aux_loss, 1e-14 * aux_loss);
    EXPECT_FALSE(record["loss"].is_null());
  }
}

TEST(Train, the_loss_has_no_auxiliary_term) {
  auto deck = experts_in("auxiliary");
  ASSERT_EQ(app::run_train(deck, world()), ExitCode::kDone);
  const auto with = records(deck);
  deck = experts_in("no_auxiliary");
  deck.model.moe.aux_loss = deck.model.moe.z_loss = 0;
  ASSERT_EQ(app::run_train(deck, world()), ExitCode::kDone);
  const auto without = records(deck);
  // The first step's forward is the same; its update is not.
  EXPECT_EQ(with[0]["loss"], without[0]["loss"]);
  EXPECT_NEAR(with[0]["loss"].get<double>(), std::log(61.0), 0.1);
  EXPECT_NE(with[0]["grad_norm"], without[0]["grad_norm"]);
  EXPECT_NE(with[2]["loss"], without[2]["loss"]);
  EXPECT_GT(with[0]["aux_loss"], 0.0);
  EXPECT_EQ(without[0]["aux_loss"], 0.0);
  EXPECT_EQ(with[0]["moe"], without[0]["moe"]);  // measured whether or not it is a loss
}

TEST(Train, a_dense_run_s_metrics_have_no_routers) {
  const auto deck = deck_in("dense");
  ASSERT_EQ(app::run_train(deck, world()), ExitCode::kDone);
  for (const auto& record : records(deck)) {
    EXPECT_FALSE(record.contains("moe"));
    EXPECT_EQ(record["aux_loss"], 0.0);
  }
}

TEST(Train, validation_is_the_same_whatever_the_batch_and_counts_each_token_once) {
  // 50 samples, no multiple of 24 or of the ranks: the last batch is filled up and masked.
  const auto valid = make_tokens(world(), "valid" + std::to_string(world().size()), 601, 61, 9);
  std::vector<double> losses;
  for (const std::int64_t batch : {24, 12}) {
    auto deck = deck_in("valid" + std::to_string(batch));
    deck.data.valid = valid.string();
    deck.train.global_batch = batch;
    deck.train.eval_batches = 100;
    comm::ProcessGrid grid(world(), app::grid_of(deck, world().size()));
    app::Trainer trainer(deck, grid);
    const auto result = trainer.evaluate();
    EXPECT_EQ(result.tokens, 50 * 12);
    losses.push_back(result.loss);
  }
  EXPECT_NEAR(losses[0], losses[1], 1e-13 * losses[0]);
}

TEST(Train, validation_does_not_disturb_training) {
  auto deck = deck_in("undisturbed");
  ASSERT_EQ(app::run_train(deck, world()), ExitCode::kDone);
  const auto without = records(deck);
  deck = deck_in("disturbed");
  deck.data.valid = deck.data.train;
  deck.train.eval_every = 1;
  ASSERT_EQ(app::run_train(deck, world()), ExitCode::kDone);
  std::vector<double> losses;
  for (const auto& record : records(deck)) {
    if (record.contains("loss")) losses.push_back(record["loss"].get<double>());
    EXPECT_NE(record.contains("loss"), record.contains("valid_loss"));
  }
  ASSERT_EQ(losses.size(), without.size());
  for (std::size_t i = 0; i < losses.size(); ++i) EXPECT_EQ(losses[i], without[i]["loss"]);
}

TEST(Train, a_folder_that_holds_a_run_is_refused_and_left_alone) {
  auto deck = deck_in("taken");
  ASSERT_EQ(app::run_train(deck, world()), ExitCode::kDone);
  const auto before = records(deck);
  EXPECT_EQ(code_of([&] { app::run_train(deck, world()); }), ExitCode::kDeck);
  EXPECT_EQ(records(deck), before);
  std::ifstream in(fs::path(deck.run.output) / "exit.json");
  EXPECT_EQ(nlohmann::json::parse(in)["code"], 0);
}

TEST(Train, resuming_nothing_is_refused_unless_auto) {
  auto deck = deck_in("nothing");
  deck.checkpoint.resume = "latest";
  EXPECT_EQ(code_of([&] { app::run_train(deck, world()); }), ExitCode::kCheckpoint);
  deck.checkpoint.resume = "auto";
  EXPECT_EQ(app::run_train(deck, world()), ExitCode::kDone);
}

TEST(Train, a_model_smaller_than_the_vocabulary_of_its_data_is_refused) {
  auto deck = deck_in("vocab");
  deck.model.vocab = 60;
  EXPECT_EQ(code_of([&] { app::run_train(deck, world()); }), ExitCode::kDeck);
}

TEST(Train, a_run_that_diverges_ends_with_the_numerical_code_and_no_checkpoint) {
  auto deck = deck_in("diverges");
  deck.run.precision = DType::kF32;
  deck.optimizer.clip = 0;
  deck.optimizer.lr = 1e30;
  deck.schedule.kind = app::LrKind::kConstant;
  deck.schedule.warmup = 0;
  EXPECT_EQ(code_of([&] { app::run_train(deck, world()); }), ExitCode::kNumerical);
  if (world().rank() == 0) {
    std::ifstream in(fs::path(deck.run.output) / "exit.json");
    EXPECT_EQ(nlohmann::json::parse(in)["code"], 7);
    EXPECT_TRUE(io::RunFolder(deck.run.output).holds_run());
    EXPECT_TRUE(fs::is_empty(fs::path(deck.run.output) / "checkpoints"));
  }
}

// Documents of one token predict nothing: a mean over no token is no loss.
TEST(Train, masked_documents_without_a_token_to_predict_are_refused) {
  const auto single = make_documents(world(), "train_single", 200, 61, 3, 1).string();
  auto deck = deck_in("single_valid");
  deck.data.mask_documents = true;
  deck.data.valid = single;
  EXPECT_EQ(code_of([&] { app::run_train(deck, world()); }), ExitCode::kData);
  deck = deck_in("single_train");
  deck.data.mask_documents = true;
  deck.data.train = single;
  EXPECT_EQ(code_of([&] { app::run_train(deck, world()); }), ExitCode::kData);
}

TEST(Train, planned_activations_are_the_arena_s_high_water) {
  for (const auto make : {llama_deck, gpt2_deck}) {
    for (const auto type : {DType::kF64, DType::kF32, DType::kBF16}) {
      auto deck = make(deck_in("memory").data.train, type);
      comm::ProcessGrid grid(world(), app::grid_of(deck, world().size()));
      app::Trainer trainer(deck, grid);
      trainer.step();
      const auto plan = app::plan_memory(deck, grid.shape(), grid.coord());
      EXPECT_EQ(trainer.arena_high_water(), plan.activations);
      EXPECT_EQ(plan.total, plan.weights + plan.gradients + plan.master + plan.moments +
                                plan.activations + plan.packed + plan.communication +
                                plan.workspace + plan.saving);
    }
  }
}

TEST(Train, one_thread_and_two_agree_within_the_bound_of_reassociation) {
  // Products may split their sums by thread: fp32 losses within the parity bound.
  auto deck = llama_deck(deck_in("threads").data.train, DType::kF32);
  const auto one = train(comm::Communicator::self(), deck, 10);
  deck.run.threads = 2;
  const auto two = train(comm::Communicator::self(), deck, 10);
  EXPECT_LE(deviation(two.losses, one.losses), 2e-4);
  deck.run.threads = 1;
  const auto again = train(comm::Communicator::self(), deck, 10);
  EXPECT_EQ(again.losses, one.losses);
  EXPECT_EQ(again.state, one.state);
}

}  // namespace
}  // namespace pg::testing

// What does not fit together is refused, at its place, with what would be legal.
#include <gtest/gtest.h>

#include "tests/app/decks.h"

namespace pg::app {
namespace {

TEST(SchemaChecks, all_problems_of_a_deck_come_at_once_with_line_and_column) {
  EXPECT_EQ(
      refusal("[model]\n"
              "layers = 2.0\n"
              "hidden = 65\n"
              "heads = 4\n"
              "vocab = 0\n"
              "[data]\n"
              "trian = 't.h5'\n"
              "[train]\n"
              "steps = 100\n"
              "seq = 64\n"
              "global_batch = 7\n"
              "micro_batch = 2\n"
              "[optimizer]\n"
              "beta1 = 1.0\n"
              "[schedule]\n"
              "warmup = 101\n"
              "[grid]\n"
              "zero = 4\n",
              Purpose::kTrain, 0, {"schedule.min_lr=1", "model.max_seq=32"}),
      "d.toml:2:10: model.layers: 2.0 is a float; it takes an integer from 1 to 16384\n"
      "d.toml:4:9: model.heads: 4 does not divide hidden = 65; set model.head_dim, or heads "
      "to one of 1, 5, 13, 65\n"
      "d.toml:5:9: model.vocab: 0 is out of range; it takes an integer from 2 to 16777216\n"
      "d.toml:6:2: data.train: it is required; it takes a string\n"
      "d.toml:7:1: data.trian: unknown key (nearest key: data.train)\n"
      "d.toml:10:7: train.seq: 64 is longer than model.max_seq = 32\n"
      "d.toml:11:16: train.global_batch: 7 is not a multiple of micro_batch = 2; nearest: 6 or "
      "8\n"
      "d.toml:14:9: optimizer.beta1: 1.0 is out of range; it takes a number x with 0 <= x < "
      "1\n"
      "d.toml:16:10: schedule.warmup: 101 is more than train.steps = 100\n"
      "d.toml:18:8: grid.zero: 4 is out of range; it takes an integer from 0 to 3\n"
      "command line: schedule.min_lr=1: schedule.min_lr: 1 is above optimizer.lr = 0.0003");
}

TEST(SchemaChecks, global_batch_is_a_multiple_of_what_runs_at_once) {
  EXPECT_EQ(refusal_of({}, 4), "");
  EXPECT_EQ(refusal_of({}, 3),
            "d.toml:11:16: train.global_batch: 8 is not a multiple of dp*ep*micro_batch = 3*1*2 = "
            "6; nearest: 6 or 12; with this batch dp*ep may be 1, 2, 4");
  EXPECT_EQ(refusal_of({"train.micro_batch=3"}, 0),
            "d.toml:11:16: train.global_batch: 8 is not a multiple of micro_batch = 3; nearest: 6 "
            "or 9");
  EXPECT_EQ(refusal_of({"train.micro_batch=16"}, 1),
            "d.toml:11:16: train.global_batch: 8 is not a multiple of micro_batch = 16; nearest: "
            "16");
}

TEST(SchemaChecks, keys_that_another_choice_would_ignore_are_refused) {
  EXPECT_EQ(refusal_of({"schedule.kind=cosine", "schedule.min_lr=1e-5"}), "");
  EXPECT_EQ(refusal_of({"schedule.kind=constant", "schedule.min_lr=1e-5"}),
            "command line: schedule.min_lr=1e-5: schedule.min_lr: schedule.kind = \"constant\" has "
            "no least rate (legal: 0)");
  EXPECT_EQ(refusal_of({"schedule.decay=5"}),
            "command line: schedule.decay=5: schedule.decay: only schedule.kind = \"wsd\" has a "
            "final decay (legal: 0)");
  EXPECT_EQ(refusal_of({"model.rope_theta=500000"}), "");
  EXPECT_EQ(refusal_of({"model.rope_theta=500000", "model.position=learned"}),
            "command line: model.rope_theta=500000: model.rope_theta: only model.position = "
            "\"rope\" has a base (legal: 10000)");
}

TEST(SchemaChecks, heads_must_fit_together) {
  EXPECT_EQ(refusal_of({"model.kv_heads=3"}),
            "command line: model.kv_heads=3: model.kv_heads: 3 does not divide heads = 4; legal: "
            "1, 2, 4");
  EXPECT_EQ(refusal_of({"model.heads=5", "model.head_dim=16"}), "");
  EXPECT_EQ(refusal_of({"model.head_dim=15"}),
            "command line: model.head_dim=15: model.head_dim: 15 is odd; rope turns pairs of "
            "elements");
  EXPECT_EQ(refusal_of({"model.head_dim=15", "model.position=learned"}), "");
  EXPECT_EQ(refusal_of({"model.hidden=12"}),
            "d.toml:1:2: model.head_dim: hidden / heads = 3 is odd; rope turns pairs of elements");
}

TEST(SchemaChecks, schedules_fit_into_the_run) {
  EXPECT_EQ(refusal_of({"schedule.kind=wsd", "schedule.warmup=80"}), "");
  EXPECT_EQ(refusal_of({"schedule.kind=wsd", "schedule.warmup=81", "schedule.decay=20"}),
            "command line: schedule.decay=20: schedule.decay: warmup + decay = 81 + 20 is more "
            "than train.steps = 100");
  EXPECT_EQ(refusal_of({"schedule.warmup=100"}), "");
}

TEST(SchemaChecks, evaluation_needs_its_own_data) {
  EXPECT_EQ(refusal_of({"train.eval_every=5"}),
            "command line: train.eval_every=5: train.eval_every: it needs data.valid; 0 turns "
            "evaluation off");
  EXPECT_EQ(refusal_of({"data.valid=./t.h5"}),
            "command line: data.valid=./t.h5: data.valid: it is the same file as data.train");
}

TEST(SchemaChecks, byte_tokens_need_256_rows) {
  const std::vector<std::string> prepare = {"data.text=a", "model.vocab=255"};
  EXPECT_EQ(refusal(kLeastDeck, Purpose::kPrepare, 0, prepare),
            "command line: model.vocab=255: model.vocab: 255 is less than the 256 tokens of "
            "\"bytes\"");
}

TEST(SchemaChecks, sizes_that_no_machine_holds_are_refused_before_they_overflow) {
  const auto text =
      refusal_of({"train.seq=1048576", "train.micro_batch=1048576", "train.global_batch=1048576",
                  "model.ffn=4194304", "model.layers=16384", "train.steps=999999999"});
  EXPECT_NE(text.find("train.micro_batch: 1048576 sequences of 1048576 tokens need about"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("train.steps: steps*global_batch*seq = "), std::string::npos) << text;
}

TEST(SchemaChecks, run_names_stay_below_runs) {
  for (const char* name : {"run.name=../x", "run.name=a/b", "run.name=.."}) {
    EXPECT_NE(refusal_of({name}).find("takes no slash"), std::string::npos) << name;
  }
}

TEST(SchemaChecks, features_of_later_versions_are_refused_by_name) {
  for (const char* asked :
       {"pipeline.schedule=zero_bubble", "generate.prompts=p.txt", "plan.nodes=2"}) {
    const std::string name(asked, std::string(asked).find('='));
    const auto text = refusal_of({asked});
    EXPECT_TRUE(text.starts_with("command line: " + std::string(asked) + ": " + name + ": "))
        << text;
    EXPECT_NE(text.find("is not supported yet; this version supports only "), std::string::npos)
        << text;
    EXPECT_EQ(text.find('\n'), std::string::npos) << text;
  }
}

TEST(SchemaChecks, defaults_of_later_features_may_be_written) {
  EXPECT_EQ(refusal_of({"grid.tp=1", "grid.zero=0", "pipeline.schedule=1f1b", "moe.experts=0",
                        "context.method=ring", "recompute.mode=none", "checkpoint.override=[]",
                        "train.spike_sigma=0", "run.device=cpu"}),
            "");
}

}  // namespace
}  // namespace pg::app

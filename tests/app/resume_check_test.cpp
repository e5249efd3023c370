// Which keys may differ between a checkpoint and the run that resumes it, by themselves or because
// checkpoint.override names them (FAULTS.md case 20).
#include "app/resume_check.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/app/decks.h"

namespace pg::app {
namespace {

const std::vector<std::string> kExperts{"moe.experts=8", "moe.ffn=48", "moe.bias_update=0.001",
                                        "model.layers=4"};

std::vector<std::string> and_also(std::vector<std::string> overrides,
                                  const std::vector<std::string>& more) {
  // The last one counts, as on a command line that is typed once.
  for (const auto& argument : more) {
    const auto key = argument.substr(0, argument.find('=') + 1);
    std::erase_if(overrides, [&](const auto& other) { return other.starts_with(key); });
    overrides.push_back(argument);
  }
  return overrides;
}

Deck deck_with(const std::vector<std::string>& overrides) {
  return parse_deck(kLeastDeck, "d.toml", overrides, Purpose::kTrain, 0);
}

const DataIdentity kData{"f00d", "bytes"};

Differences compared(const std::vector<std::string>& before, const std::vector<std::string>& now,
                     const DataIdentity& data = kData) {
  return compare_runs(deck_with(before).resolved, kData, deck_with(now), data, "step-000000001");
}

std::vector<std::string> differences(const std::vector<std::string>& before,
                                     const std::vector<std::string>& now) {
  return compared(before, now).refused;
}

std::vector<std::string> changed(const std::vector<std::string>& more) {
  return differences(kExperts, and_also(kExperts, more));
}

using Lines = std::vector<std::string>;

TEST(ResumeCheck, the_same_deck_differs_in_nothing) {
  EXPECT_EQ(differences({}, {}), Lines{});
  EXPECT_EQ(changed({}), Lines{});
  EXPECT_EQ(
      differences({"moe.experts=8", "moe.router=switch"}, {"moe.experts=8", "moe.router=switch"}),
      Lines{});
}

TEST(ResumeCheck, shape_and_routing_of_experts_stay) {
  EXPECT_EQ(changed({"moe.experts=16"}), Lines{"moe.experts: 16, was 8"});
  EXPECT_EQ(changed({"moe.top_k=3"}), Lines{"moe.top_k: 3, was 2"});
  EXPECT_EQ(changed({"moe.ffn=96"}), Lines{"moe.ffn: 96, was 48"});
  EXPECT_EQ(changed({"moe.renormalize=false"}), Lines{"moe.renormalize: false, was true"});
  EXPECT_EQ(changed({"moe.capacity_factor=1.25"}), Lines{"moe.capacity_factor: 1.25, was 0.0"});
  EXPECT_EQ(changed({"moe.shared_experts=1"}), Lines{"moe.shared_experts: 1, was 0"});
  EXPECT_EQ(changed({"moe.every=2"}), Lines{"moe.every: 2, was 1"});
  EXPECT_EQ(changed({"moe.router=switch"}),
            (Lines{"moe.top_k: 1, was 2", "moe.router: \"switch\", was \"top_k\"",
                   "moe.renormalize: false, was true"}));
  EXPECT_EQ(changed({"moe.bias_update=0"}),
            Lines{"moe.bias_update: 0, was 0.001 (legal: more than 0)"});
  EXPECT_EQ(differences({"moe.experts=8"}, {"moe.experts=8", "moe.bias_update=0.01"}),
            Lines{"moe.bias_update: 0.01, was 0 (legal: 0)"});
  EXPECT_EQ(changed({"moe.aux_loss=0.01"}), Lines{"moe.aux_loss: 0.01, was 0.0"});
  EXPECT_EQ(changed({"moe.bias_update=0.002"}), Lines{"moe.bias_update: 0.002, was 0.001"});
}

// A change by itself is refused; named, it goes on, if it can be named at all.
struct Change {
  std::string key, value, line;
  bool can_be_named = true;
};

TEST(ResumeCheck, what_is_trained_stays_unless_an_override_names_it) {
  const std::vector<Change> changes = {
      {"run.seed", "9", "run.seed: 9, was 1"},
      {"train.steps", "200", "train.steps: 200, was 100"},
      {"train.seq", "16", "train.seq: 16, was 32"},
      {"train.global_batch", "16", "train.global_batch: 16, was 8"},
      {"data.mask_documents", "true", "data.mask_documents: true, was false"},
      {"optimizer.lr", "0.001", "optimizer.lr: 0.001, was 0.0003"},
      {"optimizer.beta1", "0.8", "optimizer.beta1: 0.8, was 0.9"},
      {"optimizer.beta2", "0.8", "optimizer.beta2: 0.8, was 0.95"},
      {"optimizer.eps", "1e-7", "optimizer.eps: 1e-07, was 1e-08"},
      {"optimizer.weight_decay", "0.0", "optimizer.weight_decay: 0.0, was 0.1"},
      {"optimizer.clip", "2.0", "optimizer.clip: 2.0, was 1.0"},
      {"schedule.kind", "linear", "schedule.kind: \"linear\", was \"cosine\""},
      {"schedule.warmup", "3", "schedule.warmup: 3, was 0"},
      {"schedule.min_lr", "0.0001", "schedule.min_lr: 0.0001, was 0.0"},
      {"model.dropout", "0.1", "model.dropout: 0.1, was 0.0"},
      {"model.norm_eps", "0.001", "model.norm_eps: 0.001, was 1e-05"},
      {"model.rope_theta", "500000.0", "model.rope_theta: 500000.0, was 10000.0"},
      {"model.layers", "4", "model.layers: 4, was 2", false},
      {"model.hidden", "128", "model.hidden: 128, was 64", false},
      {"model.vocab", "301", "model.vocab: 301, was 300", false},
      {"model.kv_heads", "2", "model.kv_heads: 2, was 4", false},
      {"model.norm", "layernorm", "model.norm: \"layernorm\", was \"rmsnorm\"", false},
      {"model.bias", "true", "model.bias: true, was false", false},
      {"model.tie_embeddings", "true", "model.tie_embeddings: true, was false", false},
  };
  for (const auto& change : changes) {
    const auto set = change.key + "=" + change.value;
    const auto has = [&](const Lines& lines) {
      return std::find(lines.begin(), lines.end(), change.line) != lines.end();
    };
    EXPECT_TRUE(has(differences({}, {set}))) << change.line;
    const auto naming = "checkpoint.override=[\"" + change.key + "\"]";
    if (!change.can_be_named) {
      EXPECT_TRUE(refusal_of({set, naming}, 0).find(change.key + " cannot be overridden") !=
                  std::string::npos)
          << refusal_of({set, naming}, 0);
      continue;
    }
    EXPECT_EQ(compared({}, {set}).may_name, Lines{change.key});
    const auto named = compared({}, {set, naming});
    EXPECT_EQ(named.refused, Lines{});
    EXPECT_EQ(named.overridden, Lines{change.line});
    EXPECT_EQ(named.idle, Lines{});
    // The name of another key helps nothing, and a name without a difference is only noted.
    EXPECT_TRUE(has(compared({}, {set, "checkpoint.override=[\"data.train\"]"}).refused));
    EXPECT_EQ(compared({}, {naming}).idle, Lines{change.key});
    EXPECT_EQ(compared({}, {naming}).refused, Lines{});
  }
}

TEST(ResumeCheck, data_and_tokenizer_stay_unless_an_override_names_them) {
  const DataIdentity other{"beef", "bytes"}, retokenized{"beef", "c0de"};
  const std::string data = "data.train: t.h5 has the fingerprint beef, was f00d";
  const std::string tokenizer = "data.tokenizer: t.h5 was made with c0de, was bytes";
  EXPECT_EQ(compared({}, {}, other).refused, Lines{data});
  EXPECT_EQ(compared({}, {}, retokenized).refused, (Lines{data, tokenizer}));
  EXPECT_EQ(compared({}, {"checkpoint.override=[\"data.train\"]"}, retokenized).refused,
            Lines{tokenizer});
  EXPECT_EQ(compared({}, {"checkpoint.override=[\"data.train\", \"data.tokenizer\"]"}, retokenized)
                .overridden,
            (Lines{data, tokenizer}));
  // The same tokens under another name are the same data.
  EXPECT_EQ(differences({}, {"data.train=elsewhere.h5", "data.tokenizer=a.model"}), Lines{});
}

TEST(ResumeCheck, what_the_state_consists_of_cannot_be_overridden) {
  const auto precision =
      compared({}, {"run.precision=fp64", "checkpoint.override=[\"run.precision\"]"});
  EXPECT_EQ(precision.refused, Lines{"run.precision: fp64, was bf16 (legal: fp32, bf16)"});
  EXPECT_EQ(precision.may_name, Lines{});
  EXPECT_EQ(differences({}, {"run.precision=fp32"}), Lines{});
  EXPECT_EQ(compared({"moe.experts=8"}, {"moe.experts=8", "moe.bias_update=0.01",
                                         "checkpoint.override=[\"moe.bias_update\"]"})
                .refused,
            Lines{"moe.bias_update: 0.01, was 0 (legal: 0)"});
  const std::string learned = "model.position=learned";
  EXPECT_EQ(
      compared({learned}, {learned, "model.max_seq=64", "checkpoint.override=[\"model.max_seq\"]"})
          .refused,
      Lines{"model.max_seq: 64, was 32"});
  EXPECT_EQ(differences({}, {"model.max_seq=64"}), Lines{});  // rotary: no rows
}

TEST(ResumeCheck, an_override_of_no_key_is_refused_with_the_nearest) {
  EXPECT_EQ(refusal_of({"checkpoint.override=[\"optimzer.lr\"]"}, 0),
            "command line: checkpoint.override=[\"optimzer.lr\"]: checkpoint.override: "
            "\"optimzer.lr\" is no key of the deck (nearest: optimizer.lr)");
}

TEST(ResumeCheck, what_a_sample_shows_stays) {
  EXPECT_EQ(changed({"data.mask_documents=true"}), Lines{"data.mask_documents: true, was false"});
  EXPECT_EQ(changed({"train.seq=16", "model.max_seq=32"}), Lines{"train.seq: 16, was 32"});
}

TEST(ResumeCheck, grids_methods_and_what_is_kept_are_free) {
  EXPECT_EQ(
      changed({"grid.ep=4", "grid.cp=2", "grid.zero=3", "context.method=ulysses",
               "recompute.mode=full", "train.micro_batch=1", "run.device=cpu", "run.threads=3",
               "run.wall_limit=60", "checkpoint.every=7", "log.every=3", "train.eval_batches=3"}),
      Lines{});
}

TEST(ResumeCheck, widths_that_no_block_has_do_not_matter) {
  EXPECT_EQ(changed({"model.ffn=100"}), Lines{});
  EXPECT_EQ(differences({}, {"moe.ffn=100"}), Lines{});
  EXPECT_EQ(differences({}, {"model.ffn=100"}), Lines{"model.ffn: 100, was 192"});
  EXPECT_EQ(differences(and_also(kExperts, {"moe.every=2"}),
                        and_also(kExperts, {"moe.every=2", "model.ffn=100"})),
            Lines{"model.ffn: 100, was 192"});
}

}  // namespace
}  // namespace pg::app

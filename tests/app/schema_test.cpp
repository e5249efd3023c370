// The real table: what a deck resolves to, and that it reads back.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "app/schema.h"
#include "comm/error.h"
#include "tests/app/decks.h"

namespace pg::app {
namespace {

std::vector<std::filesystem::path> inputs() {
  std::vector<std::filesystem::path> all;
  for (const auto& entry : std::filesystem::directory_iterator(PG_SOURCE_DIR "/inputs")) {
    if (entry.path().extension() == ".toml") all.push_back(entry.path());
  }
  EXPECT_GE(all.size(), 5U);
  return all;
}

TEST(Schema, least_deck_resolves_to_the_documented_defaults) {
  const auto deck = parse_deck(kLeastDeck, "dir/small.toml", {}, Purpose::kTrain, 1);
  EXPECT_EQ(deck.run.name, "small");
  EXPECT_EQ(deck.run.output, "runs/small");
  EXPECT_EQ(deck.run.seed, 1);
  EXPECT_EQ(deck.run.device, "auto");
  EXPECT_EQ(deck.run.precision, DType::kBF16);
  EXPECT_EQ(deck.grid.dp, 0);
  EXPECT_EQ(deck.grid.tp * deck.grid.pp * deck.grid.ep * deck.grid.cp, 1);
  EXPECT_EQ(deck.model.kv_heads, 4);
  EXPECT_EQ(deck.model.head_dim, 16);
  EXPECT_EQ(deck.model.ffn, 192);  // 8/3 of 64 is 170.7
  EXPECT_EQ(deck.model.max_seq, 32);
  EXPECT_EQ(deck.model.norm_eps, 1e-5);
  EXPECT_EQ(deck.data.tokenizer, "bytes");
  EXPECT_TRUE(deck.data.valid.empty());
  EXPECT_EQ(deck.train.eval_batches, 8);
  EXPECT_EQ(deck.optimizer.lr, 3e-4);
  EXPECT_EQ(deck.optimizer.beta2, 0.95);
  EXPECT_EQ(deck.optimizer.clip, 1.0);
  EXPECT_EQ(deck.schedule.kind, LrKind::kCosine);
  EXPECT_EQ(deck.schedule.decay, 0);
  EXPECT_EQ(deck.checkpoint.resume, "none");
  EXPECT_EQ(deck.log.every, 10);
}

TEST(Schema, derived_defaults_follow_the_keys_they_depend_on) {
  const auto ffn = [](const char* hidden, const char* activation) {
    return parse_deck(kLeastDeck, "d.toml", {hidden, activation}, Purpose::kTrain, 1).model.ffn;
  };
  EXPECT_EQ(ffn("model.hidden=96", "model.activation=gelu"), 384);
  EXPECT_EQ(ffn("model.hidden=96", "model.activation=swiglu"), 256);   // exactly 8/3 * 96
  EXPECT_EQ(ffn("model.hidden=104", "model.activation=swiglu"), 320);  // 277.3
  const auto wsd = parse_deck(kLeastDeck, "d.toml", {"schedule.kind=wsd"}, Purpose::kTrain, 1);
  EXPECT_EQ(wsd.schedule.decay, 20);
}

TEST(Schema, resolved_deck_reads_back_to_an_equal_deck) {
  const auto same = [](const Deck& deck) {
    const auto again = parse_deck(deck.resolved, "other_name.toml", {}, Purpose::kTrain, 0);
    EXPECT_TRUE(again == deck) << deck.resolved << "\n----\n" << again.resolved;
  };
  same(parse_deck(kLeastDeck, "d.toml", {}, Purpose::kTrain, 1));
  same(parse_deck(kLeastDeck, "d.toml",
                  {"run.precision=fp64", "model.norm=layernorm", "model.activation=gelu",
                   "model.position=learned", "model.bias=true", "schedule.kind=wsd",
                   "optimizer.lr=1.2345678901234567e-3", "model.dropout=0.1",
                   "run.name=a \"quoted\" name", "data.text=['a\\b', \"\\u00e9\"]",
                   "data.valid=v.h5", "train.eval_every=3", "grid.dp=2", "checkpoint.resume=auto"},
                  Purpose::kTrain, 2));
  for (const auto& path : inputs()) {
    const auto deck = read_deck(nullptr, path, {}, Purpose::kTrain, 0);
    same(deck);
    EXPECT_TRUE(parse_deck(deck.resolved, "d.toml", {}, Purpose::kTrain, 0) == deck) << path;
  }
}

// "#   build/pentagrid check inputs/NAME.toml --ranks 8 grid.zero=3", as users copy it.
TEST(Schema, commands_in_the_comments_of_inputs_are_legal) {
  int commands = 0;
  for (const auto& path : inputs()) {
    std::ifstream file(path);
    for (std::string line; std::getline(file, line);) {
      const std::string begins = "#   build/pentagrid check inputs/" + path.filename().string();
      if (!line.starts_with(begins)) continue;
      std::istringstream words(line.substr(begins.size()));
      std::vector<std::string> overrides;
      int ranks = 0;
      for (std::string word; words >> word;) {
        if (word == "--ranks") {
          words >> ranks;
        } else {
          overrides.push_back(word);
        }
      }
      EXPECT_GT(ranks, 0) << line;
      EXPECT_NO_THROW(read_deck(nullptr, path, overrides, Purpose::kCheck, ranks)) << line;
      ++commands;
    }
  }
  EXPECT_GE(commands, 10);
}

TEST(Schema, resolved_deck_holds_every_key_that_can_be_set) {
  const auto deck =
      parse_deck(kLeastDeck, "d.toml", {"data.text=a", "data.valid=b"}, Purpose::kTrain, 1);
  for (const auto& key : deck_schema()) {
    if (key.spec.reserved) continue;
    EXPECT_NE(deck.resolved.find("\n" + key.spec.key + " = "), std::string::npos)
        << key.spec.name();
  }
}

TEST(Schema, prepare_needs_only_what_it_uses) {
  const char* text = "[model]\nvocab = 256\n[data]\ntext = 'a'\ntrain = 't.h5'\n";
  const auto deck = parse_deck(text, "d.toml", {}, Purpose::kPrepare, 0);
  EXPECT_EQ(deck.data.text, std::vector<std::string>{"a"});
  const auto again = parse_deck(deck.resolved, "d.toml", {}, Purpose::kPrepare, 0);
  EXPECT_TRUE(again == deck);
  EXPECT_EQ(refusal("", Purpose::kPrepare),
            "d.toml:1:1: model.vocab: it is required; it takes an integer from 2 to 16777216\n"
            "d.toml:1:1: data.train: it is required; it takes a string\n"
            "d.toml:1:1: data.text: it is required; it takes a string or an array of strings");
}

TEST(Schema, table_is_consistent) {
  std::set<std::string> names;
  std::vector<std::string> order;
  for (const auto& key : deck_schema()) {
    const auto& spec = key.spec;
    EXPECT_TRUE(names.insert(spec.name()).second) << spec.name() << " is there twice";
    if (order.empty() || order.back() != spec.section) order.push_back(spec.section);
    const bool derived = !spec.fallback_text.empty();
    EXPECT_TRUE(spec.fallback || derived || key.needed_by) << spec.name() << " has no default";
    const bool unset = spec.fallback == io::DeckValue("");
    EXPECT_TRUE(!spec.fallback || unset || spec.accepts(*spec.fallback)) << spec.name();
    if (!spec.reserved) {
      EXPECT_FALSE(spec.doc.empty()) << spec.name();
      EXPECT_TRUE(key.field.set && key.field.get) << spec.name() << " reaches no field";
    }
  }
  std::vector<std::string> sections;
  for (const auto& section : deck_sections()) sections.push_back(section.name);
  EXPECT_EQ(order, sections);
}

TEST(Schema, inputs_have_the_shapes_they_are_named_after) {
  const auto gpt2 = read_deck(nullptr, std::string(PG_SOURCE_DIR) + "/inputs/gpt2_124m.toml", {},
                              Purpose::kTrain, 1);
  EXPECT_EQ(gpt2.model.head_dim, 64);
  EXPECT_EQ(gpt2.train.seq, 256);
  EXPECT_EQ(gpt2.train.global_batch, 4);
  const auto llama = read_deck(nullptr, std::string(PG_SOURCE_DIR) + "/inputs/llama_1b.toml", {},
                               Purpose::kTrain, 8);
  EXPECT_EQ(llama.model.kv_width(), 512);
  EXPECT_EQ(llama.model.rope_theta, 500000.0);
}

}  // namespace
}  // namespace pg::app

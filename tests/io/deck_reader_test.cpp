// The engine alone, on a table of its own.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>

#include "comm/error.h"
#include "io/deck.h"

namespace pg::io {
namespace {

const std::vector<KeySpec>& table() {
  static const std::vector<KeySpec> keys = {
      {.section = "run",
       .key = "seed",
       .type = KeyType::kInt,
       .fallback = 1,
       .range = {.low = 0, .high = 100}},
      {.section = "run", .key = "name", .type = KeyType::kString, .fallback = "x"},
      {.section = "run", .key = "fast", .type = KeyType::kBool, .fallback = false},
      {.section = "run",
       .key = "device",
       .type = KeyType::kChoice,
       .fallback = "cpu",
       .choices = {"cpu", "cuda"},
       .later = {"cuda"}},
      {.section = "train",
       .key = "lr",
       .type = KeyType::kFloat,
       .range = {.low = 0, .low_open = true}},
      {.section = "train",
       .key = "kind",
       .type = KeyType::kChoice,
       .fallback = "cosine",
       .choices = {"cosine", "linear"}},
      {.section = "train", .key = "tp", .type = KeyType::kInt, .fallback = 1, .reserved = true},
      {.section = "data",
       .key = "text",
       .type = KeyType::kStrings,
       .fallback = std::vector<std::string>{}},
  };
  return keys;
}

DeckValue value_of(const DeckReader& reader, const std::string& name) {
  for (const auto& key : table()) {
    if (key.name() == name) return reader.value(key).value();
  }
  throw std::logic_error(name);
}

// Everything the reader has to say about `text`; empty when it is legal.
std::string problems(std::string_view text, const std::vector<std::string>& overrides = {}) {
  try {
    DeckReader reader(table(), "d.toml");
    for (const auto& argument : overrides) reader.override_with(argument);
    reader.read(text);
    reader.finish();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kDeck);
    return error.what();
  }
  return "";
}

DeckValue overridden(const std::string& name, const std::string& argument) {
  DeckReader reader(table(), "d.toml");
  reader.override_with(argument);
  reader.read("");
  reader.finish();
  return value_of(reader, name);
}

TEST(DeckReader, values_come_from_deck_or_default) {
  DeckReader reader(table(), "d.toml");
  reader.read("[run]\nseed = 7\n[data]\ntext = ['a', 'b']\n");
  reader.finish();
  EXPECT_EQ(value_of(reader, "run.seed"), DeckValue(7));
  EXPECT_EQ(value_of(reader, "run.name"), DeckValue("x"));
  EXPECT_EQ(value_of(reader, "data.text"), DeckValue(std::vector<std::string>{"a", "b"}));
  EXPECT_FALSE(reader.value(table()[4]).has_value());
  EXPECT_TRUE(reader.given("run.seed"));
  EXPECT_FALSE(reader.given("run.name"));
}

TEST(DeckReader, all_problems_come_at_once_sorted_by_place) {
  EXPECT_EQ(problems("[train]\n"
                     "lr = -1.0\n"
                     "kind = 'cosin'\n"
                     "[run]\n"
                     "sede = 3\n"
                     "seed =   2.5\n"
                     "fast = 1\n",
                     {"run.seed=500", "run.name=1"}),
            "d.toml:2:6: train.lr: -1.0 is out of range; it takes a number > 0\n"
            "d.toml:3:8: train.kind: \"cosin\" is none of the choices; it takes \"cosine\", "
            "\"linear\" (nearest: \"cosine\")\n"
            "d.toml:5:1: run.sede: unknown key (nearest key: run.seed)\n"
            "d.toml:7:8: run.fast: 1 is an integer; it takes true or false\n"
            "command line: run.seed=500: run.seed: 500 is out of range; it takes an integer from "
            "0 to 100");
}

TEST(DeckReader, an_overridden_key_of_the_deck_is_not_looked_at) {
  EXPECT_EQ(problems("[run]\ndevice = 'cuda'\n", {"run.device=cpu"}), "");
  EXPECT_NE(problems("[run]\ndevice = 'cuda'\n"), "");
}

TEST(DeckReader, integers_pass_for_floats_but_not_the_reverse) {
  EXPECT_EQ(problems("[train]\nlr = 1\n"), "");
  EXPECT_EQ(problems("[run]\nseed = 1.0\n"),
            "d.toml:2:8: run.seed: 1.0 is a float; it takes an integer from 0 to 100");
}

TEST(DeckReader, not_finite_numbers_are_refused) {
  for (const char* text : {"nan", "+nan", "inf", "-inf"}) {
    EXPECT_NE(problems(std::string("[train]\nlr = ") + text).find("is not a finite number"),
              std::string::npos)
        << text;
  }
}

TEST(DeckReader, a_key_of_another_section_names_that_section) {
  EXPECT_EQ(problems("[run]\nlr = 1.0\n"),
            "d.toml:2:1: run.lr: unknown key (lr is a key of [train])");
  EXPECT_EQ(problems("seed = 1\n"),
            "d.toml:1:1: seed: a key outside any section (seed is a key of [run])");
}

TEST(DeckReader, unknown_sections_name_the_nearest) {
  EXPECT_EQ(problems("[trian]\nlr = 1\n"), "d.toml:1:2: trian: unknown section (nearest: [train])");
  EXPECT_EQ(problems("[optimizer]\n"),
            "d.toml:1:2: optimizer: unknown section (sections: run, train, data)");
}

TEST(DeckReader, a_section_is_a_table) {
  EXPECT_EQ(problems("run = 5\n"),
            "d.toml:1:1: run: run is a section: write [run] and its keys below it");
  EXPECT_EQ(problems("[[run]]\nseed = 1\n"),
            "d.toml:1:3: run: run is a section: write [run] and its keys below it");
  EXPECT_EQ(problems("run.seed = 5\n"), "");
  EXPECT_EQ(problems("run = { seed = 5 }\n"), "");
}

TEST(DeckReader, reserved_keys_take_only_their_default) {
  EXPECT_EQ(problems("[train]\ntp = 1\n"), "");
  EXPECT_EQ(problems("[train]\ntp = 2\n"),
            "d.toml:2:6: train.tp: 2 is not supported yet; this version supports only 1");
  EXPECT_EQ(problems("[run]\ndevice = 'cuda'\n"),
            "d.toml:2:10: run.device: \"cuda\" is not supported yet; this version supports only "
            "\"cpu\"");
}

TEST(DeckReader, arrays_name_the_place_of_a_bad_element) {
  EXPECT_EQ(problems("[data]\ntext = [\n  'a',\n  7,\n  '',\n]\n"),
            "d.toml:4:3: data.text: 7 is an integer; it takes a string or an array of strings\n"
            "d.toml:5:3: data.text: the array holds an empty string");
}

TEST(DeckReader, an_empty_string_or_array_is_not_set) {
  DeckReader reader(table(), "d.toml");
  reader.read("[run]\nname = ''\n[data]\ntext = []\n");
  reader.finish();
  EXPECT_FALSE(reader.given("run.name"));
  EXPECT_FALSE(reader.given("data.text"));
  EXPECT_EQ(value_of(reader, "run.name"), DeckValue("x"));
}

TEST(DeckReader, dates_tables_and_nul_characters_are_refused) {
  EXPECT_NE(problems("[run]\nseed = 2024-01-01\n").find("got a date"), std::string::npos);
  EXPECT_NE(problems("[run.seed]\na = 1\n").find("got a table"), std::string::npos);
  EXPECT_NE(problems("[run]\nname = \"a\\u0000b\"\n").find("NUL"), std::string::npos);
}

TEST(DeckReader, overrides_take_toml_values_and_bare_words) {
  EXPECT_EQ(overridden("run.seed", "run.seed=7"), DeckValue(7));
  EXPECT_EQ(overridden("run.seed", " run.seed = 7 "), DeckValue(7));
  EXPECT_EQ(overridden("run.seed", "run.seed=0x10"), DeckValue(16));
  EXPECT_EQ(overridden("run.fast", "run.fast=true"), DeckValue(true));
  EXPECT_EQ(overridden("train.lr", "train.lr=1"), DeckValue(1.0));
  EXPECT_EQ(overridden("train.lr", "train.lr=3e-4"), DeckValue(3e-4));
  EXPECT_EQ(overridden("train.kind", "train.kind=linear"), DeckValue("linear"));
  EXPECT_EQ(overridden("train.kind", "train.kind=\"linear\""), DeckValue("linear"));
  EXPECT_EQ(overridden("run.name", "run.name='a b'"), DeckValue("a b"));
  EXPECT_EQ(overridden("run.name", "run.name=runs/a=b.h5"), DeckValue("runs/a=b.h5"));
  // A word for a string key is a string, whatever it looks like.
  EXPECT_EQ(overridden("run.name", "run.name=12"), DeckValue("12"));
  EXPECT_EQ(overridden("run.name", "run.name="), DeckValue("x"));
  EXPECT_EQ(overridden("data.text", "data.text=a/*.txt"),
            DeckValue(std::vector<std::string>{"a/*.txt"}));
  EXPECT_EQ(overridden("data.text", "data.text=['a', 'b']"),
            DeckValue(std::vector<std::string>{"a", "b"}));
}

TEST(DeckReader, overrides_are_checked_like_the_deck) {
  const auto problem = [](const char* argument) { return problems("", {argument}); };
  EXPECT_EQ(problem("run.seed=12x"),
            "command line: run.seed=12x: run.seed: \"12x\" is not a value of TOML; it takes an "
            "integer from 0 to 100");
  EXPECT_EQ(problem("run.seed=7.0"),
            "command line: run.seed=7.0: run.seed: 7.0 is a float; it takes an integer from 0 to "
            "100");
  EXPECT_EQ(problem("run.sead=7"),
            "command line: run.sead=7: run.sead: unknown key (nearest key: run.seed)");
  EXPECT_EQ(problem("seed=7"),
            "command line: seed=7: seed: a key outside any section (seed is a key of [run])");
  EXPECT_EQ(problem("run.seed"), "command line: run.seed: run.seed: it takes section.key=value");
  // One value: nothing can be smuggled in behind it.
  EXPECT_NE(problem("run.seed=1\nw = 2"), "");
  EXPECT_NE(problem("run.seed="), "");
  EXPECT_NE(problem("run.seed=#"), "");
  EXPECT_NE(problem("run.name=\xff"), "");
  EXPECT_EQ(problems("", {"run.seed=1", "run.seed=2"}),
            "command line: run.seed=2: run.seed: it is given twice");
}

TEST(DeckReader, messages_stay_one_line_each) {
  const auto text = problems("[run]\n\"a\\nb\" = 1\nname = 3\n\"\\u001b[31m\" = 2\n");
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 2) << text;
  EXPECT_EQ(text.find('\x1b'), std::string::npos);
}

TEST(DeckReader, very_many_problems_are_cut) {
  std::string text = "[run]\n";
  for (int i = 0; i < 1000; ++i) text += "k" + std::to_string(i) + " = 1\n";
  const auto all = problems(text);
  EXPECT_NE(all.find("d.toml: 900 more problems"), std::string::npos);
}

TEST(DeckFormat, floats_read_back_to_the_same_bits) {
  for (const double value : {0.1, 1e-8, 3e-4, 1e20, 5e-324, 1.7976931348623157e308, 2.0, -0.0}) {
    const auto text = toml_text(DeckValue(value));
    const auto root = parse_toml("v = " + text, "t");
    ASSERT_EQ(root.members[0].value.kind, TomlNode::Kind::kFloat) << text;
    EXPECT_EQ(std::bit_cast<std::uint64_t>(root.members[0].value.real),
              std::bit_cast<std::uint64_t>(value))
        << text;
  }
}

TEST(DeckFormat, strings_read_back_byte_for_byte) {
  std::string all;
  for (char c = 1; c < 0x7f; ++c) all += c;
  all += "\x7f\u00e9\u20ac\U0001F600";
  const auto root = parse_toml("v = " + toml_text(std::string_view(all)), "t");
  EXPECT_EQ(root.members[0].value.text, all);
}

TEST(DeckFormat, nearest_name_needs_to_be_near) {
  const std::vector<std::string> names = {"warmup", "min_lr", "lr", "kind"};
  EXPECT_EQ(nearest("warm_up", names), "warmup");
  EXPECT_EQ(nearest("wramup", names), "warmup");
  EXPECT_EQ(nearest("lrr", names), "lr");
  EXPECT_EQ(nearest("qqqqqqqq", names), "");
  EXPECT_EQ(nearest(std::string(100000, 'a'), names), "");
}

TEST(DeckFormat, invalid_utf8_is_told_apart) {
  EXPECT_TRUE(is_utf8("a\u00e9\u20ac\U0001F600"));
  for (const char* text : {"\xff", "\xc0\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe2\x82"}) {
    EXPECT_FALSE(is_utf8(text));
  }
}

}  // namespace
}  // namespace pg::io

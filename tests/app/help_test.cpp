#include "app/help.h"

#include <gtest/gtest.h>

#include <sstream>

#include "app/check.h"
#include "tests/app/decks.h"

namespace pg::app {
namespace {

TEST(Help, every_settable_key_is_documented_and_the_others_are_named_as_reserved) {
  for (const auto& key : deck_schema()) {
    const auto text = help_text(key.spec.section);
    const auto row = text.find("\n  " + key.spec.key + " ");
    const auto reserved = text.find("Reserved for later versions:");
    if (key.spec.reserved) {
      EXPECT_EQ(row, std::string::npos) << key.spec.name();
      EXPECT_NE(text.find(key.spec.key, reserved), std::string::npos) << key.spec.name();
    } else {
      EXPECT_NE(row, std::string::npos) << key.spec.name();
    }
  }
}

TEST(Help, lines_fit_100_columns) {
  std::string all = help_text("");
  for (const auto& section : deck_sections()) all += help_text(section.name);
  std::istringstream lines(all);
  for (std::string line; std::getline(lines, line);) {
    EXPECT_LE(line.size(), 100u) << line;
    EXPECT_TRUE(line.empty() || line.back() != ' ') << line;
  }
}

TEST(Help, schedule_prints_its_formulas) {
  const auto text = help_text("schedule");
  EXPECT_NE(text.find("min_lr + (lr - min_lr) * (1 + cos(pi * (t - W) / (S - W))) / 2"),
            std::string::npos);
}

TEST(Help, unknown_section_names_the_nearest) {
  try {
    help_text("trian");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kDeck);
    EXPECT_STREQ(error.what(), "help: no section \"trian\" (nearest: train)");
  }
}

TEST(Check, report_is_a_deck_again) {
  const auto deck = parse_deck(kLeastDeck, "d.toml", {}, Purpose::kCheck, 2);
  const auto report = check_report(deck, 2);
  EXPECT_TRUE(parse_deck(report, "d.toml", {}, Purpose::kCheck, 2) == deck);
  EXPECT_NE(report.find("# grid    dp 2 x tp 1 x pp 1 x ep 1 x cp 1 = 2 ranks"), std::string::npos);
  EXPECT_NE(report.find("# batch   8 sequences = 2 ranks x 2 micro-batches x 2; 256 tokens a step"),
            std::string::npos)
      << report;
}

TEST(Check, parameters_are_those_of_the_published_models) {
  const auto count = [](const char* name) {
    const auto path = std::string(PG_SOURCE_DIR) + "/inputs/" + name + ".toml";
    const auto report = check_report(read_deck(nullptr, path, {}, Purpose::kCheck, 1), 1);
    const auto line = report.find("# model   ") + 10;
    return report.substr(line, report.find(' ', line) - line);
  };
  EXPECT_EQ(count("gpt2_124m"), "124,439,808");   // Hugging Face's gpt2
  EXPECT_EQ(count("llama_1b"), "1,235,814,400");  // meta-llama/Llama-3.2-1B
}

TEST(Check, missing_data_files_are_named) {
  const auto deck =
      parse_deck(kLeastDeck, "d.toml", {"data.train=/no/such.h5"}, Purpose::kCheck, 1);
  ASSERT_EQ(missing_files(deck).size(), 1u);
  EXPECT_TRUE(missing_files(deck)[0].starts_with("data.train: /no/such.h5 does not exist"));
}

}  // namespace
}  // namespace pg::app

// What is printed for people: help, `check`, the banner.
#include "app/help.h"

#include <gtest/gtest.h>

#include <sstream>

#include "app/check.h"
#include "app/console.h"
#include "tests/app/decks.h"

namespace pg::app {
namespace {

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

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

// allenai/OLMoE-1B-7B has 6,919,161,856, of which 16 * 2 * 2,048 are norms of queries and keys.
TEST(Check, experts_are_counted_in_all_and_as_a_token_meets_them) {
  const auto deck = read_deck(nullptr, std::string(PG_SOURCE_DIR) + "/inputs/olmoe_1b_7b.toml", {},
                              Purpose::kCheck, 8);
  const auto report = check_report(deck, 8);
  const std::int64_t all = 6919161856 - 16 * 2 * 2048;
  const std::int64_t idle = std::int64_t{16} * (64 - 8) * 3 * 2048 * 1024;
  EXPECT_TRUE(has(report, "# model   " + count_text(all) + " parameters, " +
                              count_text(all - idle) + " of them active a token\n"))
      << report;
  EXPECT_TRUE(has(report, "# experts 64 experts of 1024, top 8 a token; every block\n")) << report;
  EXPECT_TRUE(has(report, " MiB  if all experts are asked for alike\n")) << report;
  EXPECT_TRUE(has(report, "#   at the most ")) << report;
  EXPECT_TRUE(has(report, " MiB  if all tokens ask for one rank's experts\n")) << report;
}

TEST(Check, what_is_not_there_is_not_printed) {
  const auto dense = parse_deck(kLeastDeck, "d.toml", {}, Purpose::kCheck, 1);
  const auto report = check_report(dense, 1);
  EXPECT_FALSE(has(report, "# experts")) << report;
  EXPECT_FALSE(has(report, "active a token")) << report;
  EXPECT_FALSE(has(report, "at the most")) << report;
  EXPECT_FALSE(has(report, "(ring)")) << report;
  // One rank has all experts: however they are asked for, it needs the same.
  const auto one = parse_deck(kLeastDeck, "d.toml", {"moe.experts=8"}, Purpose::kCheck, 1);
  EXPECT_FALSE(has(check_report(one, 1), "at the most"));
}

TEST(Check, a_cut_sequence_names_its_method) {
  const auto deck = parse_deck(kLeastDeck, "d.toml", {"grid.cp=2", "context.method=allgather"},
                               Purpose::kCheck, 4);
  EXPECT_TRUE(has(check_report(deck, 4),
                  "# grid    dp 2 x tp 1 x pp 1 x ep 1 x cp 2 (allgather) = 4 ranks\n"));
}

std::string experts_of(const std::vector<std::string>& overrides) {
  return experts_text(parse_deck(kLeastDeck, "d.toml", overrides, Purpose::kCheck, 0).model);
}

TEST(Console, experts_are_described_in_a_line) {
  EXPECT_EQ(experts_of({}), "");
  EXPECT_EQ(experts_of({"moe.experts=8"}),
            "8 experts of 192, top 2 a token, renormalized; every block");
  EXPECT_EQ(experts_of({"moe.experts=8", "moe.router=switch", "moe.capacity_factor=1.25",
                        "moe.shared_experts=2", "moe.every=2"}),
            "8 experts of 192, switch to 1 a token, 2 shared, capacity factor 1.25; 1 block in 2");
  EXPECT_EQ(experts_of({"moe.experts=8", "moe.router=expert_choice", "moe.top_k=3"}),
            "8 experts of 192, expert choice, 3 a token on average; every block");
}

std::string banner_of(const std::vector<std::string>& overrides, int ranks) {
  const auto deck = parse_deck(kLeastDeck, "d.toml", overrides, Purpose::kTrain, ranks);
  const auto n = static_cast<std::size_t>(ranks);
  return banner_text(
      {.deck = deck, .grid = grid_of(deck, ranks), .hosts = std::vector<std::string>(n, "node")});
}

TEST(Console, the_banner_names_experts_methods_and_masks) {
  const auto dense = banner_of({}, 1);
  EXPECT_TRUE(has(dense, ", ffn 192, vocab 300;")) << dense;
  for (const char* absent : {"experts", "active", "masked", "(ring)"}) {
    EXPECT_FALSE(has(dense, absent)) << dense;
  }
  const auto text = banner_of({"moe.experts=8", "moe.ffn=48", "grid.ep=2", "grid.cp=2",
                               "context.method=ulysses", "data.mask_documents=true"},
                              4);
  EXPECT_TRUE(has(text, "  grid         dp 1 x tp 1 x pp 1 x ep 2 x cp 2 (ulysses), zero 0\n"))
      << text;
  EXPECT_TRUE(has(text, " of 16, vocab 300;")) << text;  // no dense block has a width
  EXPECT_TRUE(
      has(text, "  experts      8 experts of 48, top 2 a token, renormalized; every block\n"))
      << text;
  EXPECT_TRUE(has(text, " of them active a token, bf16\n")) << text;
  EXPECT_TRUE(has(text, " when all tokens ask for the experts of one rank\n")) << text;
  EXPECT_TRUE(has(text, " samples of 32, documents masked\n")) << text;
  EXPECT_TRUE(has(banner_of({"moe.experts=8", "moe.every=2"}, 1), ", ffn 192, vocab 300;"));
}

TEST(Check, missing_data_files_are_named) {
  const auto deck =
      parse_deck(kLeastDeck, "d.toml", {"data.train=/no/such.h5"}, Purpose::kCheck, 1);
  ASSERT_EQ(missing_files(deck).size(), 1u);
  EXPECT_TRUE(missing_files(deck)[0].starts_with("data.train: /no/such.h5 does not exist"));
}

}  // namespace
}  // namespace pg::app

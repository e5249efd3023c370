// Hostile text: always Error(kDeck) with a place, never a crash.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <random>

#include "comm/error.h"
#include "io/deck_toml.h"

namespace pg::io {
namespace {

// The message of the refusal; empty when the text is TOML.
std::string refusal(std::string_view text) {
  try {
    parse_toml(text, "d.toml");
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kDeck);
    return error.what();
  }
  return "";
}

TEST(DeckToml, syntax_errors_tell_line_and_column) {
  EXPECT_TRUE(refusal("[run]\nseed = 12x\n").starts_with("d.toml:2:10: syntax error: "))
      << refusal("[run]\nseed = 12x\n");
  EXPECT_TRUE(refusal("[run]\nseed = 1\nseed = 2\n").starts_with("d.toml:3:"))
      << refusal("[run]\nseed = 1\nseed = 2\n");
  EXPECT_TRUE(refusal("[run]\n[train]\n[run]\n").starts_with("d.toml:3:"));
  EXPECT_TRUE(refusal("[run\n").starts_with("d.toml:1:"));
  EXPECT_TRUE(refusal("a = 99999999999999999999\n").starts_with("d.toml:1:"));
}

TEST(DeckToml, crlf_and_a_bom_are_legal_and_move_no_place) {
  const auto root = parse_toml("\xEF\xBB\xBF[run]\r\nseed = 7\r\n", "d.toml");
  ASSERT_EQ(root.members.size(), 1u);
  EXPECT_EQ(root.members[0].place.line, 1);
  EXPECT_EQ(root.members[0].place.column, 2);
  const auto& seed = root.members[0].value.members.at(0);
  EXPECT_EQ(seed.value.integer, 7);
  EXPECT_EQ(seed.place.line, 2);
  EXPECT_EQ(seed.place.column, 1);
  EXPECT_EQ(seed.value.place.column, 8);
}

TEST(DeckToml, nul_bytes_and_invalid_utf8_are_refused_with_their_place) {
  using namespace std::string_view_literals;
  EXPECT_EQ(refusal("[run]\nab\0c = 1\n"sv), "d.toml:2:3: syntax error: a NUL byte");
  EXPECT_TRUE(refusal("[run]\nname = \"a\xff\"\n").starts_with("d.toml:2:"))
      << refusal("[run]\nname = \"a\xff\"\n");
  EXPECT_TRUE(refusal("[run]\nname = \"\xed\xa0\x80\"\n").starts_with("d.toml:2:"));
  EXPECT_TRUE(refusal("\xff\xfe[\0r\0"sv).starts_with("d.toml:1:"));
}

TEST(DeckToml, a_huge_line_is_refused) {
  const auto line = "name = \"" + std::string(kDeckLineMax, 'a') + "\"\n";
  EXPECT_TRUE(refusal("[run]\n" + line).starts_with("d.toml:2:1: syntax error: a line of"));
}

TEST(DeckToml, deep_nesting_is_refused_before_it_reaches_the_stack) {
  const auto repeat = [](const std::string& piece, int times) {
    std::string out;
    for (int i = 0; i < times; ++i) out += piece;
    return out;
  };
  const std::vector<std::string> bombs = {
      "[a" + repeat(".a", 30000) + "]\n",
      "a" + repeat(".a", 30000) + " = 1\n",
      "\"\"" + repeat(".\"\"", 20000) + " = 1\n",
      "a = " + repeat("[", 60000),
      "a = " + repeat("[\n", 300000),
      "a = " + repeat("{a=", 20000),
      "a = " + repeat("{a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a = [\n", 20000),
      repeat("[a.a.a.a]\n[a.a.a.a.a]\n", 1),
  };
  for (std::size_t i = 0; i + 1 < bombs.size(); ++i) {
    EXPECT_NE(refusal(bombs[i]).find("nested more than 16 deep"), std::string::npos) << i;
  }
  EXPECT_EQ(refusal(bombs.back()), "");
}

TEST(DeckToml, dots_and_brackets_inside_strings_and_comments_are_not_nesting) {
  const std::string dots(100, '.'), brackets(100, '[');
  EXPECT_EQ(refusal("# " + dots + brackets + "\na = '" + dots + brackets + "'\n"), "");
  EXPECT_EQ(refusal("a = \"\\\"" + dots + brackets + "\"\n"), "");
  EXPECT_EQ(refusal("a = \"\"\"\n" + dots + "\"\n" + brackets + "\"\"\"\"\"\nb = 1\n"), "");
  EXPECT_EQ(refusal("a = '''\n" + dots + "'\n" + brackets + "'''\nb = [1.5, 2.5]\n"), "");
}

// A million random edits would find more, slower; these run in a second or two.
TEST(DeckToml, mutated_decks_never_crash) {
  const std::string seed =
      "# deck\n[run]\nname = \"a\\u00e9\"\nseed = 0x1F\n[train]\nlr = 3e-4 # x\n"
      "text = ['a', \"b\", '''c''', \"\"\"d\"\"\"]\nwhen = 1979-05-27T07:32:00Z\n"
      "t = { a.b = 1, c = [ [1, 2], [3] ] }\n[[x]]\ny = -inf\n[a.b.\"c d\"]\nz = true\n";
  const std::string alphabet = "[]{}=.,\"'\\#\n\r\t 019+-_:eTZuUx\xff\xc3\xa9\xed\x01";
  std::mt19937 random(20240501);
  const auto below = [&](std::size_t n) { return random() % n; };
  int legal = 0;
  for (int round = 0; round < 20000; ++round) {
    auto text = seed;
    for (std::size_t edits = 1 + below(6); edits > 0; --edits) {
      const auto at = below(text.size());
      switch (below(4)) {
        case 0:
          text[at] = alphabet[below(alphabet.size())];
          break;
        case 1:
          text.insert(at, 1, alphabet[below(alphabet.size())]);
          break;
        case 2:
          text.erase(at, 1 + below(8));
          break;
        default:
          text.insert(at, text.substr(below(text.size()), below(24)));
      }
      if (text.empty()) text = " ";
    }
    legal += refusal(text).empty();
  }
  EXPECT_GT(legal, 100);  // the edits reach past the parser's first byte
}

class DeckFile : public testing::Test {
 protected:
  void SetUp() override {
    path_ = std::filesystem::temp_directory_path() /
            ("pg_deck_" + std::to_string(::getpid()) + ".toml");
  }
  void TearDown() override { std::filesystem::remove(path_); }
  std::string refusal_of_file() const {
    try {
      read_deck_text(path_);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kDeck);
      return error.what();
    }
    return "";
  }
  std::filesystem::path path_;
};

TEST_F(DeckFile, missing_files_directories_and_huge_files_are_refused) {
  EXPECT_NE(refusal_of_file().find("No such file"), std::string::npos);
  std::ofstream(path_) << std::string(kDeckBytesMax, '\n');
  EXPECT_EQ(refusal_of_file(), "");
  std::ofstream(path_, std::ios::app) << "\n";
  EXPECT_NE(refusal_of_file().find("longer than 1 MiB"), std::string::npos);
  path_ = "/dev/zero";
  EXPECT_NE(refusal_of_file().find("longer than 1 MiB"), std::string::npos);
  path_ = "/tmp/.";
  EXPECT_NE(refusal_of_file().find("directory"), std::string::npos);
  path_ = "";
}

}  // namespace
}  // namespace pg::io

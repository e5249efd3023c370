// SentencePiece models whose normalization table leads astray are refused before the library
// follows it; good ones of every kind pass.
#include "io/tokenizer_guard.h"

#include <gtest/gtest.h>

#include <cstring>

#include "io/tokenizer.h"
#include "tests/io/token_test_files.h"

namespace pg::io {
namespace {

std::string model_of(const std::string& kind) {
  return read_bytes(std::filesystem::path(PG_SOURCE_DIR) / "tests/fuzz/corpus/tokenizer" / kind);
}

// Where the table's trie lies in a model of the corpus: its bytes follow those of the length.
struct Trie {
  std::size_t at, units;
};
Trie trie_of(const std::string& model) {
  // NormalizerSpec.precompiled_charsmap (2), a length of two or three bytes, the trie's length.
  const std::string name = "user_defined\x12";
  auto at = model.find(name);
  EXPECT_NE(at, model.npos);
  at += name.size();
  while ((static_cast<unsigned char>(model[at]) & 0x80) != 0) ++at;
  std::uint32_t bytes = 0;
  std::memcpy(&bytes, model.data() + at + 1, sizeof bytes);
  return {at + 1 + sizeof bytes, bytes / 4};
}

TEST(TokenizerGuard, models_of_every_kind_pass) {
  for (const auto* kind : {"seed", "seed-bpe", "seed-unigram", "seed-word", "seed-char"}) {
    SCOPED_TRACE(kind);
    EXPECT_NO_THROW(Tokenizer(model_of(kind), kind));
  }
}

// Each unit of the trie made to lead far away: refused, or never followed by any text.
TEST(TokenizerGuard, tables_that_lead_outside_are_refused) {
  const auto model = model_of("seed-bpe");
  const auto [at, units] = trie_of(model);
  ASSERT_GT(units, 0u);
  ASSERT_LT(at + 4 * units, model.size());
  for (std::size_t unit = 0; unit < units; ++unit) {
    auto changed = model;
    const std::uint32_t far = 0x7FFFFE00;
    std::memcpy(changed.data() + at + 4 * unit, &far, sizeof far);
    expect_error(ExitCode::kData, {"far.model", "normalization table"},
                 [&] { check_sentencepiece_model(changed, "far.model"); });
  }
  auto changed = model;
  changed[at - 3] = '\x7F';  // the trie's length
  expect_error(ExitCode::kData, {"cut short"}, [&] { check_sentencepiece_model(changed, "m"); });
}

TEST(TokenizerGuard, damaged_messages_are_refused) {
  const auto model = model_of("seed");
  for (std::size_t bytes = 1; bytes < model.size(); bytes += 97) {
    // Fields that were cut off whole leave a good message; the tokenizer then judges it.
    try {
      const Tokenizer tokenizer(model.substr(0, bytes), "cut");
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kData) << error.what();
    }
  }
  expect_error(ExitCode::kData, {"cut short"},
               [&] { check_sentencepiece_model("\x0A\x05zz", "m"); });
  expect_error(ExitCode::kData, {"unknown kind"}, [&] { check_sentencepiece_model("\x0B", "m"); });
  expect_error(ExitCode::kData, {"not a number"}, [&] {
    check_sentencepiece_model(std::string("\x0A\x08\x0A\x01x\x15\x00\x00\xC0\x7F", 10), "m");
  });
}

}  // namespace
}  // namespace pg::io

#include "io/tokenizer.h"

#include <gtest/gtest.h>
#include <sentencepiece_trainer.h>

#include <algorithm>
#include <unordered_map>

#include "io/text_source.h"
#include "tests/io/token_test_files.h"

namespace pg::io {
namespace {

std::vector<TextFile> own_sources() {
  const std::string root = PG_SOURCE_DIR;
  return find_text(std::vector<std::string>{root + "/comm", root + "/io", root + "/model"});
}

const std::string& own_text() {
  static const std::string text = [] {
    std::string all, piece;
    for (const auto& file : own_sources()) {
      for (TextReader reader(file, true); reader.next(piece);) all += piece;
    }
    return all;
  }();
  return text;
}

const Tokenizer& trained() {
  static const Tokenizer tokenizer(train_tokenizer(own_text(), 1000), "trained");
  return tokenizer;
}

std::vector<std::int32_t> ids_of(const Tokenizer& tokenizer, std::string_view text) {
  std::vector<std::int32_t> ids;
  tokenizer.encode(text, true, ids);
  return ids;
}

// Text with everything that tokenizers are known to lose or to take for their own.
const std::vector<std::string>& awkward() {
  static const std::vector<std::string> texts = {
      "",
      " ",
      "\n",
      "  leading and trailing   ",
      "\n\n\n\n\t\t\t\t\n \n",
      "a\r\nb\rc",
      "no newline at the end",
      "\xE2\x96\x81 a space mark \xE2\x96\x81\xE2\x96\x81in the text",
      "<s> </s> <unk> <0x41> <0x0A> <pad>",
      "\xE2\x81\x87 the sign of <unk>",
      std::string("NUL \0 and \x01\x7F", 11),
      "\xEF\xBF\xBD and \xEF\xBB\xBF"
      "BOM",
      "caf\xC3\xA9 cafe\xCC\x81 \xEF\xAC\x81 \xE2\x85\xA8",  // forms that NFKC would change
      "\xE4\xB8\xAD\xE6\x96\x87\xE3\x80\x80 \xF0\x9F\x91\xA9\xE2\x80\x8D\xF0\x9F\x9A\x80",
      "1234567890.5e-3",
      std::string(20000, 'x'),
      std::string(300, ' ') + "deep",
  };
  return texts;
}

TEST(Tokenizer, awkward_text_comes_back_byte_for_byte) {
  ASSERT_TRUE(trained().lossless());
  const Tokenizer bytes("bytes", "bytes");
  for (const auto& text : awkward()) {
    EXPECT_EQ(trained().decode(ids_of(trained(), text)), text);
    EXPECT_EQ(bytes.decode(ids_of(bytes, text)), text);
  }
}

TEST(Tokenizer, source_files_come_back_byte_for_byte) {
  std::size_t bytes = 0, tokens = 0;
  for (const auto& file : own_sources()) {
    std::string piece;
    for (TextReader reader(file, true); reader.next(piece);) {
      const auto ids = ids_of(trained(), piece);
      ASSERT_EQ(trained().decode(ids), piece) << file.path;
      bytes += piece.size();
      tokens += ids.size();
    }
  }
  // A tokenizer that fell back to bytes would come back as well, at 1 byte a token.
  EXPECT_GT(static_cast<double>(bytes) / static_cast<double>(tokens), 2.0);
}

TEST(Tokenizer, kernel_documentation_comes_back_byte_for_byte) {
  const std::string root = "/usr/share/doc/linux-doc-6.1/Documentation";
  if (!std::filesystem::exists(root)) GTEST_SKIP() << "linux-doc is not installed";
  const auto files = find_text(std::vector<std::string>{root + "/**/*.rst.gz"});
  for (std::size_t i = 0; i < files.size(); i += 40) {
    std::string piece;
    for (TextReader reader(files[i], true); reader.next(piece);) {
      ASSERT_EQ(trained().decode(ids_of(trained(), piece)), piece) << files[i].path;
    }
  }
}

TEST(Tokenizer, encoding_in_pieces_gives_the_ids_of_the_whole) {
  const TemporaryFolder folder;
  write_bytes(folder / "text", own_text());
  const auto whole = ids_of(trained(), own_text());
  for (const std::size_t bytes : {300, 5000, 100000}) {
    std::vector<std::int32_t> ids;
    std::string piece;
    bool first = true;
    for (TextReader reader({folder / "text", 0}, true, bytes); reader.next(piece); first = false) {
      trained().encode(piece, first, ids);
    }
    EXPECT_EQ(ids, whole) << bytes;
  }
}

TEST(Tokenizer, training_twice_gives_the_same_model) {
  EXPECT_EQ(train_tokenizer(own_text(), 1000), trained().stored());
  EXPECT_EQ(trained().vocab(), 1000);
}

TEST(Tokenizer, text_never_makes_a_control_id) {
  const auto end = trained().end_of_document();
  ASSERT_GE(end, 0);
  for (const auto& text : awkward()) {
    const auto ids = ids_of(trained(), text);
    EXPECT_EQ(std::ranges::count(ids, end), 0);
    EXPECT_EQ(std::ranges::count(ids, 0), 0) << "<unk>";
  }
  EXPECT_EQ(trained().decode(std::vector{end}), "");
}

TEST(Tokenizer, bytes_are_their_own_ids) {
  const Tokenizer bytes("bytes", "bytes");
  EXPECT_EQ(bytes.vocab(), 256);
  EXPECT_EQ(bytes.end_of_document(), -1);
  EXPECT_EQ(ids_of(bytes, "a\xFF"), (std::vector<std::int32_t>{97, 255}));
}

TEST(Tokenizer, ids_outside_the_vocabulary_decode_to_the_replacement_character) {
  EXPECT_EQ(trained().decode(std::vector<std::int32_t>{-1, 1000, INT32_MAX}),
            "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");
}

// A model made with SentencePiece's own defaults but for `normalization`.
std::string model_with_defaults(const std::string& normalization) {
  class Words : public sentencepiece::SentenceIterator {
   public:
    bool done() const override { return left_ == 0; }
    void Next() override { --left_; }
    const std::string& value() const override { return line_; }
    sentencepiece::util::Status status() const override { return {}; }

   private:
    int left_ = 50;
    std::string line_ = "the cat sat on the mat with the hat";
  } words;
  const std::unordered_map<std::string, std::string> settings = {
      {"vocab_size", "300"},     {"model_type", "bpe"},
      {"byte_fallback", "true"}, {"hard_vocab_limit", "false"},
      {"minloglevel", "3"},      {"normalization_rule_name", normalization}};
  std::string model;
  EXPECT_TRUE(sentencepiece::SentencePieceTrainer::Train(settings, &words, &model).ok());
  return model;
}

// By itself SentencePiece would put a space before each piece of text and drop those at its ends:
// the space must come once, at the document's start.
TEST(Tokenizer, a_model_with_a_dummy_prefix_gets_it_once_a_document) {
  const Tokenizer tokenizer(model_with_defaults("identity"), "identity");
  EXPECT_EQ(tokenizer.decode(ids_of(tokenizer, "the cat\nsat\n  on ")), " the cat\nsat\n  on ");
  std::vector<std::int32_t> later;
  tokenizer.encode("the cat", false, later);
  EXPECT_EQ(tokenizer.decode(later), "the cat");
  EXPECT_TRUE(tokenizer.lossless());
}

TEST(Tokenizer, a_model_that_normalises_says_so) {
  EXPECT_FALSE(Tokenizer(model_with_defaults("nmt_nfkc"), "nfkc").lossless());
}

TEST(Tokenizer, damaged_models_are_refused_by_name) {
  const TemporaryFolder folder;
  write_bytes(folder / "garbage.model", "this is not a protobuf message");
  write_bytes(folder / "empty.model", "");
  write_bytes(folder / "cut.model", trained().stored().substr(0, trained().stored().size() / 2));
  for (const char* name : {"garbage.model", "empty.model", "cut.model"}) {
    expect_error(ExitCode::kData, {name}, [&] { Tokenizer::load((folder / name).string()); });
  }
  expect_error(ExitCode::kData, {"absent.model"},
               [&] { Tokenizer::load((folder / "absent.model").string()); });
}

TEST(Tokenizer, a_vocabulary_without_room_for_the_bytes_is_refused_by_key) {
  expect_error(ExitCode::kDeck, {"model.vocab: 200"}, [] { train_tokenizer(own_text(), 200); });
}

TEST(Tokenizer, a_short_text_gives_a_smaller_vocabulary) {
  const Tokenizer tokenizer(train_tokenizer("some words, some words\nand others\n", 2000), "short");
  EXPECT_LT(tokenizer.vocab(), 400);
  EXPECT_EQ(tokenizer.decode(ids_of(tokenizer, "some others")), "some others");
  expect_error(ExitCode::kData, {"data.text"}, [] { train_tokenizer("\n\n", 2000); });
}

TEST(TextSample, a_long_stream_is_sampled_evenly_within_the_budget) {
  constexpr std::size_t kBudget = 100'000;
  TextSample sample(kBudget);
  const int lines = 200'000;  // of 11 bytes
  for (int i = 0; i < lines; ++i) sample.add(fmt::format("{:010}\n", i));
  const auto text = sample.text();
  EXPECT_LE(text.size(), kBudget);
  EXPECT_GE(text.size(), kBudget / 2 - 11);
  // Each tenth of the stream has its tenth of the sample, to within a block.
  std::vector<int> tenths(10);
  for (std::size_t at = 0; at + 11 <= text.size(); at += 11) {
    ++tenths[static_cast<std::size_t>(std::stoi(text.substr(at, 10)) * 10 / lines)];
  }
  const auto [low, high] = std::ranges::minmax(tenths);
  EXPECT_LE(high - low, 1);
}

TEST(TextSample, a_short_stream_is_kept_whole) {
  TextSample sample(1 << 20);
  sample.add("one\ntwo\n");
  sample.add("three\n");
  EXPECT_EQ(sample.text(), "one\ntwo\nthree\n");
}

}  // namespace
}  // namespace pg::io

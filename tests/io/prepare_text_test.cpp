// `prepare` from text to samples.
#include <gtest/gtest.h>

#include "app/prepare.h"
#include "io/sampler.h"
#include "io/text_source.h"
#include "io/token_file.h"
#include "io/tokenizer.h"
#include "tests/io/token_test_files.h"

namespace pg::app {
namespace {

class Prepare : public testing::Test {
 protected:
  Deck deck(const std::string& folder) const {
    Deck made;
    made.data.text = {std::string(PG_SOURCE_DIR) + "/io", std::string(PG_SOURCE_DIR) + "/comm"};
    made.data.train = (out_ / folder / "train.h5").string();
    made.data.tokenizer = (out_ / folder / "tokenizer.model").string();
    made.model.vocab = 800;
    made.run.threads = 1;
    return made;
  }
  // Without its summary on the console of the tests.
  static void prepare(const Deck& deck) {
    testing::internal::CaptureStdout();
    try {
      const int code = run_prepare(deck);
      std::fflush(stdout);
      testing::internal::GetCapturedStdout();
      EXPECT_EQ(code, 0);
    } catch (...) {
      std::fflush(stdout);
      testing::internal::GetCapturedStdout();
      throw;
    }
  }
  static std::string text_of(const io::TokenFile& file) {
    std::vector<std::int32_t> ids(static_cast<std::size_t>(file.tokens()));
    file.read(0, ids);
    return io::Tokenizer(file.tokenizer(), "stored").decode(ids);
  }
  static std::string text_of(const Deck& deck) {
    std::string text, piece;
    for (const auto& file : io::find_text(deck.data.text)) {
      for (io::TextReader reader(file, true); reader.next(piece);) text += piece;
    }
    return text;
  }
  // Many small documents, enough for whole ones to be held out.
  std::string many_documents(int count) const {
    for (int i = 0; i < count; ++i) {
      write_bytes(out_ / "text" / fmt::format("{:04}.txt", i),
                  fmt::format("This is document {}.\nIt has two lines.\n", i));
    }
    return (out_ / "text").string();
  }

  TemporaryFolder out_;
};

TEST_F(Prepare, the_token_file_holds_the_text_document_by_document) {
  const auto d = deck("a");
  prepare(d);
  const io::TokenFile file(d.data.train);
  EXPECT_EQ(file.documents(), std::ssize(io::find_text(d.data.text)));
  EXPECT_EQ(text_of(file), text_of(d));
  EXPECT_EQ(file.tokenizer(), read_bytes(d.data.tokenizer));
  file.verify();
}

TEST_F(Prepare, one_thread_and_two_write_the_same_bytes) {
  auto one = deck("one"), two = deck("two");
  two.run.threads = 2;
  one.data.valid = (out_ / "one/valid.h5").string();
  two.data.valid = (out_ / "two/valid.h5").string();
  one.data.text = two.data.text = {PG_SOURCE_DIR "/comm", PG_SOURCE_DIR "/io", many_documents(100)};
  prepare(one);
  prepare(two);
  EXPECT_EQ(read_bytes(one.data.train), read_bytes(two.data.train));
  EXPECT_EQ(read_bytes(one.data.valid), read_bytes(two.data.valid));
  EXPECT_EQ(read_bytes(one.data.tokenizer), read_bytes(two.data.tokenizer));
}

TEST_F(Prepare, a_64th_of_the_documents_is_held_out_and_in_one_file_only) {
  auto d = deck("a");
  d.data.text = {many_documents(640)};
  d.data.valid = (out_ / "a/valid.h5").string();
  d.data.tokenizer = "bytes";
  prepare(d);
  const io::TokenFile train(d.data.train), valid(d.data.valid);
  EXPECT_EQ(valid.documents(), 10);
  EXPECT_EQ(train.documents(), 630);
  const auto train_text = text_of(train), valid_text = text_of(valid);
  for (int i = 0; i < 640; ++i) {
    const auto sentence = fmt::format("This is document {}.\n", i);
    const bool in_train = train_text.find(sentence) != std::string::npos;
    const bool in_valid = valid_text.find(sentence) != std::string::npos;
    ASSERT_NE(in_train, in_valid) << i;
    ASSERT_EQ(in_valid, i % 64 == 31) << i;
  }
}

TEST_F(Prepare, one_long_document_gives_slices_to_the_held_out_part) {
  auto d = deck("a");
  std::string text;
  for (int i = 0; text.size() < 2'000'000; ++i) text += fmt::format("line {}\n", i);
  write_bytes(out_ / "long.txt", text);
  d.data.text = {(out_ / "long.txt").string()};
  d.data.valid = (out_ / "a/valid.h5").string();
  d.data.tokenizer = "bytes";
  prepare(d);
  const io::TokenFile train(d.data.train), valid(d.data.valid);
  EXPECT_EQ(train.tokens() + valid.tokens(), std::ssize(text));
  EXPECT_EQ(valid.documents(), 2);
  EXPECT_EQ(train.documents(), 3);
  // The slices, put back where they were taken out, complete the text.
  const auto document = [](const io::TokenFile& file, std::int64_t i) {
    const auto begin = file.document_start(i), end = file.document_start(i + 1);
    return text_of(file).substr(static_cast<std::size_t>(begin),
                                static_cast<std::size_t>(end - begin));
  };
  EXPECT_EQ(document(train, 0) + document(valid, 0) + document(train, 1) + document(valid, 1) +
                document(train, 2),
            text);
}

TEST_F(Prepare, a_text_too_short_to_hold_out_from_is_refused_by_key) {
  auto d = deck("a");
  write_bytes(out_ / "short.txt", "short\n");
  d.data.text = {(out_ / "short.txt").string()};
  d.data.valid = (out_ / "a/valid.h5").string();
  d.data.tokenizer = "bytes";
  expect_error(ExitCode::kDeck, {"data.valid"}, [&] { prepare(d); });
  EXPECT_FALSE(std::filesystem::exists(d.data.train));
}

TEST_F(Prepare, a_second_run_keeps_what_is_there) {
  const auto d = deck("a");
  prepare(d);
  const auto time = std::filesystem::last_write_time(d.data.train);
  prepare(d);
  EXPECT_EQ(std::filesystem::last_write_time(d.data.train), time);
  // A lost tokenizer is taken from the token file.
  const auto model = read_bytes(d.data.tokenizer);
  std::filesystem::remove(d.data.tokenizer);
  prepare(d);
  EXPECT_EQ(read_bytes(d.data.tokenizer), model);
}

TEST_F(Prepare, an_existing_file_of_other_text_or_settings_is_never_overwritten) {
  auto d = deck("a");
  prepare(d);
  const auto before = read_bytes(d.data.train);
  auto other_text = d;
  other_text.data.text.pop_back();
  auto other_split = d;
  other_split.data.valid = (out_ / "a/valid.h5").string();
  auto other_tokenizer = d;
  other_tokenizer.data.tokenizer = "bytes";
  for (const auto& changed : {other_text, other_split, other_tokenizer}) {
    expect_error(ExitCode::kData, {d.data.train, "remove it"}, [&] { prepare(changed); });
  }
  write_bytes(d.data.train, before.substr(0, before.size() - 1));
  expect_error(ExitCode::kData, {d.data.train}, [&] { prepare(d); });
  write_bytes(d.data.train, "not HDF5");
  expect_error(ExitCode::kData, {d.data.train}, [&] { prepare(d); });
  EXPECT_EQ(read_bytes(d.data.train), "not HDF5");
}

TEST_F(Prepare, an_existing_tokenizer_is_taken_and_must_fit_the_model) {
  auto d = deck("a");
  prepare(d);
  auto wider = deck("b");
  wider.data.tokenizer = d.data.tokenizer;
  wider.model.vocab = 5000;
  prepare(wider);
  EXPECT_EQ(io::TokenFile(wider.data.train).vocab(), 800);
  EXPECT_EQ(io::TokenFile(wider.data.train).fingerprint(),
            io::TokenFile(d.data.train).fingerprint());
  auto narrower = deck("c");
  narrower.data.tokenizer = d.data.tokenizer;
  narrower.model.vocab = 799;
  expect_error(ExitCode::kDeck, {"model.vocab: 799", "800"}, [&] { prepare(narrower); });
  // Also when the token file is there already.
  narrower.data.train = d.data.train;
  expect_error(ExitCode::kDeck, {"model.vocab: 799"}, [&] { prepare(narrower); });
}

TEST_F(Prepare, bytes_that_are_not_utf8_are_kept_by_byte_tokens_and_replaced_for_models) {
  const std::string text = "caf\xE9 in Latin-1\n";
  write_bytes(out_ / "latin1.txt", text);
  auto bytes = deck("bytes");
  bytes.data.text = {(out_ / "latin1.txt").string()};
  bytes.data.tokenizer = "bytes";
  prepare(bytes);
  EXPECT_EQ(text_of(io::TokenFile(bytes.data.train)), text);
  auto pieces = deck("pieces");
  pieces.data.text = bytes.data.text;
  prepare(pieces);
  EXPECT_EQ(text_of(io::TokenFile(pieces.data.train)), "caf\xEF\xBF\xBD in Latin-1\n");
}

TEST_F(Prepare, empty_documents_are_left_out) {
  auto d = deck("a");
  write_bytes(out_ / "text/a", "");
  write_bytes(out_ / "text/b", "text\n");
  d.data.text = {(out_ / "text").string()};
  d.data.tokenizer = "bytes";
  prepare(d);
  EXPECT_EQ(io::TokenFile(d.data.train).documents(), 1);
  std::filesystem::remove(out_ / "text/b");
  auto none = deck("b");
  none.data.text = d.data.text;
  none.data.tokenizer = "bytes";
  expect_error(ExitCode::kData, {none.data.train, "no documents"}, [&] { prepare(none); });
}

TEST_F(Prepare, keys_that_cannot_be_meant_are_refused) {
  auto d = deck("a");
  d.data.text.clear();
  expect_error(ExitCode::kDeck, {"data.text"}, [&] { prepare(d); });
  d = deck("a");
  d.data.valid = d.data.train;
  expect_error(ExitCode::kDeck, {"data.valid"}, [&] { prepare(d); });
  d = deck("a");
  d.data.text = {"/nonexistent/*.txt"};
  expect_error(ExitCode::kData, {"/nonexistent/*.txt"}, [&] { prepare(d); });
}

}  // namespace
}  // namespace pg::app

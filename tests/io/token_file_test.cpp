#include "io/token_file.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>

#include <numeric>
#include <thread>

#include "tests/io/token_test_files.h"

namespace pg::io {
namespace {

std::vector<std::int32_t> some_ids(std::int64_t count, std::int64_t vocab) {
  std::vector<std::int32_t> ids(static_cast<std::size_t>(count));
  for (std::int64_t i = 0; i < count; ++i) {
    ids[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(i * 2654435761 % vocab);
  }
  ids.back() = static_cast<std::int32_t>(vocab - 1);
  return ids;
}

std::vector<std::int32_t> all_of(const TokenFile& file) {
  std::vector<std::int32_t> ids(static_cast<std::size_t>(file.tokens()));
  file.read(0, ids);
  return ids;
}

void write_simple(const std::filesystem::path& path, std::int64_t vocab,
                  const std::vector<std::int32_t>& ids, const std::string& tokenizer = "bytes") {
  TokenFileWriter writer(path, vocab, tokenizer, "a test");
  writer.add_document(ids);
  writer.finish();
}

TEST(TokenFile, tokens_come_back_at_every_width) {
  const TemporaryFolder folder;
  for (const std::int64_t vocab : {2, 256, 257, 65536, 65537, INT32_MAX}) {
    const auto ids = some_ids(100'003, vocab);
    TokenFileWriter writer(folder / "t.h5", vocab, "model bytes", "where from");
    writer.append(std::span(ids).first(7));
    writer.append(std::span(ids).subspan(7, 0));
    writer.append(std::span(ids).subspan(7, 70'000));
    writer.end_document();
    writer.add_document(std::span(ids).subspan(70'007));
    EXPECT_EQ(writer.tokens(), 100'003);
    EXPECT_EQ(writer.documents(), 2);
    writer.finish();

    const TokenFile file(folder / "t.h5");
    EXPECT_EQ(file.tokens(), 100'003);
    EXPECT_EQ(file.documents(), 2);
    EXPECT_EQ(file.vocab(), vocab);
    EXPECT_EQ(file.tokenizer(), "model bytes");
    EXPECT_EQ(file.source(), "where from");
    EXPECT_EQ(all_of(file), ids);
    std::vector<std::int32_t> part(9000);
    file.read(60'000, part);
    EXPECT_TRUE(std::equal(part.begin(), part.end(), ids.begin() + 60'000));
    file.verify();
  }
}

TEST(TokenFile, tokens_take_the_fewest_bytes_that_hold_the_vocabulary) {
  const TemporaryFolder folder;
  const std::int64_t n = 50'000, slack = 8192;  // metadata
  for (const auto& [vocab, width] : {std::pair{256, 1}, {257, 2}, {65536, 2}, {65537, 4}}) {
    write_simple(folder / "t.h5", vocab, some_ids(n, vocab));
    const auto bytes = static_cast<std::int64_t>(std::filesystem::file_size(folder / "t.h5"));
    EXPECT_GE(bytes, n * width);
    EXPECT_LE(bytes, n * width + slack);
  }
}

TEST(TokenFile, the_same_tokens_give_the_same_bytes) {
  const TemporaryFolder folder;
  write_simple(folder / "a.h5", 300, some_ids(5000, 300));
  write_simple(folder / "b.h5", 300, some_ids(5000, 300));
  EXPECT_EQ(read_bytes(folder / "a.h5"), read_bytes(folder / "b.h5"));
}

TEST(TokenFile, the_fingerprint_changes_with_any_part) {
  const TemporaryFolder folder;
  const auto fingerprint = [&](std::int64_t vocab, const std::vector<std::int32_t>& ids,
                               const std::string& tokenizer, std::size_t first_document) {
    TokenFileWriter writer(folder / "t.h5", vocab, tokenizer, "a test");
    writer.add_document(std::span(ids).first(first_document));
    writer.add_document(std::span(ids).subspan(first_document));
    writer.finish();
    return TokenFile(folder / "t.h5").fingerprint();
  };
  const auto ids = some_ids(1000, 300);
  auto other = ids;
  other[500] ^= 1;
  const auto base = fingerprint(300, ids, "model", 10);
  EXPECT_EQ(base, fingerprint(300, ids, "model", 10));
  EXPECT_NE(base, fingerprint(301, ids, "model", 10));
  EXPECT_NE(base, fingerprint(300, other, "model", 10));
  EXPECT_NE(base, fingerprint(300, ids, "Model", 10));
  EXPECT_NE(base, fingerprint(300, ids, "model", 11));
}

TEST(TokenFile, threads_may_read_at_once) {
  const TemporaryFolder folder;
  const auto ids = some_ids(200'000, 5000);
  write_simple(folder / "t.h5", 5000, ids);
  const TokenFile file(folder / "t.h5");
  std::vector<int> wrong(4);
  {
    std::vector<std::jthread> threads;
    for (std::size_t t = 0; t < wrong.size(); ++t) {
      threads.emplace_back([&, t] {
        std::vector<std::int32_t> part(1001);
        for (std::size_t i = 0; i < 500; ++i) {
          const auto begin = (i * 7919 + t * 50'021) % 198'000;
          file.read(static_cast<std::int64_t>(begin), part);
          wrong[t] +=
              !std::equal(part.begin(), part.end(), ids.begin() + static_cast<std::int64_t>(begin));
        }
      });
    }
  }
  EXPECT_EQ(wrong, std::vector<int>(4));
}

TEST(TokenFileWriter, nothing_appears_before_finish_or_without_it) {
  const TemporaryFolder folder;
  {
    TokenFileWriter writer(folder / "sub/t.h5", 300, "bytes", "a test");
    writer.add_document(some_ids(1'000'000, 300));
    EXPECT_TRUE(std::filesystem::is_empty(folder / "sub"));
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder / "sub"));
}

TEST(TokenFileWriter, finish_replaces_an_old_file_and_leaves_nothing_else) {
  const TemporaryFolder folder;
  write_bytes(folder / "t.h5", "an old file");
  write_simple(folder / "t.h5", 300, some_ids(10, 300));
  EXPECT_EQ(TokenFile(folder / "t.h5").tokens(), 10);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1);
}

TEST(TokenFileWriter, no_documents_is_refused) {
  const TemporaryFolder folder;
  TokenFileWriter writer(folder / "t.h5", 300, "bytes", "a test");
  expect_error(ExitCode::kData, {"t.h5", "no documents"}, [&] { writer.finish(); });
}

TEST(TokenFileWriter, an_id_outside_the_vocabulary_is_a_bug) {
  const TemporaryFolder folder;
  for (const std::int32_t id : {-1, 300}) {
    TokenFileWriter writer(folder / "t.h5", 300, "bytes", "a test");
    expect_error(ExitCode::kBug, {fmt::format("id {} vocab 300", id)},
                 [&] { writer.append(std::vector{id}); });
  }
}

// A full disk, as a limit on the size of files: the writes past it fail in the same way.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    handler_ = ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{bytes, before_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    ::signal(SIGXFSZ, handler_);
  }

 private:
  rlimit before_{};
  sighandler_t handler_ = SIG_DFL;
};

TEST(TokenFileWriter, a_full_disk_while_tokens_stream_is_a_failed_save) {
  const TemporaryFolder folder;
  const FileSizeLimit limit(1 << 20);
  expect_error(ExitCode::kSave, {"t.h5", "cannot write"}, [&] {
    TokenFileWriter writer(folder / "t.h5", 60'000, "bytes", "a test");
    writer.add_document(some_ids(3'000'000, 60'000));
    writer.finish();
  });
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(TokenFileWriter, a_full_disk_at_the_end_keeps_the_old_file) {
  const TemporaryFolder folder;
  write_simple(folder / "t.h5", 300, some_ids(10, 300));
  const auto old = read_bytes(folder / "t.h5");
  // The scratch file fits, the HDF5 file with its tokenizer does not; at several places.
  for (const rlim_t bytes : {rlim_t{1'000'100}, rlim_t{1'050'000}, rlim_t{1'100'000}}) {
    const FileSizeLimit limit(bytes);
    expect_error(ExitCode::kSave, {"t.h5", "cannot"}, [&] {
      write_simple(folder / "t.h5", 60'000, some_ids(500'000, 60'000), std::string(200'000, 'x'));
    });
  }
  EXPECT_EQ(read_bytes(folder / "t.h5"), old);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1);
}

TEST(TokenFileWriter, a_folder_that_cannot_be_made_is_a_failed_save) {
  const TemporaryFolder folder;
  write_bytes(folder / "file", "in the way");
  expect_error(ExitCode::kSave, {"file"},
               [&] { TokenFileWriter(folder / "file/t.h5", 300, "bytes", "a test"); });
}

}  // namespace
}  // namespace pg::io

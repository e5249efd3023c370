// Token files that storage, a user or a crash has damaged (FAULTS 22): always Error(kData) naming
// the file, and the offset where there is one; nothing clamped, no signal, no hang.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <limits>

#include "io/token_file.h"
#include "tests/io/token_test_files.h"

namespace pg::io {
namespace {

class DamagedTokenFile : public testing::Test {
 protected:
  static constexpr std::int64_t kVocab = 1000, kCount = 500;

  void SetUp() override { write(path_, kCount); }

  // Ids count up from 100 in steps that no metadata has, so that their bytes can be found.
  static std::vector<std::int32_t> ids_of(std::int64_t count) {
    std::vector<std::int32_t> ids;
    for (std::int64_t i = 0; i < count; ++i)
      ids.push_back(static_cast<std::int32_t>(100 + i * 7 % 900));
    return ids;
  }
  static void write(const std::filesystem::path& path, std::int64_t count) {
    const auto ids = ids_of(count);
    TokenFileWriter writer(path, kVocab, "a model", "a test");
    writer.add_document(std::span(ids).first(10));
    writer.add_document(std::span(ids).subspan(10));
    writer.finish();
  }
  // Where the uint16 tokens lie.
  static std::size_t tokens_offset(const std::string& bytes) {
    const std::uint16_t first[4] = {100, 107, 114, 121};
    const auto at = bytes.find(std::string_view(reinterpret_cast<const char*>(first), 8));
    EXPECT_NE(at, std::string::npos);
    return at;
  }
  void expect_refused(std::initializer_list<std::string_view> parts) const {
    std::vector<std::string_view> all(parts);
    all.push_back(path_.native());
    expect_error(ExitCode::kData, {path_.native()}, [&] { TokenFile{path_}; });
    for (const auto part : all) {
      expect_error(ExitCode::kData, {part}, [&] { TokenFile{path_}; });
    }
  }

  TemporaryFolder folder_;
  const std::filesystem::path path_ = folder_ / "tokens.h5";
};

TEST_F(DamagedTokenFile, truncated_at_any_length_it_is_refused) {
  const auto whole = read_bytes(path_);
  for (std::size_t length = 0; length < whole.size(); length += 13) {
    write_bytes(path_, std::string_view(whole).substr(0, length));
    expect_refused({});
  }
  write_bytes(path_, std::string_view(whole).substr(0, whole.size() - 1));
  expect_refused({});
}

// A flipped bit is found when the file is opened or verified, or it lies where nothing is read.
TEST_F(DamagedTokenFile, a_flipped_bit_is_found_or_changes_nothing) {
  const auto whole = read_bytes(path_);
  std::string fingerprint;
  std::vector<std::int32_t> before(kCount), after(kCount);
  {
    const TokenFile file(path_);
    fingerprint = file.fingerprint();
    file.read(0, before);
  }
  std::size_t found = 0;
  for (std::size_t at = 0; at < whole.size(); ++at) {
    auto damaged = whole;
    damaged[at] = static_cast<char>(damaged[at] ^ (1 << at % 8));
    write_bytes(path_, damaged);
    try {
      const TokenFile file(path_);
      file.verify();
      file.read(0, after);
      ASSERT_EQ(after, before) << at;
      ASSERT_EQ(file.fingerprint(), fingerprint) << at;
      ASSERT_EQ(file.tokenizer(), "a model") << at;
      ASSERT_EQ(file.source(), "a test") << at;
    } catch (const Error& error) {
      ASSERT_EQ(static_cast<int>(error.code()), static_cast<int>(ExitCode::kData)) << error.what();
      ASSERT_NE(std::string(error.what()).find(path_.native()), std::string::npos);
      ++found;
    }
  }
  EXPECT_GE(found, kCount * sizeof(std::uint16_t));  // at least every bit of the tokens
}

TEST_F(DamagedTokenFile, a_token_past_the_vocabulary_is_refused_with_its_offset) {
  auto bytes = read_bytes(path_);
  const auto at = tokens_offset(bytes) + 2 * 234;
  const std::uint16_t id = kVocab;
  bytes.replace(at, 2, reinterpret_cast<const char*>(&id), 2);
  write_bytes(path_, bytes);
  const TokenFile file(path_);
  std::vector<std::int32_t> ids(10);
  file.read(224, ids);  // the ten before it
  expect_error(ExitCode::kData,
               {path_.native(), "token 234", fmt::format("byte {}", at), "1000", "vocabulary"},
               [&] { file.read(225, ids); });
  expect_error(ExitCode::kData, {"token 234"}, [&] { file.verify(); });
}

TEST_F(DamagedTokenFile, a_changed_token_inside_the_vocabulary_is_found_by_verify) {
  auto bytes = read_bytes(path_);
  bytes[tokens_offset(bytes) + 2 * 77] ^= 1;
  write_bytes(path_, bytes);
  expect_error(ExitCode::kData, {path_.native(), "/tokens is damaged"},
               [&] { TokenFile(path_).verify(); });
}

TEST_F(DamagedTokenFile, reading_past_the_end_is_refused) {
  const TokenFile file(path_);
  std::vector<std::int32_t> ids(10);
  constexpr auto kMost = std::numeric_limits<std::int64_t>::max();
  file.read(kCount - 10, ids);
  for (const std::int64_t begin :
       {kCount - 9, kCount, std::int64_t{-1}, kMost, kMost - 5, -kMost}) {
    expect_error(ExitCode::kData, {path_.native(), "it has 500"}, [&] { file.read(begin, ids); });
  }
}

// With a mapped file this would be SIGBUS.
TEST_F(DamagedTokenFile, a_file_that_shrinks_in_use_is_an_error_with_the_offset) {
  write(path_, 100'000);
  const auto offset = tokens_offset(read_bytes(path_));
  const TokenFile file(path_);
  std::vector<std::int32_t> ids(1000);
  file.read(99'000, ids);
  std::filesystem::resize_file(path_, 100'000);
  file.read(0, ids);
  expect_error(ExitCode::kData,
               {path_.native(), "shrunk", fmt::format("byte {}", offset + 198'000)},
               [&] { file.read(99'000, ids); });
  expect_error(ExitCode::kData, {path_.native()}, [&] { file.verify(); });
  std::filesystem::resize_file(path_, 0);
  expect_error(ExitCode::kData, {"shrunk"}, [&] { file.read(0, ids); });
}

TEST_F(DamagedTokenFile, a_file_replaced_in_use_is_read_as_it_was) {
  const TokenFile file(path_);
  std::vector<std::int32_t> before(kCount), after(kCount);
  file.read(0, before);
  write(path_, 50);
  file.read(0, after);
  EXPECT_EQ(after, before);
}

TEST_F(DamagedTokenFile, what_is_no_hdf5_file_is_refused) {
  write_bytes(path_, "");
  expect_refused({});
  write_bytes(path_, std::string(10'000, 'x'));
  expect_refused({"no HDF5 file"});
  std::filesystem::remove(path_);
  expect_refused({"No such file"});
  ASSERT_EQ(::mkfifo(path_.c_str(), 0600), 0);
  expect_refused({"not a regular file"});
  std::filesystem::remove(path_);
  std::filesystem::create_directory(path_);
  expect_refused({"not a regular file"});
}

}  // namespace
}  // namespace pg::io

#include "io/text_source.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <zlib.h>

#include "tests/io/token_test_files.h"

namespace pg::io {
namespace {

std::string gzipped(const std::string& text) {
  z_stream stream{};
  EXPECT_EQ(deflateInit2(&stream, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::string out(deflateBound(&stream, text.size()) + 32, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

std::vector<std::string> pieces_of(const std::filesystem::path& path, bool repair = true,
                                   std::size_t piece_bytes = TextReader::kPieceBytes) {
  TextReader reader({path, 0}, repair, piece_bytes);
  std::vector<std::string> pieces;
  for (std::string piece; reader.next(piece);) pieces.push_back(piece);
  EXPECT_EQ(reader.disk_bytes(), static_cast<std::int64_t>(std::filesystem::file_size(path)));
  return pieces;
}

std::string joined(const std::vector<std::string>& pieces) {
  std::string text;
  for (const auto& piece : pieces) text += piece;
  return text;
}

// Lines of many lengths, runs of line feeds, and one line longer than any piece of the tests.
std::string varied_text() {
  std::string text;
  for (int i = 0; i < 3000; ++i) {
    text += std::string(static_cast<std::size_t>(i * 7919 % 90), static_cast<char>('a' + i % 26));
    text += std::string(static_cast<std::size_t>(1 + i % 3), '\n');
    if (i == 1500) {
      for (int k = 0; k < 30000; ++k) text += "\xC3\xA9";
    }
  }
  return text;
}

TEST(TextReader, pieces_join_to_the_text_and_end_where_lines_do) {
  const TemporaryFolder folder;
  const auto text = varied_text();
  write_bytes(folder / "plain", text);
  for (const std::size_t bytes : {4, 37, 1000, 65536, 1 << 18}) {
    const auto pieces = pieces_of(folder / "plain", true, bytes);
    ASSERT_EQ(joined(pieces), text) << bytes;
    for (std::size_t i = 0; i < pieces.size(); ++i) {
      ASSERT_LE(pieces[i].size(), bytes);
      if (bytes < 1000 || i + 1 == pieces.size()) continue;
      const bool at_line = pieces[i].back() == '\n' && pieces[i + 1].front() != '\n';
      const bool in_long_line = pieces[i].find('\n') == std::string::npos;
      ASSERT_TRUE(at_line || in_long_line) << i;
    }
  }
}

TEST(TextReader, gzip_in_one_or_more_members_reads_as_the_plain_text) {
  const TemporaryFolder folder;
  const auto text = varied_text();
  write_bytes(folder / "plain", text);
  write_bytes(folder / "one.gz", gzipped(text));
  write_bytes(folder / "named_txt_all_the_same.txt",
              gzipped(text.substr(0, 1)) + gzipped("") + gzipped(text.substr(1)));
  for (const std::size_t bytes : {37, 4096, 1 << 18}) {
    const auto pieces = pieces_of(folder / "plain", true, bytes);
    EXPECT_EQ(pieces_of(folder / "one.gz", true, bytes), pieces);
    EXPECT_EQ(pieces_of(folder / "named_txt_all_the_same.txt", true, bytes), pieces);
  }
}

TEST(TextReader, empty_files_have_no_piece) {
  const TemporaryFolder folder;
  write_bytes(folder / "plain", "");
  write_bytes(folder / "zipped", gzipped(""));
  EXPECT_TRUE(pieces_of(folder / "plain").empty());
  EXPECT_TRUE(pieces_of(folder / "zipped").empty());
}

TEST(TextReader, a_gzip_file_cut_anywhere_is_refused_with_its_offset) {
  const TemporaryFolder folder;
  const auto whole = gzipped("some text that is long enough to have a block of its own\n");
  for (std::size_t length = 2; length < whole.size(); ++length) {
    write_bytes(folder / "cut.gz", whole.substr(0, length));
    expect_error(ExitCode::kData, {"cut.gz", "cut short", fmt::format("byte {}", length)},
                 [&] { pieces_of(folder / "cut.gz"); });
  }
}

TEST(TextReader, damaged_gzip_data_and_garbage_after_it_are_refused) {
  const TemporaryFolder folder;
  auto damaged = gzipped(varied_text());
  damaged[damaged.size() / 2] ^= 0x10;
  write_bytes(folder / "damaged.gz", damaged);
  expect_error(ExitCode::kData, {"damaged.gz", "damaged gzip", "byte "},
               [&] { pieces_of(folder / "damaged.gz"); });
  write_bytes(folder / "garbage.gz", gzipped("text\n") + "garbage");
  expect_error(ExitCode::kData, {"garbage.gz", "damaged gzip"},
               [&] { pieces_of(folder / "garbage.gz"); });
}

TEST(TextReader, missing_files_folders_and_pipes_are_refused) {
  const TemporaryFolder folder;
  expect_error(ExitCode::kData, {"missing", "No such file"},
               [&] { pieces_of(folder / "missing"); });
  expect_error(ExitCode::kData, {"not a regular file"}, [&] { pieces_of(folder.path()); });
  ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0600), 0);
  expect_error(ExitCode::kData, {"pipe", "not a regular file"},
               [&] { pieces_of(folder / "pipe"); });
}

TEST(Utf8, each_maximal_ill_formed_part_becomes_one_replacement_character) {
  const std::string r = "\xEF\xBF\xBD";
  const struct {
    std::string in, out;
    std::int64_t replaced;
  } cases[] = {
      {"plain", "plain", 0},
      {"\xC3\xA9\xE2\x82\xAC\xF0\x9F\x8C\x8D", "\xC3\xA9\xE2\x82\xAC\xF0\x9F\x8C\x8D", 0},
      {std::string("a\0b", 3), std::string("a\0b", 3), 0},
      {"\x80", r, 1},
      {"\xFF\xFE"
       "a",
       r + r + "a", 2},
      {"\xC0\xAF", r + r, 2},                  // overlong
      {"\xE0\x80\xAF", r + r + r, 3},          // overlong
      {"\xED\xA0\x80", r + r + r, 3},          // surrogate
      {"\xF4\x90\x80\x80", r + r + r + r, 4},  // past U+10FFFF
      {"a\xE2\x82", "a" + r, 1},               // cut short: one part
      {"\xF0\x9F\x8C"
       "b\xC3",
       r + "b" + r, 2},
      {"\xE2\x82\xE2\x82\xAC", r + "\xE2\x82\xAC", 1},
  };
  for (const auto& c : cases) {
    std::string out;
    EXPECT_EQ(repair_utf8(c.in, out), c.replaced);
    EXPECT_EQ(out, c.out);
  }
}

TEST(Utf8, bytes_pass_unchanged_when_repair_is_off) {
  const TemporaryFolder folder;
  const std::string text = "a\xFF\xC3\nb";
  write_bytes(folder / "text", text);
  EXPECT_EQ(joined(pieces_of(folder / "text", false)), text);
  TextReader reader({folder / "text", 0}, true);
  std::string piece;
  ASSERT_TRUE(reader.next(piece));
  EXPECT_EQ(piece, "a\xEF\xBF\xBD\xEF\xBF\xBD\nb");
  EXPECT_EQ(reader.replaced(), 2);
}

class Glob : public testing::Test {
 protected:
  void SetUp() override {
    for (const char* name : {"a.txt", "b.rst.gz", "sub/c.txt", "sub/deep/d.txt", "sub/deep/e.bin",
                             ".hidden/f.txt", "sub/.g.txt", "with[1].txt"}) {
      write_bytes(folder_ / name, "x");
    }
    std::filesystem::create_directory_symlink(folder_.path(), folder_ / "sub/loop");
  }
  std::vector<std::string> found(std::vector<std::string> patterns) {
    for (auto& pattern : patterns) pattern = (folder_ / pattern).string();
    std::vector<std::string> names;
    for (const auto& file : find_text(patterns)) {
      names.push_back(file.path.lexically_relative(folder_.path()).string());
      EXPECT_EQ(file.bytes, 1);
    }
    return names;
  }
  using Names = std::vector<std::string>;
  TemporaryFolder folder_;
};

TEST_F(Glob, patterns_name_files_sorted_and_once) {
  EXPECT_EQ(found({"*.txt"}), (Names{"a.txt", "with[1].txt"}));
  EXPECT_EQ(found({"**/*.txt"}), (Names{"a.txt", "sub/c.txt", "sub/deep/d.txt", "with[1].txt"}));
  EXPECT_EQ(found({"sub/*/d.txt"}), (Names{"sub/deep/d.txt"}));
  EXPECT_EQ(found({"[ab].*"}), (Names{"a.txt", "b.rst.gz"}));
  EXPECT_EQ(found({"sub/c.txt", "a.txt", "sub/../a.txt", "*.txt"}),
            (Names{"a.txt", "sub/c.txt", "with[1].txt"}));
  EXPECT_EQ(found({"with[1].txt"}), (Names{"with[1].txt"}));
  EXPECT_EQ(found({"sub/.*.txt"}), (Names{"sub/.g.txt"}));
}

TEST_F(Glob, folders_are_walked_without_following_links_to_folders) {
  const Names below = {"sub/c.txt", "sub/deep/d.txt", "sub/deep/e.bin"};
  EXPECT_EQ(found({"sub"}), below);
  EXPECT_EQ(found({"sub/"}), below);
  EXPECT_EQ(found({"sub/**"}), below);
}

TEST_F(Glob, a_pattern_that_names_nothing_is_refused_with_its_text) {
  expect_error(ExitCode::kData, {"data.text", "*.nothing"}, [&] { found({"a.txt", "*.nothing"}); });
  expect_error(ExitCode::kData, {"no such file", "absent.txt"}, [&] { found({"absent.txt"}); });
  expect_error(ExitCode::kData, {"data.text"}, [&] { find_text(Names{""}); });
  std::filesystem::create_directory(folder_ / "empty");
  expect_error(ExitCode::kData, {"empty"}, [&] { found({"empty"}); });
}

}  // namespace
}  // namespace pg::io

// The manifest's text: one legal form; and the chunks that it digests.
#include "io/manifest.h"

#include <fcntl.h>
#include <unistd.h>

#include "checkpoint_state.h"
#include "io/checkpoint_entry.h"
#include "io/files.h"

namespace pg::io {
namespace {

namespace fs = std::filesystem;

Manifest example() {
  return {.step = 12,
          .files = {{"deck.toml", 3, {digest_of_text("abc")}},
                    {"run.json", 0, {}},
                    {"state.h5",
                     2 * kChunkBytes + 1,
                     {digest_of_text("a"), digest_of_text("b"), digest_of_text("c")}}}};
}

std::string refused(const std::string& text) {
  return error_of(ExitCode::kCheckpoint, [&] { parse_manifest(text, "m"); });
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const auto at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

// `text` with a digest of its own that is right: what refuses it is something else.
std::string sealed(const std::string& text) {
  const std::string last = "  \"xxh3_128_of_the_bytes_above\": \"";
  const auto above = text.substr(0, text.find(last));
  return above + last + digest_of_text(above) + "\"\n}\n";
}

TEST(CheckpointManifest, digests_are_those_of_the_xxhsum_tool) {
  // The digest of nothing, from the reference implementation's own test vectors.
  EXPECT_EQ(digest_of_text(""), "99aa06d3014798d86001c324468d497f");
}

TEST(CheckpointManifest, a_rendered_manifest_is_parsed_back) {
  const auto parsed = parse_manifest(render_manifest(example()), "m");
  EXPECT_EQ(parsed.step, 12);
  ASSERT_EQ(parsed.files.size(), 3u);
  for (std::size_t f = 0; f < 3; ++f) {
    EXPECT_EQ(parsed.files[f].name, example().files[f].name);
    EXPECT_EQ(parsed.files[f].bytes, example().files[f].bytes);
    EXPECT_EQ(parsed.files[f].chunks, example().files[f].chunks);
  }
  EXPECT_EQ(parsed.bytes(), 3 + 2 * kChunkBytes + 1);
  EXPECT_EQ(sealed(render_manifest(example())), render_manifest(example()));
}

TEST(CheckpointManifest, any_other_text_of_the_same_values_is_refused) {
  const auto text = render_manifest(example());
  refused("");
  refused(text + "\n");
  refused(text.substr(0, text.size() - 1));
  refused(" " + text);
  // Upper-case digits, in the list and in its own digest.
  auto upper = text;
  for (auto& c : upper) c = static_cast<char>(c == 'a' || c == 'b' ? std::toupper(c) : c);
  refused(upper);
  for (const auto& [from, to] : std::vector<std::pair<std::string, std::string>>{
           {": ", ":  "},
           {"\"step\": 12", "\"step\": 012"},
           {"\"step\": 12", "\"step\": +12"},
           {"\"step\": 12", "\"step\": -12"},
           {"\"step\": 12", "\"step\": 12.0"},
           {"\"step\": 12", "\"step\": 99999999999999999999"},
           {"\"step\": 12", "\"step\": \"12\""},
           {"deck.toml", "deck\\u002etoml"},
           {"deck.toml", "deck\xff.toml"},
           {"[\"", "[\n      \""},  // one digest, on a line of its own
           {",\n      \"", ",\""},  // several, on one line
           {"\"run.json\", ", "\"run.json\", \"more\": 1, "}}) {
    refused(sealed(replaced(text, from, to)));
  }
}

TEST(CheckpointManifest, every_flipped_bit_of_its_text_is_found) {
  const auto text = render_manifest(example());
  for (std::size_t at = 0; at < text.size(); ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      auto flipped = text;
      flipped[at] = static_cast<char>(flipped[at] ^ (1 << bit));
      refused(flipped);
    }
  }
}

TEST(CheckpointManifest, chunks_that_do_not_add_up_to_the_file_are_refused) {
  auto manifest = example();
  manifest.files[2].chunks.pop_back();
  expect_contains(refused(render_manifest(manifest)), "3 chunks of 16777216 bytes, not 2");
  manifest = example();
  manifest.files[1].chunks = {digest_of_text("")};
  expect_contains(refused(render_manifest(manifest)), "run.json of 0 bytes has 0 chunks");
  // A promise of 2^63 bytes costs a digest for each 16 MiB, or is refused before any memory.
  manifest = example();
  manifest.files[2].bytes = std::numeric_limits<std::int64_t>::max();
  expect_contains(refused(render_manifest(manifest)), "has 549755813888 chunks");
  manifest = example();
  manifest.files[2].chunks[1] = "abc";
  expect_contains(refused(render_manifest(manifest)), "damaged");
}

TEST(CheckpointManifest, other_versions_are_refused_by_their_number) {
  const auto text = render_manifest(example());
  expect_contains(refused(sealed(replaced(text, "\"version\": 2", "\"version\": 1"))),
                  "is a manifest of version 1; this program reads version 2 only");
  expect_contains(refused(sealed(replaced(text, "\"version\": 2", "\"version\": 3"))), "version 3");
  expect_contains(refused(sealed(replaced(text, "16777216", "16777215"))), "damaged");
}

TEST(CheckpointManifest, no_file_outside_the_entry_can_be_named) {
  for (const auto* name : {"../state.h5", "/etc/passwd", ".", "..", "", "a/b"}) {
    auto manifest = example();
    manifest.files[0].name = name;
    expect_contains(refused(render_manifest(manifest)), "outside the entry");
  }
}

// Chunk by chunk what one digest of the whole piece gives, for every size around a chunk's border.
TEST(CheckpointManifest, chunks_are_consecutive_pieces_of_16_mib_and_the_last_is_the_rest) {
  const auto group = comm::make_self_group("test");
  const TestDirectory directory(*group);
  const auto path = directory.path() / "file";
  std::string bytes(static_cast<std::size_t>(2 * kChunkBytes + 1), '\0');
  for (std::size_t i = 0; i < bytes.size(); i += 977) bytes[i] = static_cast<char>(i / 977);
  put_bytes(path, bytes);
  for (const auto size :
       {2 * kChunkBytes + 1, 2 * kChunkBytes, 2 * kChunkBytes - 1, kChunkBytes + 1, kChunkBytes,
        kChunkBytes - 1, std::int64_t{1}, std::int64_t{0}}) {
    fs::resize_file(path, static_cast<std::uintmax_t>(size));
    const auto file = measure_files(directory, 1, {"file"}, ExitCode::kSave).files.at(0);
    EXPECT_EQ(file.bytes, size);
    ASSERT_EQ(std::ssize(file.chunks), (size + kChunkBytes - 1) / kChunkBytes) << size;
    for (std::int64_t c = 0; c < std::ssize(file.chunks); ++c) {
      const auto begin = c * kChunkBytes, end = std::min(size, begin + kChunkBytes);
      const auto piece = std::string_view(bytes).substr(static_cast<std::size_t>(begin),
                                                        static_cast<std::size_t>(end - begin));
      EXPECT_EQ(file.chunks[static_cast<std::size_t>(c)], digest_of_text(piece))
          << size << " " << c;
      EXPECT_EQ(chunk_digests(path, c, 1, ExitCode::kSave).at(0), digest_of_text(piece));
    }
    expect_contains(
        error_of(ExitCode::kSave,
                 [&] { chunk_digests(path, 0, chunk_count(size) + 1, ExitCode::kSave); }),
        "ends at byte");
  }
}

TEST(CheckpointManifest, damage_is_named_by_its_chunk_and_bytes) {
  const auto group = comm::make_self_group("test");
  const TestDirectory directory(*group);
  const auto path = directory.path() / "file";
  put_bytes(path, std::string(static_cast<std::size_t>(2 * kChunkBytes + 100), 'x'));
  const auto file = measure_files(directory, 1, {"file"}, ExitCode::kSave).files.at(0);
  compare_chunks(directory, file, 0, 3);
  const std::pair<std::int64_t, const char*> places[] = {
      {0, "chunk 1 of 3 (bytes 0 to 16777215)"},
      {kChunkBytes - 1, "chunk 1 of 3 (bytes 0 to 16777215)"},
      {kChunkBytes, "chunk 2 of 3 (bytes 16777216 to 33554431)"},
      {2 * kChunkBytes - 1, "chunk 2 of 3 (bytes 16777216 to 33554431)"},
      {2 * kChunkBytes, "chunk 3 of 3 (bytes 33554432 to 33554531)"},
      {2 * kChunkBytes + 99, "chunk 3 of 3 (bytes 33554432 to 33554531)"}};
  const int fd = ::open(path.c_str(), O_WRONLY);
  for (const auto& [at, where] : places) {
    ASSERT_EQ(::pwrite(fd, "y", 1, at), 1);
    expect_contains(error_of(ExitCode::kCheckpoint, [&] { compare_chunks(directory, file, 0, 3); }),
                    where);
    ASSERT_EQ(::pwrite(fd, "x", 1, at), 1);
  }
  ::close(fd);
  compare_chunks(directory, file, 0, 3);
}

}  // namespace
}  // namespace pg::io

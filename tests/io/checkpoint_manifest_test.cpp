// The manifest's text: one legal form.
#include "io/manifest.h"

#include "checkpoint_state.h"
#include "io/files.h"

namespace pg::io {
namespace {

Manifest example() {
  return {.step = 12,
          .files = {{"deck.toml", 3, digest_of_text("abc")}, {"run.json", 0, digest_of_text("")}}};
}

TEST(CheckpointManifest, digests_are_those_of_the_xxhsum_tool) {
  // The digest of nothing, from the reference implementation's own test vectors.
  EXPECT_EQ(digest_of_text(""), "99aa06d3014798d86001c324468d497f");
}

TEST(CheckpointManifest, a_rendered_manifest_is_parsed_back) {
  const auto parsed = parse_manifest(render_manifest(example()), "m");
  EXPECT_EQ(parsed.step, 12);
  ASSERT_EQ(parsed.files.size(), 2u);
  EXPECT_EQ(parsed.files[0].name, "deck.toml");
  EXPECT_EQ(parsed.files[0].bytes, 3);
  EXPECT_EQ(parsed.bytes(), 3);
}

TEST(CheckpointManifest, any_other_text_of_the_same_values_is_refused) {
  const auto text = render_manifest(example());
  const auto refused = [](const std::string& other) {
    error_of(ExitCode::kCheckpoint, [&] { parse_manifest(other, "m"); });
  };
  refused("");
  refused(text + "\n");
  refused(text.substr(0, text.size() - 1));
  refused(" " + text);
  // Upper-case digits, in the list and in its own digest.
  auto upper = text;
  for (auto& c : upper) c = static_cast<char>(c == 'a' || c == 'b' ? std::toupper(c) : c);
  refused(upper);
  auto spaced = text;
  spaced.replace(spaced.find(": "), 2, ":  ");
  refused(spaced);
}

TEST(CheckpointManifest, no_file_outside_the_entry_can_be_named) {
  for (const auto* name : {"../state.h5", "/etc/passwd", ".", "..", "", "a/b"}) {
    auto manifest = example();
    manifest.files[0].name = name;
    expect_contains(
        error_of(ExitCode::kCheckpoint, [&] { parse_manifest(render_manifest(manifest), "m"); }),
        "outside the entry");
  }
}

}  // namespace
}  // namespace pg::io

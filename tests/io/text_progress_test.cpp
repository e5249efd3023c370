#include <gtest/gtest.h>

#include "io/progress.h"
#include "tests/io/token_test_files.h"

namespace pg::io {
namespace {

TEST(Progress, the_line_shows_share_and_remaining_time) {
  EXPECT_EQ(Progress::line("encoding", 0.5, 10, 79),
            "encoding [###############...............]  50%  10 s left");
  EXPECT_EQ(Progress::line("encoding", 0.25, 60, 79),
            "encoding [#######.......................]  25%  3 min 00 s left");
  EXPECT_EQ(Progress::line("encoding", 0.1, 1000, 79),
            "encoding [###...........................]  10%  2 h 30 min left");
}

TEST(Progress, no_time_is_guessed_from_the_first_moment) {
  EXPECT_EQ(Progress::line("x", 0.001, 0.1, 79), "x [..............................]   0%");
  EXPECT_EQ(Progress::line("x", 0, 100, 79), "x [..............................]   0%");
}

TEST(Progress, the_line_never_wraps_and_never_passes_its_end) {
  for (int width = 0; width < 80; ++width) {
    EXPECT_LE(Progress::line("encoding", 0.3, 10, width).size(), static_cast<std::size_t>(width));
    EXPECT_LE(Progress::line("a label alone", -1, 10, width).size(),
              static_cast<std::size_t>(width));
  }
  EXPECT_EQ(Progress::line("x", 1.5, 10, 79), "x [##############################] 100%  0 s left");
}

TEST(Progress, nothing_is_drawn_where_no_terminal_is) {
  const TemporaryFolder folder;
  std::FILE* out = std::fopen((folder / "out").c_str(), "w");
  ASSERT_NE(out, nullptr);
  {
    Progress progress("label", 10, out);
    progress.update(5);
  }
  std::fclose(out);
  EXPECT_EQ(read_bytes(folder / "out"), "");
}

}  // namespace
}  // namespace pg::io

#include "comm/error.h"

#include <gtest/gtest.h>

#include <string>

#include "comm/grid_shape.h"
#include "comm/group.h"

namespace pg {
namespace {

template <class Work>
Error error_of(Work work) {
  try {
    work();
  } catch (const Error& error) {
    return error;
  }
  return Error(ExitCode::kDone, "nothing was thrown");
}

TEST(error, exit_codes_are_the_published_ones) {
  const std::pair<ExitCode, int> published[] = {
      {ExitCode::kDone, 0}, {ExitCode::kBug, 1},        {ExitCode::kDeck, 2},
      {ExitCode::kData, 3}, {ExitCode::kCheckpoint, 4}, {ExitCode::kSave, 5},
      {ExitCode::kComm, 6}, {ExitCode::kNumerical, 7},  {ExitCode::kStopped, 75}};
  for (const auto& [code, number] : published) EXPECT_EQ(static_cast<int>(code), number);
}

TEST(error, carries_code_message_and_one_rank) {
  const Error error = fail(ExitCode::kData, "{}: token {} at offset {}", "a.h5", 7, 12);
  EXPECT_EQ(error.code(), ExitCode::kData);
  EXPECT_STREQ(error.what(), "a.h5: token 7 at offset 12");
  EXPECT_EQ(error.ranks(), 1);
}

TEST(error, failed_assertion_gives_path_in_the_tree_line_expression_and_values) {
  const int rows = 3;
  const int line = __LINE__ + 1;
  const Error error = error_of([&] { PG_ASSERT(rows == 4, "rows {} of {{4}}", rows); });
  EXPECT_EQ(error.code(), ExitCode::kBug);
  EXPECT_EQ(std::string(error.what()),
            fmt::format("bug: tests/comm/error_test.cpp:{}: rows == 4 is "
                        "false (rows 3 of {{4}})",
                        line));
}

TEST(error, failed_assertion_in_the_library_names_its_file) {
  const Error error = error_of([] { (void)comm::GridShape(2, 1, 0, 1, 1); });
  EXPECT_TRUE(std::string(error.what()).starts_with("bug: comm/grid_shape.cpp:")) << error.what();
  const auto group = comm::make_self_group("alone");
  const Error in_header = error_of([&] { (void)group->broadcast({}, 1); });
  EXPECT_TRUE(std::string(in_header.what()).starts_with("bug: comm/group_checks.h:"))
      << in_header.what();
}

TEST(error, paths_outside_the_tree_stay_whole) {
  const Error error =
      error_of([] { detail::assertion_failed("/elsewhere/comm/x.cpp", 5, "a < b", "a 2 b 1"); });
  EXPECT_STREQ(error.what(), "bug: /elsewhere/comm/x.cpp:5: a < b is false (a 2 b 1)");
}

TEST(error, assertion_that_holds_evaluates_no_message) {
  int evaluated = 0;
  PG_ASSERT(true, "{}", ++evaluated);
  EXPECT_EQ(evaluated, 0);
}

}  // namespace
}  // namespace pg

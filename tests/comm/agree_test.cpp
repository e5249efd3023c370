#include "comm/agree.h"

#include <gtest/gtest.h>

#include <optional>
#include <stdexcept>

#include "comm/error.h"
#include "comm/mpi_session.h"

namespace pg::comm {
namespace {

std::unique_ptr<Group> world() {
  const auto communicator = Communicator::world();
  return make_mpi_group(communicator.split(0, communicator.rank()), "world");
}

std::optional<Error> thrown_by(Group& group, const std::function<void()>& work) {
  try {
    together(group, work);
    return std::nullopt;
  } catch (const Error& error) {
    return error;
  }
}

std::string prefix(const Group& group, int rank) {
  return group.size() == 1 ? "" : fmt::format("rank {} ({}): ", rank, host_name());
}

constexpr ExitCode kCodes[] = {ExitCode::kDeck, ExitCode::kData, ExitCode::kCheckpoint,
                               ExitCode::kSave, ExitCode::kComm, ExitCode::kNumerical};

TEST(together, passes_when_nobody_throws) {
  const auto group = world();
  int runs = 0;
  EXPECT_FALSE(thrown_by(*group, [&] { ++runs; }));
  EXPECT_EQ(runs, 1);
}

TEST(together, any_set_of_failing_ranks_becomes_the_lowest_ones_error_on_all) {
  const auto group = world();
  for (unsigned failing = 1; failing < (1u << group->size()); ++failing) {
    const int lowest = std::countr_zero(failing);
    const auto error = thrown_by(*group, [&] {
      if (((failing >> group->rank()) & 1u) == 0) return;
      throw fail(kCodes[group->rank()], "file {} of {}", group->rank(), failing);
    });
    ASSERT_TRUE(error);
    ASSERT_EQ(error->code(), kCodes[lowest]);
    ASSERT_EQ(std::string(error->what()),
              prefix(*group, lowest) + fmt::format("file {} of {}", lowest, failing));
    ASSERT_EQ(error->ranks(), group->size());
  }
}

TEST(together, other_exceptions_are_bugs_with_their_text) {
  const auto group = world();
  const int last = group->size() - 1;
  const auto standard = thrown_by(*group, [&] {
    if (group->rank() == last) throw std::out_of_range("index 7");
  });
  ASSERT_TRUE(standard);
  EXPECT_EQ(standard->code(), ExitCode::kBug);
  EXPECT_EQ(std::string(standard->what()), prefix(*group, last) + "index 7");

  const auto foreign = thrown_by(*group, [&] {
    if (group->rank() == last) throw 42;
  });
  ASSERT_TRUE(foreign);
  EXPECT_EQ(foreign->code(), ExitCode::kBug);
  EXPECT_EQ(foreign->ranks(), group->size());
}

TEST(together, error_without_text_or_with_code_zero_still_fails) {
  const auto group = world();
  const auto silent = thrown_by(*group, [&] {
    if (group->rank() == 0) throw Error(ExitCode::kData, "");
  });
  ASSERT_TRUE(silent);
  EXPECT_EQ(silent->code(), ExitCode::kData);
  const auto zero = thrown_by(*group, [&] {
    if (group->rank() == 0) throw Error(ExitCode::kDone, "done?");
  });
  ASSERT_TRUE(zero);
  EXPECT_EQ(zero->code(), ExitCode::kBug);
}

TEST(together, long_messages_arrive_whole) {
  const auto group = world();
  const std::string text(100'000, 'x');
  const auto error = thrown_by(*group, [&] {
    if (group->rank() == group->size() - 1) throw Error(ExitCode::kDeck, text);
  });
  ASSERT_TRUE(error);
  EXPECT_EQ(std::string(error->what()), prefix(*group, group->size() - 1) + text);
}

TEST(together, nested_agreement_names_the_rank_once_and_reaches_all_ranks) {
  const auto outer = world();
  // The last part of two fails inside; then everybody must know.
  const auto communicator = Communicator::world();
  const int half = communicator.rank() * 2 / communicator.size();
  const auto inner = make_mpi_group(communicator.split(half, communicator.rank()), "half");
  const int failing = communicator.size() == 1 ? 0 : 1;
  const auto error = thrown_by(*outer, [&] {
    together(*inner, [&] {
      if (half == failing) throw fail(ExitCode::kData, "half {}", half);
    });
  });
  ASSERT_TRUE(error);
  EXPECT_EQ(error->code(), ExitCode::kData);
  EXPECT_EQ(error->ranks(), outer->size());
  EXPECT_TRUE(std::string(error->what()).ends_with(fmt::format("half {}", failing)));

  const auto twice = thrown_by(*outer, [&] {
    together(*outer, [&] {
      if (outer->rank() == 0) throw fail(ExitCode::kData, "once");
    });
  });
  ASSERT_TRUE(twice);
  EXPECT_EQ(std::string(twice->what()), prefix(*outer, 0) + "once");
}

TEST(together, group_is_usable_after_a_failure) {
  const auto group = world();
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(thrown_by(*group, [&] {
      if (group->rank() == i % group->size()) throw fail(ExitCode::kData, "{}", i);
    }));
    EXPECT_EQ(all_reduce(*group, std::int64_t{1}, ReduceOp::kSum), group->size());
  }
}

}  // namespace
}  // namespace pg::comm

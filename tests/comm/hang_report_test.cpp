// What the report says of ranks in made-up states.
#include "comm/hang_report.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

namespace pg::comm {
namespace {

std::vector<int> ranks_below(int n) {
  std::vector<int> all(static_cast<std::size_t>(n));
  std::iota(all.begin(), all.end(), 0);
  return all;
}

Heartbeat::Group group(const std::string& name, std::uint64_t issued, std::vector<int> members) {
  return {name, 0, issued, std::move(members)};
}

// A rank that computes; it has begun `issued` collectives on `in`.
RankView computing(int rank, const Heartbeat::Group& in) {
  RankView view;
  view.rank = rank;
  auto& h = view.last.emplace();
  h.rank = rank;
  h.host = "n" + std::to_string(rank / 4);
  h.step = 40;
  h.place = "step 40 > update";
  h.site = "app/trainer.cpp:157";
  h.groups.push_back(in);
  return view;
}

RankView waiting(int rank, const Heartbeat::Group& in, const char* operation = "all_reduce") {
  auto view = computing(rank, in);
  view.last->operation = operation;
  view.last->group = in;
  view.last->number = in.issued;
  return view;
}

RankView silent(RankView view) {
  view.silent = true;
  view.silent_s = 11.6;
  return view;
}

TEST(HangReport, names_a_silent_rank_though_it_had_arrived) {
  const auto at = [](std::uint64_t issued) { return group("dp", issued, ranks_below(3)); };
  const auto report =
      hang_report({waiting(0, at(311)), waiting(1, at(311)), silent(waiting(2, at(311)))}, 12.3);
  EXPECT_EQ(report,
            "run.watchdog: no rank came on for 12 s: step 40, all_reduce #311 on group dp: waiting "
            "for rank 2 (n0)\n"
            "  rank 2 (n0): not arrived: no heartbeat for 12 s: stopped or gone; last all_reduce "
            "#311 on group dp, in step 40 > update at app/trainer.cpp:157, step 40\n"
            "  ranks 0-1 (n0): arrived: all_reduce #311 on group dp, in step 40 > update at "
            "app/trainer.cpp:157, step 40\n");
}

TEST(HangReport, a_rank_that_went_on_has_arrived_and_one_behind_has_not) {
  const auto at = [](std::uint64_t issued) { return group("tp", issued, ranks_below(4)); };
  const auto text = hang_headline(
      {waiting(0, at(7)), computing(1, at(6)), computing(2, at(7)), computing(3, at(9))}, 5);
  EXPECT_NE(text.find("all_reduce #7 on group tp: waiting for rank 1 (n0)"), std::string::npos)
      << text;
}

// 0 waits for 1 on dp, 1 for 2 on pp: 2 is the cause.
TEST(HangReport, follows_a_chain_of_waits_to_its_cause) {
  auto one = waiting(1, group("pp", 4, {1, 2}), "recv");
  one.last->number = 0;
  one.last->peer = 2;
  one.last->groups.push_back(group("dp", 8, {0, 1}));
  const std::vector<RankView> ranks{waiting(0, group("dp", 9, {0, 1})), one,
                                    computing(2, group("pp", 4, {1, 2}))};
  const auto text = hang_headline(ranks, 5);
  EXPECT_NE(text.find("recv from rank 2 on group pp: waiting for rank 2 (n0)"), std::string::npos)
      << text;
}

TEST(HangReport, ranks_that_wait_for_each_other_are_named) {
  auto zero = waiting(0, group("dp", 3, {0, 1}));
  auto one = waiting(1, group("tp", 5, {0, 1}));
  zero.last->groups.push_back(group("tp", 4, {0, 1}));
  one.last->groups.push_back(group("dp", 2, {0, 1}));
  const auto text = hang_headline({zero, one}, 5);
  EXPECT_NE(text.find("all_reduce #3 on group dp: waiting for rank 1"), std::string::npos) << text;
}

TEST(HangReport, when_all_have_arrived_the_network_is_blamed) {
  const auto at = group("dp", 3, {0, 1});
  const auto text = hang_headline({waiting(0, at), waiting(1, at)}, 5);
  EXPECT_NE(text.find("all its ranks arrived"), std::string::npos) << text;
}

TEST(HangReport, says_which_file_and_which_rank_never_wrote) {
  auto reader = computing(0, group("dp", 3, {0, 1}));
  reader.last->operation = "reading";
  reader.last->file = "data/train.h5";
  RankView gone;
  gone.rank = 1;
  const auto report = hang_report({reader, gone}, 5);
  EXPECT_NE(report.find("rank 0 (n0): reading data/train.h5, in step 40"), std::string::npos);
  EXPECT_NE(report.find("rank 1 (host unknown): no heartbeat: gone"), std::string::npos) << report;
}

TEST(HangReport, many_ranks_fit_on_a_screen) {
  const auto at = [](std::uint64_t issued) { return group("world", issued, ranks_below(1000)); };
  std::vector<RankView> ranks;
  for (int r = 0; r < 1000; ++r) ranks.push_back(waiting(r, at(5)));
  ranks[700] = silent(computing(700, at(4)));
  const auto folded = hang_report(ranks, 5);
  EXPECT_EQ(std::ranges::count(folded, '\n'), 3) << folded;
  EXPECT_NE(folded.find("  ranks 0-699, 701-999 (n0, n1, n2, n3 and 246 more hosts): arrived"),
            std::string::npos)
      << folded;

  for (int r = 0; r < 1000; ++r) ranks[static_cast<std::size_t>(r)].last->step = r;
  const auto cut = hang_report(ranks, 5);
  EXPECT_EQ(std::ranges::count(cut, '\n'), 17) << cut;
  EXPECT_LT(cut.find("rank 700 (n175): not arrived"), cut.find("rank 0 (n0)"));
  EXPECT_NE(cut.find("  and 985 more ranks\n"), std::string::npos) << cut;
}

TEST(Heartbeat, lists_ranks_by_their_ranges) {
  EXPECT_EQ(ranks_text({}), "");
  EXPECT_EQ(ranks_text({3}), "3");
  EXPECT_EQ(ranks_text({0, 1, 2, 5, 7, 8}), "0-2, 5, 7-8");
}

}  // namespace
}  // namespace pg::comm

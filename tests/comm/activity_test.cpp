// Marks of what the process does, as a monitor reads them.
#include "comm/activity.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "comm/heartbeat.h"
#include "comm/mpi_session.h"
#include "comm/profile_range.h"

namespace pg::comm {
namespace {

TEST(Activity, places_nest_and_name_their_line) {
  const Place outer("outer", 3);
  {
    const ProfileRange inner("inner");
    const auto record = activity_record();
    ASSERT_EQ(record.places.size(), 2U);
    EXPECT_STREQ(record.places[0].name, "outer");
    EXPECT_EQ(record.places[0].index, 3);
    EXPECT_EQ(site_text(record.places[1].file, record.places[1].line),
              "tests/comm/activity_test.cpp:" + std::to_string(__LINE__ - 6));
  }
  EXPECT_EQ(activity_record().places.size(), 1U);
}

TEST(Activity, places_beyond_the_depth_that_is_recorded_are_counted) {
  {
    const Place a("1"), b("2"), c("3"), d("4"), e("5"), f("6"), g("7"), h("8"), i("9");
    ASSERT_EQ(activity_record().places.size(), static_cast<std::size_t>(kPlaces));
    EXPECT_STREQ(activity_record().places.back().name, "8");
  }
  EXPECT_EQ(activity_record().places.size(), 0U);
}

TEST(Activity, a_wait_is_known_while_it_lasts_and_adds_up) {
  const GroupActivity group("dp", {4, 7});
  const auto before = waited_seconds();
  const auto number = group.issue();
  EXPECT_EQ(number, 1U);
  {
    const Waiting waiting(group, "all_reduce", number);
    // Part of the one around it.
    const Waiting part("the GPU");
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    const auto record = activity_record();
    EXPECT_STREQ(record.operation, "all_reduce");
    EXPECT_EQ(record.group, group.id());
    EXPECT_EQ(record.number, 1U);
    EXPECT_GE(record.operation_s, 0.02);
    EXPECT_EQ(waited_seconds(), before);
  }
  EXPECT_EQ(activity_record().operation, nullptr);
  EXPECT_GE(waited_seconds(), before + 0.02);
}

TEST(Activity, a_file_is_named_by_the_end_of_its_path) {
  const std::string path = std::string(1000, 'd') + "/name.h5";
  const FileOperation file("reading", path);
  const auto record = activity_record();
  EXPECT_STREQ(record.operation, "reading");
  EXPECT_EQ(record.path, path.substr(path.size() - 8 * kPathWords));
}

TEST(Activity, marks_are_progress_and_those_of_other_threads_are_not) {
  const auto count = [](auto work) {
    const auto before = progress_count();
    work();
    return progress_count() - before;
  };
  EXPECT_GT(count([] { const Place place("here"); }), 0U);
  EXPECT_EQ(count([] {}), 0U);
  EXPECT_EQ(count([] { std::thread([] { const Place place("there"); }).join(); }), 0U);
  EXPECT_EQ(count([] { std::thread(note_progress).join(); }), 1U);
}

// The fields of one record belong together, whenever it is read.
TEST(Activity, a_monitor_never_reads_half_a_change) {
  const GroupActivity one("one", {0}), two("two", {1});
  std::atomic<bool> stop{false};
  std::thread monitor([&] {
    for (int i = 0; i < 20000; ++i) {
      const auto record = activity_record();
      if (record.operation == nullptr) continue;
      const bool of_one = record.group == one.id();
      EXPECT_STREQ(record.operation, of_one ? "first" : "second");
      EXPECT_EQ(record.number, of_one ? 11U : 22U);
    }
    stop = true;
  });
  while (!stop) {
    { const Waiting waiting(one, "first", 11); }
    { const Waiting waiting(two, "second", 22); }
  }
  monitor.join();
}

TEST(Activity, groups_number_their_collectives_alike_on_all_ranks) {
  const auto world = Communicator::world();
  const auto group = make_mpi_group(world, "numbers");
  const auto issued = [&] {
    for (const auto& record : activity_groups()) {
      if (record.name == "numbers") return record;
    }
    return GroupRecord{};
  };
  EXPECT_EQ(issued().members, world.world_ranks());
  group->barrier();
  double value = 1;
  if (group->rank() == 0) group->send({&value, 1, DType::kF64}, 1, 0).wait();
  if (group->rank() == 1) group->recv({&value, 1, DType::kF64}, 0, 0).wait();
  EXPECT_EQ(all_reduce(*group, value, ReduceOp::kSum), 2);
  EXPECT_EQ(issued().issued, 2U);  // the message has no number
}

TEST(Heartbeat, reads_back_what_it_wrote) {
  const GroupActivity group("dp*ep of 2", {0, 1, 2, 5});
  const Place place("step", 12);
  const Waiting waiting(group, "reduce_scatter", 41);
  note_step(12);
  const auto wrote = current_heartbeat(3, 17, 2.5);
  const auto read = parse_heartbeat(heartbeat_text(wrote) + "what a longer one left");
  ASSERT_TRUE(read);
  EXPECT_EQ(read->rank, 3);
  EXPECT_EQ(read->host, host_name());
  EXPECT_EQ(read->beat, 17U);
  EXPECT_EQ(read->idle_s, 2.5);
  EXPECT_EQ(read->step, 12);
  EXPECT_EQ(read->place, "step 12");
  EXPECT_EQ(read->operation, "reduce_scatter");
  EXPECT_EQ(read->number, 41U);
  ASSERT_TRUE(read->group);
  EXPECT_EQ(read->group->name, "dp*ep of 2");
  EXPECT_EQ(read->group->members, (std::vector<int>{0, 1, 2, 5}));
  EXPECT_EQ(read->groups.size(), wrote.groups.size());
  EXPECT_TRUE(read->groups.back().same(*read->group));
}

TEST(Heartbeat, a_torn_text_is_none) {
  const auto text = heartbeat_text(current_heartbeat(3, 17, 2.5));
  ASSERT_TRUE(parse_heartbeat(text));
  for (std::size_t cut = 0; cut < text.size(); ++cut) {
    EXPECT_FALSE(parse_heartbeat(text.substr(0, cut))) << cut;
  }
  auto flipped = text;
  flipped[text.size() / 2] ^= 1;
  EXPECT_FALSE(parse_heartbeat(flipped));
  EXPECT_FALSE(parse_heartbeat("rank 3\n"));
}

TEST(Heartbeat, groups_of_one_name_are_told_apart) {
  const GroupActivity first("world", {0, 1}), second("world", {0, 1}), other("world", {0, 2});
  const auto groups = current_heartbeat(0, 1, 0).groups;
  const auto n = groups.size();
  ASSERT_GE(n, 3U);
  EXPECT_FALSE(groups[n - 3].same(groups[n - 2]));
  EXPECT_FALSE(groups[n - 2].same(groups[n - 1]));
}

}  // namespace
}  // namespace pg::comm

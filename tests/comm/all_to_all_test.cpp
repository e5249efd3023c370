// all_to_all over live ranks, the group of one rank and the dry one: every part arrives whole and
// in its place, whatever the counts, and a wrong call is refused before anything moves.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "comm/dry_group.h"
#include "comm/error.h"
#include "comm/mpi_session.h"
#include "comm/process_grid.h"

namespace pg::comm {
namespace {

std::unique_ptr<Group> world(std::size_t longest = kLongestMessage) {
  const auto all = Communicator::world();
  return make_mpi_group(all.split(0, all.rank()), "world", longest);
}

template <class T>
BufferView view(std::vector<T>& values) {
  return {values.data(), values.size(), dtype_of<T>::value};
}

using Counts = std::vector<std::size_t>;

// Elements that rank `from` sends to rank `to`.
using Pattern = std::function<std::size_t(int from, int to)>;

struct Named {
  const char* name;
  Pattern count;
};

std::vector<Named> patterns(int ranks) {
  const auto size = [](int n) { return static_cast<std::size_t>(n); };
  return {
      {"uneven, some empty", [=](int from, int to) { return size((3 * from + 5 * to) % 8); }},
      {"equal", [=](int, int) { return size(4); }},
      {"nothing", [=](int, int) { return size(0); }},
      {"all to the last", [=](int from, int to) { return to == ranks - 1 ? size(from + 1) : 0; }},
      {"all from the first", [=](int from, int to) { return from == 0 ? size(to + 2) : 0; }},
      {"to the next only",
       [=](int from, int to) { return size(to == (from + 1) % ranks ? 5 : 0); }},
      {"what stays only", [=](int from, int to) { return size(from == to ? 7 : 0); }},
      {"all but what stays", [=](int from, int to) { return size(from == to ? 0 : 7); }},
  };
}

// Bits that tell the call, both ranks and the element, as far as the type holds them.
template <class T>
T value_of(int call, int from, int to, std::size_t i) {
  const auto bits =
      static_cast<std::uint32_t>(((call * 8 + from) * 8 + to) * 31) + static_cast<std::uint32_t>(i);
  if constexpr (std::is_same_v<T, bf16>) {
    bf16 value;
    value.bits = static_cast<std::uint16_t>(bits);
    return value;
  } else {
    return static_cast<T>(bits);
  }
}

// One rank's side of a call.
template <class T>
struct Exchange {
  Counts send_counts, recv_counts;
  std::vector<T> send, recv, expected;

  Exchange(const Group& group, const Pattern& count, int call) {
    const int me = group.rank();
    for (int r = 0; r < group.size(); ++r) {
      send_counts.push_back(count(me, r));
      recv_counts.push_back(count(r, me));
      for (std::size_t i = 0; i < count(me, r); ++i) send.push_back(value_of<T>(call, me, r, i));
      for (std::size_t i = 0; i < count(r, me); ++i)
        expected.push_back(value_of<T>(call, r, me, i));
    }
    recv.assign(expected.size(), value_of<T>(99, 0, 0, 0));
  }

  Pending start(Group& group) {
    return group.all_to_all(view(send), send_counts, view(recv), recv_counts);
  }
  bool arrived() const {  // by bits: bf16 has NaNs among its values
    return recv.empty() || std::memcmp(recv.data(), expected.data(), recv.size() * sizeof(T)) == 0;
  }
};

template <class T>
class all_to_all_of : public ::testing::Test {};
using Types = ::testing::Types<double, float, bf16, std::int32_t, std::int64_t, std::uint8_t>;
TYPED_TEST_SUITE(all_to_all_of, Types);

TYPED_TEST(all_to_all_of, every_part_arrives_in_rank_order_whatever_the_counts) {
  // 3: parts below, at and above the longest message.
  for (const std::size_t longest : {kLongestMessage, std::size_t{3}}) {
    const auto group = world(longest);
    for (const auto& [name, count] : patterns(group->size())) {
      Exchange<TypeParam> exchange(*group, count, 1);
      exchange.start(*group).wait();
      EXPECT_TRUE(exchange.arrived()) << name << ", messages of " << longest;
    }
  }
}

TYPED_TEST(all_to_all_of, one_rank_keeps_what_it_has) {
  const auto self = make_self_group("alone");
  const auto over_mpi = make_mpi_group(Communicator::self(), "self");
  for (Group* group : {self.get(), over_mpi.get()}) {
    for (const auto& [name, count] : patterns(1)) {
      Exchange<TypeParam> exchange(*group, count, 1);
      exchange.start(*group).wait();
      EXPECT_TRUE(exchange.arrived()) << name;
    }
  }
}

// Long enough that MPI does not buffer them; in one message, and in pieces with a shorter last one.
TEST(all_to_all, long_parts_arrive_whole_and_in_pieces) {
  constexpr std::size_t kLong = 150'001;
  for (const std::size_t longest : {kLongestMessage, kLong, std::size_t{7'777}}) {
    const auto group = world(longest);
    const Pattern count = [](int from, int to) {
      return (from + to) % 3 == 0 ? 0 : kLong - static_cast<std::size_t>(from);
    };
    Exchange<std::int32_t> exchange(*group, count, 2);
    const auto sent = exchange.send;
    exchange.start(*group).wait();
    EXPECT_TRUE(exchange.arrived()) << longest;
    EXPECT_EQ(exchange.send, sent) << "the send buffer is the caller's";
  }
}

// Empty parts send nothing, so that the messages of a later call must not be taken for theirs; nor
// those of the other exchanges, which share the tag. The counts are read before the call returns.
TEST(all_to_all, calls_in_flight_meet_in_order_and_are_waited_for_in_any) {
  for (const std::size_t longest : {kLongestMessage, std::size_t{3}}) {
    const auto group = world(longest);
    const auto some = patterns(group->size());
    constexpr int kCalls = 24;
    std::vector<Exchange<std::int32_t>> exchanges;
    std::vector<std::vector<std::int32_t>> addends, sums;
    for (int c = 0; c < kCalls; ++c) {
      exchanges.emplace_back(*group, some[static_cast<std::size_t>(c) % some.size()].count, c);
      addends.emplace_back(static_cast<std::size_t>(5 * group->size()), c);
      sums.emplace_back(5, -1);
    }
    std::vector<Pending> calls;
    for (std::size_t c = 0; c < kCalls; ++c) {
      calls.push_back(exchanges[c].start(*group));
      std::fill(exchanges[c].send_counts.begin(), exchanges[c].send_counts.end(), 1000);
      std::fill(exchanges[c].recv_counts.begin(), exchanges[c].recv_counts.end(), 1000);
      calls.push_back(group->reduce_scatter(view(addends[c]), view(sums[c]), ReduceOp::kSum));
      // Complete on return, over messages of the same tag.
      EXPECT_EQ(all_reduce(*group, 1.0, ReduceOp::kSum), group->size());
    }
    if (group->rank() % 2 == 1) std::reverse(calls.begin(), calls.end());
    for (auto& call : calls) call.wait();
    for (std::size_t c = 0; c < kCalls; ++c) {
      EXPECT_TRUE(exchanges[c].arrived()) << "call " << c << ", messages of " << longest;
      EXPECT_EQ(sums[c], std::vector<std::int32_t>(5, static_cast<int>(c) * group->size()));
    }
  }
}

TEST(all_to_all, outlives_its_group) {
  auto group = world();
  Exchange<std::int64_t> exchange(*group, patterns(group->size()).front().count, 3);
  auto call = exchange.start(*group);
  group.reset();
  call.wait();
  EXPECT_TRUE(exchange.arrived());
}

TEST(all_to_all, of_equal_parts_needs_no_counts) {
  const auto group = world();
  const auto self = make_self_group("alone");
  for (Group* g : {group.get(), self.get()}) {
    for (const std::size_t each : {0u, 1u, 5u}) {
      Exchange<float> exchange(
          *g, [=](int, int) { return each; }, 4);
      all_to_all(*g, view(exchange.send), view(exchange.recv)).wait();
      EXPECT_TRUE(exchange.arrived()) << each;
    }
  }
}

std::string refusal(const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kBug) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "was taken";
  return "";
}

// What every group refuses, the dry one too: at `data`, or nowhere.
void expect_wrong_counts_refused(Group& group, float* send_data, float* recv_data) {
  const auto n = static_cast<std::size_t>(group.size());
  const auto all = 2 * n;
  const Counts twos(n, 2), fewer(n - 1, 2), more(n + 1, 2), ones(n, 1), threes(n, 3);
  const BufferView send{send_data, all, DType::kF32}, recv{recv_data, all, DType::kF32};
  for (const auto& wrong : {fewer, more, ones, threes}) {
    const auto text = refusal([&] { (void)group.all_to_all(send, wrong, recv, twos); });
    EXPECT_NE(text.find("send counts"), std::string::npos) << text;
    const auto other = refusal([&] { (void)group.all_to_all(send, twos, recv, wrong); });
    EXPECT_NE(other.find("recv counts"), std::string::npos) << other;
  }
  // An entry too many that adds nothing, and a sum that comes out right by wrapping round.
  auto longer = twos, wrapped = twos;
  longer.push_back(0);
  wrapped.back() = std::numeric_limits<std::size_t>::max();
  wrapped.front() = n == 1 ? wrapped.front() : 5;
  refusal([&] { (void)group.all_to_all(send, longer, recv, twos); });
  refusal([&] { (void)group.all_to_all(send, wrapped, recv, twos); });
  const BufferView doubles{recv_data, all, DType::kF64};
  const auto types = refusal([&] { (void)group.all_to_all(send, twos, doubles, twos); });
  EXPECT_NE(types.find("fp32 into fp64"), std::string::npos) << types;
  // Equal parts.
  const BufferView longer_recv{recv_data, all + n, DType::kF32};
  refusal([&] { (void)all_to_all(group, send, longer_recv); });
  if (n > 1) {
    const BufferView odd_send{send_data, all + 1, DType::kF32};
    const BufferView odd_recv{recv_data, all + 1, DType::kF32};
    refusal([&] { (void)all_to_all(group, odd_send, odd_recv); });
  }
}

TEST(all_to_all, wrong_call_is_a_bug_that_names_the_numbers_and_moves_nothing) {
  const auto group = world();
  const auto self = make_self_group("alone");
  for (Group* g : {group.get(), self.get()}) {
    const auto n = static_cast<std::size_t>(g->size());
    std::vector<float> send(4 * n + 2, 1.0f), recv(4 * n + 2, -1.0f);
    expect_wrong_counts_refused(*g, send.data(), recv.data());

    const Counts twos(n, 2);
    const BufferView out{send.data(), 2 * n, DType::kF32}, in{recv.data(), 2 * n, DType::kF32};
    // What this rank sends to itself is what it receives from itself.
    Counts own = twos;
    own[static_cast<std::size_t>(g->rank())] = 3;
    const BufferView larger{recv.data(), 2 * n + 1, DType::kF32};
    const auto text = refusal([&] { (void)g->all_to_all(out, twos, larger, own); });
    EXPECT_NE(text.find(fmt::format("2 elements to rank {} itself, which receives 3", g->rank())),
              std::string::npos)
        << text;
    // Over itself, in whole or by one element.
    refusal([&] { (void)g->all_to_all(out, twos, out, twos); });
    const BufferView touching{send.data() + 2 * n - 1, 2 * n, DType::kF32};
    refusal([&] { (void)g->all_to_all(out, twos, touching, twos); });
    // Not host memory, or none.
    auto device = out;
    device.device = Device::kCuda;
    refusal([&] { (void)g->all_to_all(device, twos, in, twos); });
    device = in;
    device.device = Device::kCuda;
    refusal([&] { (void)g->all_to_all(out, twos, device, twos); });
    refusal([&] { (void)g->all_to_all({nullptr, 2 * n, DType::kF32}, twos, in, twos); });
    refusal([&] { (void)g->all_to_all(out, twos, {nullptr, 2 * n, DType::kF32}, twos); });

    EXPECT_EQ(recv, std::vector<float>(recv.size(), -1.0f));
    // Nothing of the above is under way: the next call gets its own.
    Exchange<float> next(*g, patterns(g->size()).front().count, 5);
    next.start(*g).wait();
    EXPECT_TRUE(next.arrived());
    // Side by side is no overlap.
    const BufferView beside{send.data() + 2 * n, 2 * n, DType::kF32};
    g->all_to_all(out, twos, beside, twos).wait();
  }
}

// The ranks' counts disagree about a part that is not empty.
TEST(all_to_all, part_of_another_length_than_the_receiver_counts_is_no_success) {
  for (const std::size_t sent : {std::size_t{2}, std::size_t{6}}) {
    const auto group = world();
    if (group->size() == 1) return;
    Counts to(static_cast<std::size_t>(group->size()), 0), from = to;
    if (group->rank() == 0) to[1] = sent;
    if (group->rank() == 1) from[0] = 4;
    std::vector<float> out(group->rank() == 0 ? sent : 0), in(group->rank() == 1 ? 4 : 0);
    auto call = group->all_to_all(view(out), to, view(in), from);
    if (group->rank() == 1) {
      try {
        call.wait();
        ADD_FAILURE() << "took " << sent << " elements for 4";
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), sent < 4 ? ExitCode::kBug : ExitCode::kComm);
        const std::string text = error.what();
        EXPECT_NE(text.find("all_to_all on group world"), std::string::npos) << text;
      }
    }
    call.wait();
    group->barrier();
  }
}

// Far more than any machine has, at no address; ranks, types and counts are looked at all the same.
TEST(all_to_all, dry_group_takes_views_without_memory_and_refuses_wrong_counts) {
  constexpr std::size_t kHuge = std::size_t{1} << 50;
  const auto nowhere = [](std::size_t count) {
    return BufferView{nullptr, count, DType::kF32, Device::kCuda};
  };
  const auto group = make_dry_group("ep", 4, 1);
  const Counts uneven{kHuge, 0, 1, kHuge};
  group->all_to_all(nowhere(2 * kHuge + 1), uneven, nowhere(2 * kHuge + 1), uneven).wait();
  all_to_all(*group, nowhere(4 * kHuge), nowhere(4 * kHuge)).wait();
  // The counts to receive are what an exchange of counts left, which brought nothing here.
  group->all_to_all(nowhere(2 * kHuge + 1), uneven, nowhere(0), Counts(4, 0)).wait();
  for (const int size : {1, 4}) {
    expect_wrong_counts_refused(*make_dry_group("ep", size, 0), nullptr, nullptr);
  }
  std::vector<float> send{1, 2}, recv{3, 4};
  all_to_all(*make_dry_group("ep", 2, 0), view(send), view(recv)).wait();
  EXPECT_EQ(recv, (std::vector<float>{3, 4}));
}

// Experts lie along ep, parts of a sequence along cp: both axes exchange, and both are counted.
TEST(all_to_all, is_counted_on_the_axes_of_a_grid) {
  const auto all = Communicator::world();
  const int n = all.size();
  for (const auto axis : {Axis::kEP, Axis::kCP}) {
    ProcessGrid grid(all, axis == Axis::kEP ? GridShape(1, 1, 1, n, 1) : GridShape(1, 1, 1, 1, n));
    Group& group = grid.axis(axis);
    ASSERT_EQ(group.size(), n);
    for (const auto& [name, count] : patterns(n)) {
      grid.traffic().reset();
      Exchange<float> exchange(group, count, 6);
      exchange.start(group).wait();
      EXPECT_TRUE(exchange.arrived()) << axis_name(axis) << ' ' << name;
      const auto rows = grid.traffic().rows();
      if (n == 1) {
        EXPECT_TRUE(rows.empty());
        continue;
      }
      const auto stays = exchange.send_counts[static_cast<std::size_t>(group.rank())];
      ASSERT_EQ(rows.size(), 1u);
      EXPECT_EQ(rows[0].group, axis_name(axis));
      EXPECT_EQ(rows[0].operation, Operation::kAllToAll);
      EXPECT_EQ(rows[0].calls, 1);
      EXPECT_EQ(rows[0].payload, static_cast<std::int64_t>(4 * exchange.send.size())) << name;
      EXPECT_EQ(rows[0].least_sent, static_cast<double>(4 * (exchange.send.size() - stays)))
          << name;
    }
  }
}

}  // namespace
}  // namespace pg::comm

// Groups over live ranks: what moves bytes, calls in flight, and the calls that are refused. The
// same claims hold for the group of one rank, over MPI and without it.
#include "comm/group.h"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

#include "comm/error.h"
#include "comm/mpi_session.h"

namespace pg::comm {
namespace {

Communicator everyone() {
  const auto world = Communicator::world();
  return world.split(0, world.rank());
}

std::unique_ptr<Group> world(std::size_t longest = kLongestMessage) {
  return make_mpi_group(everyone(), "world", longest);
}

template <class T>
BufferView view(std::vector<T>& values) {
  return {values.data(), values.size(), dtype_of<T>::value};
}

// Distinct for every rank and element.
std::vector<std::int32_t> values_of(int rank, std::size_t count) {
  std::vector<std::int32_t> values(count);
  std::iota(values.begin(), values.end(), rank * 1'000'000);
  return values;
}

constexpr std::size_t kCounts[] = {0, 1, 2, 3, 4, 7, 9, 100};

ExitCode code_of(const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& error) {
    return error.code();
  }
  return ExitCode::kDone;
}

TEST(group, all_gather_puts_parts_in_rank_order) {
  // 3: counts below, at and above the longest message.
  for (const std::size_t longest : {kLongestMessage, std::size_t{3}}) {
    const auto group = world(longest);
    for (const std::size_t count : kCounts) {
      auto mine = values_of(group->rank(), count);
      std::vector<std::int32_t> expected;
      for (int r = 0; r < group->size(); ++r) {
        const auto part = values_of(r, count);
        expected.insert(expected.end(), part.begin(), part.end());
      }
      std::vector<std::int32_t> all(expected.size(), -1);
      group->all_gather(view(mine), view(all)).wait();
      ASSERT_EQ(all, expected) << count;

      // In place: this rank's part is there already.
      std::fill(all.begin(), all.end(), -1);
      const auto own = all.begin() +
                       static_cast<std::ptrdiff_t>(static_cast<std::size_t>(group->rank()) * count);
      std::copy(mine.begin(), mine.end(), own);
      group->all_gather({all.data() + (own - all.begin()), count, DType::kI32}, view(all)).wait();
      ASSERT_EQ(all, expected) << count << " in place";
    }
  }
}

TEST(group, broadcast_reaches_all_from_every_root) {
  for (const std::size_t longest : {kLongestMessage, std::size_t{3}}) {
    const auto group = world(longest);
    for (int root = 0; root < group->size(); ++root) {
      for (const std::size_t count : kCounts) {
        auto values = values_of(group->rank(), count);
        group->broadcast(view(values), root).wait();
        ASSERT_EQ(values, values_of(root, count));
      }
    }
  }
}

TEST(group, messages_go_round_a_ring) {
  for (const std::size_t longest : {kLongestMessage, std::size_t{3}}) {
    const auto group = world(longest);
    const int next = (group->rank() + 1) % group->size();
    const int previous = (group->rank() + group->size() - 1) % group->size();
    for (const std::size_t count : kCounts) {
      auto mine = values_of(group->rank(), count);
      std::vector<std::int32_t> theirs(count, -1);
      auto receiving = group->recv(view(theirs), previous, 5);
      auto sending = group->send(view(mine), next, 5);
      sending.wait();
      receiving.wait();
      ASSERT_EQ(theirs, values_of(previous, count));
    }
  }
}

TEST(group, messages_of_one_tag_keep_their_order_and_tags_keep_apart) {
  const auto group = world();
  const int last = group->size() - 1;
  std::vector<std::int32_t> a{1}, b{2}, c{3}, x{0}, y{0}, z{0};
  std::vector<Pending> calls;
  if (group->rank() == last) {
    calls.push_back(group->recv(view(z), 0, 9));
    calls.push_back(group->recv(view(x), 0, 4));
    calls.push_back(group->recv(view(y), 0, 4));
  }
  if (group->rank() == 0) {
    calls.push_back(group->send(view(a), last, 4));
    calls.push_back(group->send(view(b), last, 4));
    calls.push_back(group->send(view(c), last, 9));
  }
  for (auto& call : calls) call.wait();
  if (group->rank() == last) {
    EXPECT_EQ(x[0], 1);
    EXPECT_EQ(y[0], 2);
    EXPECT_EQ(z[0], 3);
  }
}

TEST(group, many_calls_pend_at_once_and_are_waited_for_in_any_order) {
  const auto group = world(4);
  constexpr int kCalls = 20;
  std::vector<std::vector<std::int32_t>> sums, sent;
  std::vector<std::vector<std::int32_t>> gathered, addends, parts;
  for (int i = 0; i < kCalls; ++i) {
    sums.emplace_back(10, i);
    sent.emplace_back(6, 100 * i + group->rank());
    gathered.emplace_back(static_cast<std::size_t>(6 * group->size()), -1);
    addends.emplace_back(static_cast<std::size_t>(9 * group->size()), i + group->rank());
    parts.emplace_back(9, -1);
  }
  std::vector<Pending> calls;
  for (std::size_t i = 0; i < kCalls; ++i) {
    calls.push_back(group->all_reduce(view(sums[i]), ReduceOp::kSum));
    calls.push_back(group->all_gather(view(sent[i]), view(gathered[i])));
    calls.push_back(group->reduce_scatter(view(addends[i]), view(parts[i]), ReduceOp::kSum));
  }
  // Backwards on odd ranks: each rank waits as it likes.
  if (group->rank() % 2 == 1) std::reverse(calls.begin(), calls.end());
  for (auto& call : calls) call.wait();
  for (int i = 0; i < kCalls; ++i) {
    const auto at = static_cast<std::size_t>(i);
    EXPECT_EQ(sums[at], std::vector<std::int32_t>(10, i * group->size()));
    const int ranks = group->size() * (group->size() - 1) / 2;
    EXPECT_EQ(parts[at], std::vector<std::int32_t>(9, i * group->size() + ranks));
    for (int r = 0; r < group->size(); ++r) {
      EXPECT_EQ(gathered[at][static_cast<std::size_t>(6 * r + 5)], 100 * i + r);
    }
  }
}

// A send that waited for its receiver would hang here: nobody receives before everybody has sent.
// Long messages too, which MPI does not buffer.
TEST(group, any_number_of_sends_is_in_flight_before_the_first_receive) {
  const auto group = world();
  const int next = (group->rank() + 1) % group->size();
  const int previous = (group->rank() + group->size() - 1) % group->size();
  constexpr int kMessages = 64;
  constexpr std::size_t kLong = 60'000;  // 240 kB
  std::vector<std::vector<std::int32_t>> out, in;
  for (int i = 0; i < kMessages; ++i) {
    out.push_back(values_of(kMessages * group->rank() + i, i % 2 == 0 ? kLong : 5));
    in.emplace_back(out.back().size());
  }
  std::vector<Pending> calls;
  for (auto& message : out) calls.push_back(group->send(view(message), next, 2));
  group->barrier();
  for (auto& message : in) calls.push_back(group->recv(view(message), previous, 2));
  for (auto& call : calls) call.wait();
  for (int i = 0; i < kMessages; ++i) {
    const auto at = static_cast<std::size_t>(i);
    ASSERT_EQ(in[at], values_of(kMessages * previous + i, in[at].size())) << i;
  }
}

TEST(pending, dropped_call_is_complete) {
  const auto group = world();
  auto values = values_of(group->rank(), 50'000);
  { const auto dropped = group->broadcast(view(values), group->size() - 1); }
  EXPECT_EQ(values, values_of(group->size() - 1, 50'000));
}

TEST(pending, assigned_over_call_is_complete_and_waiting_twice_is_harmless) {
  const auto group = world();
  std::vector<std::int32_t> first{1}, second{2};
  Pending call = group->all_reduce(view(first), ReduceOp::kSum);
  call = group->all_reduce(view(second), ReduceOp::kSum);
  EXPECT_EQ(first[0], group->size());
  Pending moved(std::move(call));
  moved.wait();
  moved.wait();
  EXPECT_EQ(second[0], 2 * group->size());
  auto& alias = moved;
  moved = std::move(alias);
  Pending().wait();
}

TEST(pending, outlives_its_group) {
  auto group = world();
  const int size = group->size();
  std::vector<bf16> values(10'000, bf16(1.0f));
  auto call = group->all_reduce(view(values), ReduceOp::kSum);
  group.reset();
  call.wait();
  for (const auto value : values) ASSERT_EQ(static_cast<float>(value), static_cast<float>(size));
}

TEST(pending, waits_once_and_throws_once) {
  int waits = 0;
  Pending call([&] {
    ++waits;
    throw fail(ExitCode::kComm, "lost");
  });
  EXPECT_THROW(call.wait(), Error);
  call.wait();
  EXPECT_EQ(waits, 1);
}

TEST(pending, failure_while_unwinding_leaves_the_first_error) {
  try {
    const Pending call([] { throw fail(ExitCode::kComm, "second"); });
    throw fail(ExitCode::kData, "first");
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "first");
  }
}

TEST(group, message_longer_than_its_buffer_is_a_communication_error_with_place) {
  const auto group = world();
  if (group->size() == 1) return;
  auto values = values_of(0, 4);
  if (group->rank() == 0) group->send(view(values), 1, 3).wait();
  if (group->rank() == 1) {
    std::vector<std::int32_t> small(2);
    try {
      group->recv(view(small), 0, 3).wait();
      ADD_FAILURE() << "took 4 elements into 2";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kComm);
      const std::string text = error.what();
      EXPECT_TRUE(
          text.starts_with(fmt::format("rank 1 ({}): recv on group world failed: ", host_name())))
          << text;
      EXPECT_NE(text.find("TRUNCATE"), std::string::npos) << text;
    }
  }
  group->barrier();
}

TEST(group, message_shorter_than_its_buffer_is_a_bug) {
  const auto group = world();
  if (group->size() == 1) return;
  auto values = values_of(0, 2);
  if (group->rank() == 0) group->send(view(values), 1, 3).wait();
  if (group->rank() == 1) {
    std::vector<std::int32_t> large(4);
    auto call = group->recv(view(large), 0, 3);
    EXPECT_EQ(code_of([&] { call.wait(); }), ExitCode::kBug);
  }
  group->barrier();
}

// Both kinds of group refuse the same calls, on this rank alone and before anything moves.
void expect_refusals(Group& group) {
  const auto n = static_cast<std::size_t>(group.size());
  std::vector<std::int32_t> part(3), whole(3 * n), wrong(3 * n + 1);
  std::vector<float> floats(3 * n);
  const auto refused = [](const std::function<void()>& work) {
    EXPECT_EQ(code_of(work), ExitCode::kBug);
  };
  refused([&] { (void)group.all_gather(view(part), view(wrong)); });
  refused([&] { (void)group.all_gather(view(part), view(floats)); });
  refused([&] { (void)group.reduce_scatter(view(wrong), view(part), ReduceOp::kSum); });
  refused([&] { (void)group.reduce_scatter(view(floats), view(part), ReduceOp::kSum); });
  // Overlapping, but not this rank's own part.
  const BufferView shifted{wrong.data() + 1 + 3 * group.rank(), 3, DType::kI32};
  const BufferView base{wrong.data(), 3 * n, DType::kI32};
  refused([&] { (void)group.all_gather(shifted, base); });
  refused([&] { (void)group.reduce_scatter(base, shifted, ReduceOp::kSum); });
  refused([&] { (void)group.all_gather({nullptr, 3, DType::kI32}, view(whole)); });
  for (const int rank : {-2, -1, group.size()}) {  // -1 and -2 are MPI's wildcard and null process
    refused([&] { (void)group.broadcast(view(part), rank); });
    refused([&] { (void)group.send(view(part), rank, 0); });
    refused([&] { (void)group.recv(view(part), rank, 0); });
  }
  for (const int tag : {-1, kLastTag + 1}) {
    refused([&] { (void)group.send(view(part), 0, tag); });
    refused([&] { (void)group.recv(view(part), 0, tag); });
  }
}

TEST(group, wrong_calls_are_refused_before_anything_moves) {
  expect_refusals(*world());
  expect_refusals(*make_self_group("alone"));
}

TEST(group, device_memory_is_refused_by_groups_that_carry_host_memory) {
  const auto group = world();
  std::vector<float> values(2);
  const BufferView device{values.data(), 2, DType::kF32, Device::kCuda};
  EXPECT_EQ(code_of([&] { (void)group->all_reduce(device, ReduceOp::kSum); }), ExitCode::kBug);
  EXPECT_EQ(code_of([&] { (void)group->broadcast(device, 0); }), ExitCode::kBug);
  EXPECT_EQ(code_of([&] { (void)group->send(device, 0, 0); }), ExitCode::kBug);
}

void expect_identities(Group& group) {
  ASSERT_EQ(group.size(), 1);
  ASSERT_EQ(group.rank(), 0);
  for (const std::size_t count : kCounts) {
    auto values = values_of(4, count);
    const auto before = values;
    group.all_reduce(view(values), ReduceOp::kSum).wait();
    group.broadcast(view(values), 0).wait();
    EXPECT_EQ(values, before);
    std::vector<std::int32_t> gathered(count), scattered(count);
    group.all_gather(view(values), view(gathered)).wait();
    group.reduce_scatter(view(values), view(scattered), ReduceOp::kMax).wait();
    EXPECT_EQ(gathered, before);
    EXPECT_EQ(scattered, before);
    // In place is the identity.
    group.all_gather(view(values), view(values)).wait();
    group.reduce_scatter(view(values), view(values), ReduceOp::kSum).wait();
    EXPECT_EQ(values, before);
  }
  group.barrier();
}

TEST(group, one_rank_keeps_what_it_has) {
  expect_identities(*make_self_group("alone"));
  expect_identities(*make_mpi_group(Communicator::self(), "self"));
}

TEST(group, texts_of_all_lengths_are_gathered_and_broadcast) {
  const auto group = world();
  const auto text_of = [](int rank) {
    // Empty on every third rank, with a zero byte, and long.
    if (rank % 3 == 1) return std::string();
    return std::string(static_cast<std::size_t>(rank * 1000), 'a') + '\0' + std::to_string(rank);
  };
  const auto all = all_gather(*group, text_of(group->rank()));
  ASSERT_EQ(static_cast<int>(all.size()), group->size());
  for (int r = 0; r < group->size(); ++r) {
    EXPECT_EQ(all[static_cast<std::size_t>(r)], text_of(r));
    EXPECT_EQ(broadcast(*group, text_of(group->rank()), r), text_of(r));
  }
  for (const auto& text : all_gather(*group, "")) EXPECT_EQ(text, "");
}

}  // namespace
}  // namespace pg::comm

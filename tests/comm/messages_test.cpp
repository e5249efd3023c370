// Long messages both ways at once, which is what rings and neighbouring pipeline stages do.
#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <thread>
#include <vector>

#include "comm/mpi_session.h"

namespace pg::comm {
namespace {

BufferView view(std::vector<std::int32_t>& values) {
  return {values.data(), values.size(), DType::kI32};
}

// Buffered by default, and not with the eager limit of comm.rendezvous: Open MPI 4.1 sends 256
// bytes inline whatever the limit is.
constexpr std::size_t kShort = 100;

std::int32_t value_of(int orders, int rank, std::size_t i) {
  return static_cast<std::int32_t>(i) * 32 + orders * 2 + rank;
}

// Two ranks and no more; one where the world is odd.
std::unique_ptr<Group> pair(std::size_t longest = kLongestMessage) {
  const auto all = Communicator::world();
  return make_mpi_group(all.split(all.rank() / 2, all.rank()), "pair", longest);
}

// Neither send ends before its receive is posted, so that ranks which waited for one call before
// they posted the other would hang. Every order of posting and of waiting, on each side its own.
TEST(messages, long_ones_both_ways_cannot_deadlock_when_all_is_posted_before_a_wait) {
  for (const std::size_t longest : {kLongestMessage, std::size_t{9'999}}) {
    const auto group = pair(longest);
    if (group->size() == 1) continue;
    const int me = group->rank(), other = 1 - me;
    for (const std::size_t count : {kShort, std::size_t{60'000}, std::size_t{1} << 20}) {
      for (int orders = 0; orders < 16; ++orders) {
        const int mine = orders >> (2 * me);
        const bool send_first = mine & 1, wait_for_send_first = mine & 2;
        std::vector<std::int32_t> out(count), in(count, -1), expected(count);
        for (std::size_t i = 0; i < count; ++i) {
          out[i] = value_of(orders, me, i);
          expected[i] = value_of(orders, other, i);
        }
        Pending sending, receiving;
        if (send_first) sending = group->send(view(out), other, 1);
        receiving = group->recv(view(in), other, 1);
        if (!send_first) sending = group->send(view(out), other, 1);
        (wait_for_send_first ? sending : receiving).wait();
        (wait_for_send_first ? receiving : sending).wait();
        ASSERT_EQ(in, expected) << count << " elements, orders " << orders;
      }
    }
  }
}

// The control of the test above: the lengths that it is about are not buffered. Both ranks are on
// one host, whose clock they share. With
// an eager limit below them short ones wait too.
TEST(messages, long_send_ends_only_after_its_receive_was_posted) {
  const auto group = pair();
  if (group->size() == 1) return;
  const auto now = [] {
    const auto since = std::chrono::steady_clock::now().time_since_epoch();
    return std::int64_t{std::chrono::nanoseconds(since).count()};
  };
  std::vector<std::size_t> counts{60'000, std::size_t{1} << 20};
  if (std::getenv("OMPI_MCA_btl_vader_eager_limit") != nullptr) counts.push_back(kShort);
  for (const std::size_t count : counts) {
    std::vector<std::int32_t> values(count);
    std::int64_t posted = 0;
    group->barrier();
    if (group->rank() == 0) {
      group->send(view(values), 1, 1).wait();
      const auto sent = now();
      group->recv({&posted, 1, DType::kI64}, 1, 2).wait();
      EXPECT_GT(sent, posted) << count << " elements were buffered";
    } else {
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      posted = now();
      group->recv(view(values), 0, 1).wait();
      group->send({&posted, 1, DType::kI64}, 0, 2).wait();
    }
  }
}

}  // namespace
}  // namespace pg::comm

// What the groups send at the wire, as MPI itself counts it, against the least there is, which is
// what Traffic says.
#include <gtest/gtest.h>

#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "comm/mpi_session.h"
#include "comm/traffic.h"
#include "harness/wire_bytes.h"

namespace pg::comm {
namespace {

using pg::testing::WireBytes;

std::unique_ptr<Group> everyone(std::string name) {
  const auto world = Communicator::world();
  return make_mpi_group(world.split(0, world.rank()), std::move(name));
}

BufferView view(std::vector<float>& values) {
  return {values.data(), values.size(), DType::kF32};
}

class wire : public ::testing::Test {
 protected:
  // Bytes that all ranks sent in `work`, over the least for the calls it made.
  double ratio(const std::string& what, const std::function<void()>& work) {
    traffic_.reset();
    wire_.reset();
    work();
    // Read before the sums below, which send too.
    const std::int64_t sent = wire_.sent();
    double least = 0;
    for (const auto& row : traffic_.rows()) least += row.least_sent;
    const auto all_sent = all_reduce(*uncounted_, sent, ReduceOp::kSum);
    const double all_least = all_reduce(*uncounted_, least, ReduceOp::kSum);
    const double result = static_cast<double>(all_sent) / all_least;
    if (group_->rank() == 0) {
      std::printf("%d ranks, %-24s %10lld bytes at the wire, %.4f times the least\n",
                  group_->size(), what.c_str(), static_cast<long long>(all_sent), result);
    }
    return result;
  }

  // Both counts are exact but for the division by the number of ranks: a few units of 2^-53.
  static constexpr double kRounding = 1e-12;

  WireBytes wire_;
  Traffic traffic_;
  std::unique_ptr<Group> uncounted_ = everyone("uncounted");
  std::unique_ptr<Group> group_ = make_counted_group(everyone("all"), traffic_);
  int next_ = (group_->rank() + 1) % group_->size();
  int previous_ = (group_->rank() + group_->size() - 1) % group_->size();
};

// The control of the counter: known messages, short ones and long, are seen to the byte.
TEST_F(wire, sees_every_byte_of_a_message_and_none_of_a_receive) {
  for (const std::size_t count : {0u, 1u, 100u, 262'147u}) {
    std::vector<float> out(count, 1.0f), in(count);
    wire_.reset();
    auto receiving = group_->recv(view(in), previous_, 0);
    EXPECT_EQ(wire_.sent(), 0);
    auto sending = group_->send(view(out), next_, 0);
    sending.wait();
    receiving.wait();
    EXPECT_EQ(wire_.sent(), static_cast<std::int64_t>(count * sizeof(float)));
    group_->barrier();
    EXPECT_EQ(wire_.sent(), static_cast<std::int64_t>(count * sizeof(float)));
  }
}

// The same inside a collective that is known: on two ranks each sends the other its half.
TEST_F(wire, sees_the_messages_inside_collectives) {
  const auto n = static_cast<std::size_t>(group_->size());
  std::vector<float> part(1000), whole(1000 * n);
  wire_.reset();
  group_->all_gather(view(part), view(whole)).wait();
  const auto sent = all_reduce(*uncounted_, wire_.sent(), ReduceOp::kSum);
  EXPECT_EQ(sent, static_cast<std::int64_t>(n * (n - 1) * 1000 * sizeof(float)));
}

// Below some KiB the fastest all_reduce sends more than the least (fewer, longer rounds), so the
// claims are about the buffers that make up the traffic. Multiples of 12: equal parts.
TEST_F(wire, every_operation_sends_the_least_or_near_it) {
  constexpr std::size_t kLong = 1'500'000;  // all_reduce in blocks
  for (const std::size_t count : {std::size_t{24'000}, std::size_t{262'140}, kLong}) {
    const auto n = static_cast<std::size_t>(group_->size());
    std::vector<float> whole(count, 1.0f), part(count / n, 1.0f), other(count);
    const auto expect = [&](const char* name, double factor, const std::function<Pending()>& call) {
      SCOPED_TRACE(name);
      const auto what = std::string(name) + " of " + std::to_string(count * sizeof(float));
      const double r = ratio(what, [&] { call().wait(); });
      EXPECT_GE(r, 1 - kRounding) << "the wire is not seen whole";
      EXPECT_LE(r, factor + kRounding);
    };
    // Halving and doubling (Rabenseifner) sends the least over p ranks, p a power of two. Each rank
    // more is paired with one of them, at 5/2 B a pair instead of 2 B: (2 (p-1) + 5/2 r) / (2 (p-1)
    // + 2 r), largest at r = p - 1: 9/8. Rings and our blocks send the least.
    expect("all_reduce", count < kLong ? 1.125 : 1,
           [&] { return group_->all_reduce(view(whole), ReduceOp::kSum); });
    expect("all_gather", 1, [&] { return group_->all_gather(view(part), view(whole)); });
    expect("reduce_scatter", 1,
           [&] { return group_->reduce_scatter(view(whole), view(part), ReduceOp::kSum); });
    expect("all_to_all", 1, [&] { return all_to_all(*group_, view(whole), view(other)); });
    expect("broadcast", 1, [&] { return group_->broadcast(view(whole), group_->size() - 1); });
    expect("send", 1, [&] {
      auto receiving = group_->recv(view(other), previous_, 0);
      group_->send(view(whole), next_, 0).wait();
      return receiving;
    });
  }
}

// Exact on each rank, and not only in the sum over all: ranks differ here.
TEST_F(wire, all_to_all_sends_on_every_rank_what_the_traffic_says) {
  const int n = group_->size(), me = group_->rank();
  // Short, long, empty; and the last call sends everything to rank 0.
  for (const std::size_t unit : {std::size_t{0}, std::size_t{7}, std::size_t{50'021}}) {
    for (const bool to_one : {false, true}) {
      const auto count = [&](int from, int to) {
        if (to_one && to != 0) return std::size_t{0};
        return unit * static_cast<std::size_t>((3 * from + 5 * to + 1) % 4);
      };
      std::vector<std::size_t> to, from;
      std::size_t out = 0, in = 0;
      for (int r = 0; r < n; ++r) {
        out += to.emplace_back(count(me, r));
        in += from.emplace_back(count(r, me));
      }
      std::vector<float> send(out, 1.0f), recv(in);
      traffic_.reset();
      wire_.reset();
      group_->all_to_all(view(send), to, view(recv), from).wait();
      const std::int64_t sent = wire_.sent();
      ASSERT_EQ(traffic_.rows().size(), 1u);
      EXPECT_EQ(static_cast<double>(sent), traffic_.rows()[0].least_sent) << unit << ' ' << to_one;
      uncounted_->barrier();
    }
  }
}

// What a step of training does: calls of all kinds in flight together.
TEST_F(wire, calls_in_flight_together_send_no_more) {
  const auto n = static_cast<std::size_t>(group_->size());
  constexpr std::size_t kCount = 120'000;
  std::vector<float> a(kCount, 1.0f), b(kCount, 1.0f), c(kCount, 1.0f), d(kCount), in(kCount);
  std::vector<float> part(kCount / n), shard(kCount / n), out(kCount), exchanged(kCount);
  const double r = ratio("all in flight", [&] {
    std::vector<Pending> calls;
    calls.push_back(group_->recv(view(in), previous_, 3));
    calls.push_back(group_->reduce_scatter(view(a), view(part), ReduceOp::kSum));
    calls.push_back(group_->all_gather(view(shard), view(b)));
    calls.push_back(group_->send(view(d), next_, 3));
    calls.push_back(all_to_all(*group_, view(out), view(exchanged)));
    calls.push_back(group_->broadcast(view(c), 0));
  });
  EXPECT_NEAR(r, 1, kRounding);
}

}  // namespace
}  // namespace pg::comm

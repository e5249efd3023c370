#include "comm/dry_group.h"

#include <gtest/gtest.h>

#include <functional>
#include <vector>

#include "comm/error.h"

namespace pg::comm {
namespace {

// Far more than any machine has, at no address.
BufferView nowhere(std::size_t count, DType type = DType::kF32) {
  return {nullptr, count, type, Device::kCuda};
}
constexpr std::size_t kHuge = std::size_t{1} << 50;

TEST(dry_group, every_call_completes_without_memory_or_peers) {
  const auto group = make_dry_group("dp", 6, 4);
  EXPECT_EQ(group->name(), "dp");
  EXPECT_EQ(group->size(), 6);
  EXPECT_EQ(group->rank(), 4);
  group->all_reduce(nowhere(kHuge), ReduceOp::kSum).wait();
  group->all_gather(nowhere(kHuge), nowhere(6 * kHuge)).wait();
  group->reduce_scatter(nowhere(6 * kHuge), nowhere(kHuge), ReduceOp::kMin).wait();
  group->broadcast(nowhere(kHuge), 5).wait();
  group->send(nowhere(kHuge), 3, 9).wait();
  group->recv(nowhere(kHuge), 5, kLastTag).wait();
  group->barrier();
}

TEST(dry_group, leaves_buffers_as_they_are) {
  const auto group = make_dry_group("tp", 2, 1);
  std::vector<float> part{1, 2}, whole{3, 4, 5, 6};
  const BufferView p{part.data(), 2, DType::kF32}, w{whole.data(), 4, DType::kF32};
  group->all_gather(p, w).wait();
  group->reduce_scatter(w, p, ReduceOp::kSum).wait();
  group->broadcast(w, 0).wait();
  group->recv(w, 0, 0).wait();
  EXPECT_EQ(part, (std::vector<float>{1, 2}));
  EXPECT_EQ(whole, (std::vector<float>{3, 4, 5, 6}));
  EXPECT_EQ(all_reduce(*group, 2.5, ReduceOp::kSum), 2.5);
  EXPECT_EQ(broadcast(*group, "mine", 0), "mine");
  EXPECT_EQ(all_gather(*group, "mine"), std::vector<std::string>(2));
}

TEST(dry_group, wrong_calls_are_bugs_as_in_any_group) {
  const auto group = make_dry_group("g", 3, 0);
  const auto refused = [](const std::function<void()>& work) {
    try {
      work();
      ADD_FAILURE() << "was taken";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kBug);
    }
  };
  refused([&] { (void)group->all_gather(nowhere(3), nowhere(10)); });
  refused([&] { (void)group->all_gather(nowhere(3), nowhere(9, DType::kBF16)); });
  refused([&] { (void)group->reduce_scatter(nowhere(10), nowhere(3), ReduceOp::kSum); });
  refused(
      [&] { (void)group->reduce_scatter(nowhere(9, DType::kI32), nowhere(3), ReduceOp::kSum); });
  for (const int rank : {-1, 3}) {
    refused([&] { (void)group->broadcast(nowhere(1), rank); });
    refused([&] { (void)group->send(nowhere(1), rank, 0); });
    refused([&] { (void)group->recv(nowhere(1), rank, 0); });
  }
  for (const int tag : {-1, kLastTag + 1}) {
    refused([&] { (void)group->send(nowhere(1), 1, tag); });
    refused([&] { (void)group->recv(nowhere(1), 1, tag); });
  }
  refused([&] { (void)make_dry_group("g", 2, 2); });
  refused([&] { (void)make_dry_group("g", 0, 0); });
}

}  // namespace
}  // namespace pg::comm

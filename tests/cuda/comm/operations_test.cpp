// Every operation of a group on buffers of the GPU, against what its definition gives on the host,
// with nothing but the groups' own waits between the compute stream and the communication.
#include <algorithm>
#include <functional>

#include "tests/cuda/comm/flow.h"

namespace pg::comm::testing {
namespace {

template <class T>
class group_on_gpu : public ::testing::Test {};
using Types = ::testing::Types<double, float, bf16, std::int32_t, std::int64_t, std::uint8_t>;
TYPED_TEST_SUITE(group_on_gpu, Types);

constexpr std::size_t kCounts[] = {0, 1, 3, 129, 1000};

template <class T>
std::vector<T> values_of(int rank, std::size_t count, std::size_t first = 0) {
  std::vector<T> values;
  for (std::size_t i = 0; i < count; ++i) values.push_back(value_of<T>(rank, first + i));
  return values;
}

double reduced(int ranks, std::size_t i, ReduceOp op) {
  double result = value_of<double>(0, i);
  for (int r = 1; r < ranks; ++r) {
    const double next = value_of<double>(r, i);
    result = op == ReduceOp::kSum   ? result + next
             : op == ReduceOp::kMax ? std::max(result, next)
                                    : std::min(result, next);
  }
  return result;
}

template <class T>
std::vector<ReduceOp> operations() {
  if (std::is_integral_v<T>) return {ReduceOp::kSum, ReduceOp::kMax, ReduceOp::kMin};
  return {ReduceOp::kSum};
}

TYPED_TEST(group_on_gpu, all_reduce) {
  on_each_carrier([](Carrier carrier, const Gpu& gpu) {
    const auto group = make_group(carrier, Communicator::world(), "world", gpu);
    for (const auto count : kCounts) {
      for (const auto op : operations<TypeParam>()) {
        Flow<TypeParam> x(gpu, values_of<TypeParam>(group->rank(), count));
        group->all_reduce(x.view(), op).wait();
        x.read();
        gpu.synchronize();
        const auto got = x.values();
        for (std::size_t i = 0; i < count; ++i) {
          ASSERT_EQ(number(got[i]), reduced(group->size(), i, op)) << i << " of " << count;
        }
      }
    }
  });
}

TYPED_TEST(group_on_gpu, all_gather_also_in_place) {
  on_each_carrier([](Carrier carrier, const Gpu& gpu) {
    const auto group = make_group(carrier, Communicator::world(), "world", gpu);
    const auto ranks = static_cast<std::size_t>(group->size());
    const auto me = static_cast<std::size_t>(group->rank());
    for (const auto count : kCounts) {
      const auto mine = values_of<TypeParam>(group->rank(), count);
      std::vector<TypeParam> expected, around(count * ranks, value_of<TypeParam>(0, 1));
      for (int r = 0; r < group->size(); ++r) {
        const auto part = values_of<TypeParam>(r, count);
        expected.insert(expected.end(), part.begin(), part.end());
      }
      std::copy(mine.begin(), mine.end(), around.begin() + static_cast<long>(me * count));
      Flow<TypeParam> part(gpu, mine), whole(gpu, count * ranks), in_place(gpu, around);
      auto first = group->all_gather(part.view(), whole.view());
      group->all_gather(in_place.part(me * count, count), in_place.view()).wait();
      first.wait();
      whole.read();
      in_place.read();
      gpu.synchronize();
      ASSERT_EQ(numbers(whole.values()), numbers(expected)) << count;
      ASSERT_EQ(numbers(in_place.values()), numbers(expected)) << count;
    }
  });
}

TYPED_TEST(group_on_gpu, reduce_scatter_also_in_place) {
  on_each_carrier([](Carrier carrier, const Gpu& gpu) {
    const auto group = make_group(carrier, Communicator::world(), "world", gpu);
    const auto ranks = static_cast<std::size_t>(group->size());
    const auto me = static_cast<std::size_t>(group->rank());
    for (const auto count : kCounts) {
      for (const auto op : operations<TypeParam>()) {
        const auto mine = values_of<TypeParam>(group->rank(), count * ranks);
        Flow<TypeParam> whole(gpu, mine), part(gpu, count), in_place(gpu, mine);
        auto first = group->reduce_scatter(whole.view(), part.view(), op);
        auto second = group->reduce_scatter(in_place.view(), in_place.part(me * count, count), op);
        first.wait();
        second.wait();
        whole.read();
        part.read();
        in_place.read();
        gpu.synchronize();
        ASSERT_EQ(numbers(whole.values()), numbers(mine));
        const auto got = numbers(part.values()), there = numbers(in_place.values());
        for (std::size_t i = 0; i < count * ranks; ++i) {
          const bool own = i / std::max<std::size_t>(1, count) == me;
          const double sum = reduced(group->size(), i, op);
          ASSERT_EQ(there[i], own ? sum : number(mine[i])) << i << " of " << count;
          if (own) {
            ASSERT_EQ(got[i - me * count], sum) << i << " of " << count;
          }
        }
      }
    }
  });
}

TYPED_TEST(group_on_gpu, broadcast_from_each_rank) {
  on_each_carrier([](Carrier carrier, const Gpu& gpu) {
    const auto group = make_group(carrier, Communicator::world(), "world", gpu);
    for (const auto count : kCounts) {
      for (int root = 0; root < group->size(); ++root) {
        Flow<TypeParam> x(gpu, values_of<TypeParam>(group->rank(), count));
        group->broadcast(x.view(), root).wait();
        x.read();
        gpu.synchronize();
        ASSERT_EQ(numbers(x.values()), numbers(values_of<TypeParam>(root, count)));
      }
    }
  });
}

TYPED_TEST(group_on_gpu, all_to_all_with_parts_that_are_empty) {
  using Pattern = std::function<std::size_t(int, int)>;
  const int last = Communicator::world().size() - 1;
  const Pattern patterns[] = {
      [](int from, int to) { return static_cast<std::size_t>((3 * from + 5 * to) % 4); },
      [](int, int) { return std::size_t{0}; },
      [last](int, int to) { return std::size_t{to == last ? 5u : 0u}; },
      [](int from, int) { return std::size_t{from == 0 ? 3u : 0u}; },
      [](int from, int to) { return std::size_t{from == to ? 7u : 0u}; },
      [](int from, int to) { return std::size_t{from == to ? 0u : 300u}; },
  };
  on_each_carrier([&](Carrier carrier, const Gpu& gpu) {
    const auto group = make_group(carrier, Communicator::world(), "world", gpu);
    for (const auto& pattern : patterns) {
      const int me = group->rank();
      std::vector<TypeParam> leaving, expected;
      std::vector<std::size_t> out, in;
      const auto add = [](auto& to, int from_rank, int to_rank, std::size_t count) {
        const auto part = values_of<TypeParam>(from_rank, count, 100 * to_rank);
        to.insert(to.end(), part.begin(), part.end());
      };
      for (int r = 0; r < group->size(); ++r) {
        out.push_back(pattern(me, r));
        in.push_back(pattern(r, me));
        add(leaving, me, r, out.back());
        add(expected, r, me, in.back());
      }
      Flow<TypeParam> send(gpu, leaving), recv(gpu, expected.size());
      group->all_to_all(send.view(), out, recv.view(), in).wait();
      recv.read();
      gpu.synchronize();
      ASSERT_EQ(numbers(recv.values()), numbers(expected));
    }
  });
}

// Each rank first sends twice to both neighbours, then receives: every send waits for a receive
// that its peer comes to only behind its own sends.
TYPED_TEST(group_on_gpu, messages_cross_each_other) {
  on_each_carrier([](Carrier carrier, const Gpu& gpu) {
    const auto group = make_group(carrier, Communicator::world(), "world", gpu);
    if (group->size() == 1) return;
    const int me = group->rank(), size = group->size();
    const int next = (me + 1) % size, previous = (me + size - 1) % size;
    for (const auto count : kCounts) {
      Flow<TypeParam> a(gpu, values_of<TypeParam>(me, count)),
          b(gpu, values_of<TypeParam>(me, count + 1, 7)),
          c(gpu, values_of<TypeParam>(me, count, 3)), from_a(gpu, count), from_b(gpu, count + 1),
          from_c(gpu, count);
      std::vector<Pending> sent;
      sent.push_back(group->send(a.view(), next, 1));
      sent.push_back(group->send(b.view(), next, 2));
      sent.push_back(group->send(c.view(), previous, 3));
      group->recv(from_a.view(), previous, 1).wait();
      from_a.read();
      auto second = group->recv(from_b.view(), previous, 2);
      group->recv(from_c.view(), next, 3).wait();
      second.wait();
      from_b.read();
      from_c.read();
      sent.clear();
      gpu.synchronize();
      ASSERT_EQ(numbers(from_a.values()), numbers(values_of<TypeParam>(previous, count)));
      ASSERT_EQ(numbers(from_b.values()), numbers(values_of<TypeParam>(previous, count + 1, 7)));
      ASSERT_EQ(numbers(from_c.values()), numbers(values_of<TypeParam>(next, count, 3)));
    }
  });
}

TYPED_TEST(group_on_gpu, one_rank_alone_copies_in_the_streams_order) {
  for (int seed = 1; seed <= 3; ++seed) {
    const Gpu gpu(choose(seed, 1));
    const auto group = make_self_group("alone", &gpu);
    const auto mine = values_of<TypeParam>(0, 77);
    const std::vector<std::size_t> counts{77};
    Flow<TypeParam> x(gpu, mine), gathered(gpu, 77), part(gpu, 77), exchanged(gpu, 77);
    group->all_reduce(x.view(), ReduceOp::kSum).wait();
    group->all_gather(x.view(), gathered.view()).wait();
    group->reduce_scatter(gathered.view(), part.view(), ReduceOp::kSum).wait();
    group->all_to_all(part.view(), counts, exchanged.view(), counts).wait();
    exchanged.read();
    gpu.synchronize();
    EXPECT_EQ(numbers(exchanged.values()), numbers(mine));
  }
}

}  // namespace
}  // namespace pg::comm::testing

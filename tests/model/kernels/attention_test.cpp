// Blocked attention against its definition, in all three types, over odd sizes, through strided
// views; and what holds beyond values: thread counts, memory, not-finite numbers.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmath>
#include <fstream>
#include <limits>

#include "tests/model/kernels/attention_operands.h"

namespace pg::model {
namespace {

using testing::AttentionCase;
using testing::AttentionInput;
using testing::expect_untouched;
using testing::expect_within;
using testing::kPad;
using testing::Packed;
using testing::Precision;

// Operands of one case; run() fills o, lse and the gradients.
struct Attention {
  Attention(const AttentionCase& shape, DType type, const AttentionInput& in)
      : c(shape),
        tokens(c.sequences * c.length),
        wide(c.heads * c.size),
        narrow(c.kv_heads * c.size),
        qkv(type, tokens, wide + 2 * narrow + kPad),
        gradients(type, tokens, wide + 2 * narrow + kPad),
        o(type, tokens, wide + kPad),
        d_o(type, tokens, wide + kPad),
        lse(accumulator_of(type), c.sequences * c.heads, c.length),
        samples(sample_numbers(c)) {
    qkv.write(0, wide, in.q);
    qkv.write(wide, narrow, in.k);
    qkv.write(wide + narrow, narrow, in.v);
    d_o.write(0, wide, in.d_o);
  }

  void forward(Kernels& kernels) {
    kernels.attention_forward(o.heads(c, 0, c.heads), lse_view(), part(qkv, 0), part(qkv, 1),
                              part(qkv, 2), {c.scale, c.window}, dropout());
  }
  void backward(Kernels& kernels) {
    kernels.attention_backward(part(gradients, 0), part(gradients, 1), part(gradients, 2),
                               d_o.heads(c, 0, c.heads), part(qkv, 0), part(qkv, 1), part(qkv, 2),
                               o.heads(c, 0, c.heads), lse_view(), {c.scale, c.window}, dropout());
  }
  TensorView part(Packed& x, int which) {
    if (which == 0) return x.heads(c, 0, c.heads);
    return x.heads(c, wide + (which - 1) * narrow, c.kv_heads);
  }
  TensorView lse_view() { return lse.view().split_first(c.sequences); }
  Dropout dropout() const { return {c.rate, testing::mask_key(), samples}; }

  AttentionCase c;
  std::int64_t tokens, wide, narrow;
  Packed qkv, gradients, o, d_o, lse;
  std::vector<std::int64_t> samples;
};

void expect_matches_definition(const AttentionCase& c, DType type, Kernels& kernels) {
  SCOPED_TRACE(fmt::format("{} B {} T {} H {} K {} D {} window {} dropout {}", dtype_name(type),
                           c.sequences, c.length, c.heads, c.kv_heads, c.size, c.window, c.rate));
  const auto in = testing::random_input(c, static_cast<std::uint64_t>(c.length * 1000 + c.size));
  const Precision precision(type);
  const auto expected = testing::reference(c, in, precision.eps, precision.storage);
  Attention run(c, type, in);
  run.forward(kernels);
  expect_within("o", run.o, 0, run.wide, expected.o);
  expect_within("lse", run.lse, 0, c.length, expected.lse);
  expect_untouched("o", run.o, run.tokens, run.wide);
  run.backward(kernels);
  expect_within("dq", run.gradients, 0, run.wide, expected.dq);
  expect_within("dk", run.gradients, run.wide, run.narrow, expected.dk);
  expect_within("dv", run.gradients, run.wide + run.narrow, run.narrow, expected.dv);
  expect_untouched("dqkv", run.gradients, run.tokens, run.wide + 2 * run.narrow);
}

class AttentionOf : public ::testing::TestWithParam<DType> {};

// All lengths, head groups and sizes; batch, window and dropout go round, out of step with them.
TEST_P(AttentionOf, odd_sizes_matches_its_definition) {
  const auto kernels = make_cpu_kernels(1);
  int turn = static_cast<int>(GetParam());
  for (const std::int64_t length : {1, 2, 17, 64, 65, 130}) {
    for (const auto& [heads, kv_heads] : {std::pair{1, 1}, {4, 2}, {6, 1}, {3, 3}}) {
      for (const std::int64_t size : {1, 2, 6, 16, 40, 64, 80}) {
        const std::int64_t windows[] = {0, 1, 7, length + 3};
        AttentionCase c{1 + turn % 3, length, heads, kv_heads, size, windows[turn % 4]};
        c.rate = turn / 4 % 2 == 0 ? 0.0 : 0.3;
        c.scale = 1.0 / std::sqrt(static_cast<double>(size));
        expect_matches_definition(c, GetParam(), *kernels);
        ++turn;
      }
    }
  }
}

// Several blocks of queries and of keys; heads wider than the widest usual; a window that begins
// and ends inside blocks; a scale that is not positive.
TEST_P(AttentionOf, many_blocks_matches_its_definition) {
  const auto kernels = make_cpu_kernels(2);
  for (const auto& c : {AttentionCase{1, 300, 4, 2, 33, 0, 0.0, 0.17},
                        AttentionCase{1, 300, 2, 1, 24, 100, 0.3, 0.2},
                        AttentionCase{2, 295, 1, 1, 5, 70, 0.0, -0.4},
                        AttentionCase{1, 70, 2, 1, 256, 0, 0.3, 0.0625},
                        AttentionCase{1, 513, 1, 1, 16, 0, 0.3, 0.25}}) {
    expect_matches_definition(c, GetParam(), *kernels);
  }
}

// Backward goes another way when threads outnumber (sequence, kv head) pairs: 1 thread sweeps
// pairs, 3 and 5 threads sweep keys and queries separately.
TEST_P(AttentionOf, any_thread_count_gives_the_same_bits) {
  for (const auto& c : {AttentionCase{1, 300, 4, 2, 40, 0, 0.3, 0.16},
                        AttentionCase{2, 150, 3, 1, 17, 70, 0.0, 0.25},
                        AttentionCase{1, 1, 1, 1, 8, 0, 0.0, 0.35}}) {
    const auto in = testing::random_input(c, 5);
    Attention one(c, GetParam(), in);
    const auto single = make_cpu_kernels(1);
    one.forward(*single);
    one.backward(*single);
    for (const int threads : {2, 3, 5}) {
      Attention many(c, GetParam(), in);
      const auto kernels = make_cpu_kernels(threads);
      many.forward(*kernels);
      many.backward(*kernels);
      EXPECT_EQ(many.o.bytes(), one.o.bytes()) << threads << " threads, T " << c.length;
      EXPECT_EQ(many.lse.bytes(), one.lse.bytes()) << threads << " threads, T " << c.length;
      EXPECT_EQ(many.gradients.bytes(), one.gradients.bytes())
          << threads << " threads, T " << c.length;
    }
  }
}

// A rank's heads have the masks they have among all heads: outputs and gradients are the same bits.
TEST_P(AttentionOf, some_of_the_heads_give_their_part_of_the_whole) {
  const AttentionCase c{2, 133, 6, 3, 16, 0, 0.3, 0.25};
  Attention whole(c, GetParam(), testing::random_input(c, 7));
  Attention parts(c, GetParam(), testing::random_input(c, 7));
  const auto kernels = make_cpu_kernels(1);
  whole.forward(*kernels);
  whole.backward(*kernels);
  for (const auto& [first, count] : {std::pair<std::int64_t, std::int64_t>{0, 1}, {1, 2}}) {
    // Key/value heads [first, first + count) and their two query heads each.
    const auto own = [&, f = first, n = count](TensorView x) {
      const std::int64_t group = x.dim(2) / c.kv_heads;
      return x.slice(2, f * group, n * group);
    };
    Dropout dropout = parts.dropout();
    dropout.first_head = 2 * first;
    const auto o = own(parts.o.heads(c, 0, c.heads));
    const auto lse = parts.lse_view().slice(1, 2 * first, 2 * count);
    const auto q = own(parts.part(parts.qkv, 0)), k = own(parts.part(parts.qkv, 1)),
               v = own(parts.part(parts.qkv, 2));
    kernels->attention_forward(o, lse, q, k, v, {c.scale, c.window}, dropout);
    kernels->attention_backward(
        own(parts.part(parts.gradients, 0)), own(parts.part(parts.gradients, 1)),
        own(parts.part(parts.gradients, 2)), own(parts.d_o.heads(c, 0, c.heads)), q, k, v, o, lse,
        {c.scale, c.window}, dropout);
  }
  EXPECT_EQ(parts.o.bytes(), whole.o.bytes());
  EXPECT_EQ(parts.lse.bytes(), whole.lse.bytes());
  EXPECT_EQ(parts.gradients.bytes(), whole.gradients.bytes());
}

TEST_P(AttentionOf, not_finite_numbers_reach_every_query_that_sees_them_and_no_earlier_block) {
  const AttentionCase c{1, 200, 1, 1, 8, 0, 0.0, 0.35};
  const auto kernels = make_cpu_kernels(1);
  for (const double bad :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    for (const bool in_key : {true, false}) {
      auto in = testing::random_input(c, 9);
      (in_key ? in.k : in.v)[static_cast<std::size_t>(150 * c.size)] = bad;
      Attention run(c, GetParam(), in);
      run.forward(*kernels);
      for (std::int64_t t = 0; t < 128; ++t) {
        ASSERT_TRUE(std::isfinite(run.o.get(t, 0))) << "query " << t;
      }
      // An infinite key may also score minus infinity, and is then rightly not looked at.
      for (std::int64_t t = 150; t < c.length && (!in_key || std::isnan(bad)); ++t) {
        ASSERT_FALSE(std::isfinite(run.o.get(t, 0))) << "query " << t;
      }
      run.backward(*kernels);
      bool found = false;
      for (std::int64_t t = 0; t < c.length; ++t) {
        for (std::int64_t d = 0; d < run.wide; ++d) {
          found = found || !std::isfinite(run.gradients.get(t, d));
        }
      }
      EXPECT_TRUE(found) << "gradients hide " << bad;
    }
  }
}

// One score stands out by thousands: P is exactly one-hot, so o is that key's value.
TEST_P(AttentionOf, scores_of_thousands_do_not_overflow) {
  const AttentionCase c{1, 100, 1, 1, 4, 0, 0.0, 2000.0};
  auto in = testing::random_input(c, 3);
  for (std::int64_t t = 0; t < c.length; ++t) {
    for (std::int64_t d = 0; d < c.size; ++d) {
      in.q[static_cast<std::size_t>(t * c.size + d)] = d == 0 ? 1.0 : 0.0;
      in.k[static_cast<std::size_t>(t * c.size + d)] = t == 0 ? 2.0 : -2.0;
    }
  }
  Attention run(c, GetParam(), in);
  const auto kernels = make_cpu_kernels(1);
  run.forward(*kernels);
  run.backward(*kernels);
  for (std::int64_t t = 0; t < c.length; ++t) {
    for (std::int64_t d = 0; d < c.size; ++d) {
      ASSERT_EQ(run.o.get(t, d), in.v[static_cast<std::size_t>(d)]);
      ASSERT_TRUE(std::isfinite(run.gradients.get(t, d)));
    }
  }
}

std::size_t resident_bytes() {
  std::ifstream statm("/proc/self/statm");
  std::size_t pages = 0;
  statm >> pages >> pages;
  return pages * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
}

// T x T in fp32 would be 441 MB at 10,500 positions. What may be allocated is O(T D): the sweep's
// dK and dV, 2 * 10,500 * 16 * 8 bytes = 2.7 MB, and blocks far below 1 MB.
TEST_P(AttentionOf, ten_thousand_positions_needs_no_square_of_them) {
  const AttentionCase c{1, 10500, 1, 1, 8, 0, 0.0, 0.35};
  const auto in = testing::random_input(c, 3);
  Attention run(c, GetParam(), in);
  const auto kernels = make_cpu_kernels(1);
  const auto before = resident_bytes();
  run.forward(*kernels);
  run.backward(*kernels);
  rusage usage{};
  ASSERT_EQ(getrusage(RUSAGE_SELF, &usage), 0);
  // The peak of the whole process, other tests included: their references hold a few MB.
  EXPECT_LT(static_cast<std::size_t>(usage.ru_maxrss) * 1024, before + (std::size_t{64} << 20));
}

INSTANTIATE_TEST_SUITE_P(, AttentionOf, ::testing::Values(DType::kF64, DType::kF32, DType::kBF16),
                         [](const auto& param) { return std::string(dtype_name(param.param)); });

TEST(Attention, shapes_that_do_not_fit_are_bugs) {
  const AttentionCase c{1, 4, 3, 3, 2, 0, 0.0, 1.0};
  Attention run(c, DType::kF32, testing::random_input(c, 1));
  const auto kernels = make_cpu_kernels(1);
  const auto forward = [&](TensorView k, TensorView lse, const Dropout& dropout) {
    kernels->attention_forward(run.o.heads(c, 0, 3), lse, run.part(run.qkv, 0), k,
                               run.part(run.qkv, 2), {1.0, 0}, dropout);
  };
  const auto k = run.part(run.qkv, 1);
  EXPECT_NO_THROW(forward(k, run.lse_view(), {}));
  EXPECT_THROW(forward(k.slice(2, 0, 2), run.lse_view(), {}), std::exception);  // 3 heads over 2
  EXPECT_THROW(forward(k.slice(1, 0, 3), run.lse_view(), {}), std::exception);
  EXPECT_THROW(forward(k, run.lse_view().slice(2, 0, 3), {}), std::exception);
  EXPECT_THROW(forward(k, run.lse_view(), {0.5, {}, {}}), std::exception);  // no sample numbers
  const std::int64_t sample[] = {0};
  EXPECT_THROW(forward(k, run.lse_view(), {1.0, {}, sample}), std::exception);
}

}  // namespace
}  // namespace pg::model

#include "tests/cuda/tolerance.h"

namespace pg::model::testing {
namespace {

struct Shape {
  std::int64_t n, heads, size;
};
constexpr Shape kShapes[] = {{1, 1, 2},   {3, 2, 6},  {17, 3, 64}, {9, 5, 128}, {33, 1, 10},
                             {5, 40, 32}, {2, 2, 96}, {4, 1, 520}, {2, 1, 1100}};

// The angle p f has one rounding of double on each side (the CPU's two more when it adds angles),
// which moves a sine by p units of 2^-53; then a rounding of each of sine, products and sum.
double angle_tolerance(DType type, double furthest) {
  return tolerance(type, 6.0) + 4.0 * furthest * 0x1.0p-53;
}

TEST(CudaRope, turns_as_the_cpu_and_back) {
  Backends both;
  for (const auto type : kComputeTypes) {
    for (const auto& s : kShapes) {
      for (const std::int64_t furthest : {0, 100, 131072, 2000000000}) {
        SCOPED_TRACE(std::string(dtype_name(type)) + " " + std::to_string(s.n) + "x" +
                     std::to_string(s.heads) + "x" + std::to_string(s.size) + " to " +
                     std::to_string(furthest));
        Mirror x(type, {s.n, s.heads, s.size}), positions(DType::kI32, {s.n});
        x.normal("x"), positions.whole("positions", 0, furthest);
        for (const bool inverse : {false, true}) {
          const auto before = x.from_device();
          both.cuda->rope(x.device(), positions.device(), 500000.0, inverse);
          const auto first = x.from_device();
          both.cpu->rope(x.host(), positions.host(), 500000.0, inverse);
          EXPECT_LE(deviation(x), angle_tolerance(type, static_cast<double>(furthest)));
          // The next turn starts from the same numbers on both sides.
          x.upload();
          if (furthest > 0 && s.n > 1) {
            EXPECT_FALSE(same_bits(before, first));
          }
        }
      }
    }
  }
}

// q and k inside rows of q, k and v: what lies beside them stays.
TEST(CudaRope, heads_inside_packed_rows) {
  Backends both;
  for (const auto type : kComputeTypes) {
    for (const std::int64_t size : {32, 20}) {
      for (const std::int64_t at : {0, 3}) {
        Mirror packed(type, {7, 6 * size + 3}), again(type, {7, 6 * size + 3});
        Mirror positions(DType::kI32, {7});
        packed.normal("packed"), again.normal("packed"), positions.whole("positions", 0, 5000);
        const auto heads = [&](TensorView v) { return v.slice(1, at, 4 * size).split_last(size); };
        both.cpu->rope(heads(packed.host()), positions.host(), 10000.0, false);
        both.cuda->rope(heads(packed.device()), positions.device(), 10000.0, false);
        both.cuda->rope(heads(again.device()), positions.device(), 10000.0, false);
        EXPECT_LE(deviation(packed), angle_tolerance(type, 5000.0));
        const auto got = packed.from_device();
        EXPECT_TRUE(same_bits(got, again.from_device()));
        for (std::int64_t i = 0; i < packed.elements(); ++i) {
          const std::int64_t column = i % (6 * size + 3);
          if (column >= at && column < at + 4 * size) continue;
          EXPECT_EQ(got[static_cast<std::size_t>(i)], packed.at_host(i));
        }
      }
    }
  }
}

TEST(CudaRope, bits_do_not_depend_on_where_the_heads_lie) {
  Backends both;
  for (const auto type : kComputeTypes) {
    const auto run = [&](std::int64_t at) {
      Mirror x(type, {5, 3 * 32}), packed(type, {5, 3 * 32 + 8}), positions(DType::kI32, {5});
      x.normal("x"), packed.fill(0.0), positions.whole("positions", 0, 9999);
      const auto part = packed.device().slice(1, at, 3 * 32);
      both.cuda->copy(part, x.device());
      both.cuda->rope(part.split_last(32), positions.device(), 10000.0, false);
      both.cuda->copy(x.device(), part);
      return x.from_device();
    };
    EXPECT_TRUE(same_bits(run(0), run(1))) << dtype_name(type);
  }
}

TEST(CudaRope, control_the_next_position_is_found) {
  Backends both;
  for (const auto type : kComputeTypes) {
    Mirror x(type, {2, 2, 64}), positions(DType::kI32, {2}), next(DType::kI32, {2});
    x.normal("x"), positions.fill(40.0), next.fill(41.0);
    both.cpu->rope(x.host(), positions.host(), 10000.0, false);
    both.cuda->rope(x.device(), next.device(), 10000.0, false);
    EXPECT_GT(deviation(x), angle_tolerance(type, 41.0));
  }
}

}  // namespace
}  // namespace pg::model::testing

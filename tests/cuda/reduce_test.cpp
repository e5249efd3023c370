#include "tests/cuda/tolerance.h"

namespace pg::model::testing {
namespace {

// Sums in fp64 whose terms are the same on both sides: apart by at most the number of additions
// times half a unit of the sum of the magnitudes.
double bound(std::int64_t terms, double magnitudes) {
  return 2.0 * static_cast<double>(terms) * 0x1.0p-53 * magnitudes;
}

TEST(CudaReduce, sum_adds_to_the_total) {
  Backends both;
  for (const auto type : kComputeTypes) {
    for (const std::int64_t n : {0, 1, 3, 17, 129, 1000, 16384, 16385, 70001}) {
      Mirror x(type, {n + 1}), total(DType::kF64, {1});
      x.normal("x"), total.fill(5.0);
      for (const std::int64_t at : {0, 1}) {
        SCOPED_TRACE(std::string(dtype_name(type)) + " " + std::to_string(n) + " from " +
                     std::to_string(at));
        double magnitudes = 10.0;
        for (std::int64_t i = 0; i < n; ++i) magnitudes += std::fabs(x.at_host(at + i));
        total.fill(5.0);
        both.cpu->sum(total.host(), x.host().slice(0, at, n));
        both.cuda->sum(total.device(), x.device().slice(0, at, n));
        EXPECT_NEAR(total.from_device()[0], total.at_host(0), bound(n + 2, magnitudes));
        if (n == 0) {
          EXPECT_EQ(total.from_device()[0], 5.0);
        }
      }
    }
  }
}

TEST(CudaReduce, squares_of_many_parts) {
  Backends both;
  for (const auto type : kComputeTypes) {
    for (const std::size_t count : {1, 3, 159, 160, 161, 400}) {
      Mirror x(type, {200000}), total(DType::kF64, {1});
      x.normal("x"), total.fill(0.25);
      std::vector<TensorView> host, device;
      std::int64_t at = 0, terms = 0;
      for (std::size_t i = 0; i < count; ++i) {
        // Empty ones, ones that do not begin at 16 bytes, one of several pieces.
        const auto n = static_cast<std::int64_t>(i == 2 ? 40000 : i * 37 % 90);
        host.push_back(x.host().slice(0, at, n)), device.push_back(x.device().slice(0, at, n));
        at += n, terms += n;
      }
      both.cpu->sum_of_squares(total.host(), host);
      const auto run = [&] {
        total.upload();
        both.cuda->sum_of_squares(total.device(), device);
        return total.from_device()[0];
      };
      const double expected = total.at_host(0);
      total.fill(0.25);
      const double first = run();
      EXPECT_NEAR(first, expected, bound(terms + 2, expected)) << dtype_name(type) << " " << count;
      EXPECT_EQ(first, run());
    }
  }
}

TEST(CudaReduce, parts_of_several_types_and_none) {
  Backends both;
  Mirror a(DType::kF32, {50}), b(DType::kBF16, {70}), c(DType::kF64, {33}), total(DType::kF64, {1});
  a.normal("a"), b.normal("b"), c.normal("c"), total.fill(0.0);
  const std::vector<TensorView> host = {a.host(), b.host(), c.host(), a.host()};
  const std::vector<TensorView> device = {a.device(), b.device(), c.device(), a.device()};
  both.cpu->sum_of_squares(total.host(), host);
  both.cuda->sum_of_squares(total.device(), device);
  both.cuda->sum_of_squares(total.device(), {});
  EXPECT_NEAR(total.from_device()[0], total.at_host(0), bound(203, total.at_host(0)));
}

TEST(CudaReduce, bits_do_not_depend_on_where_the_part_lies) {
  Backends both;
  for (const auto type : kComputeTypes) {
    Mirror x(type, {20001}), y(type, {20008}), total(DType::kF64, {2});
    x.normal("x"), y.fill(0.0), total.fill(0.0);
    both.cuda->copy(y.device().slice(0, 3, 20001), x.device());
    both.cuda->sum(total.device().slice(0, 0, 1), x.device());
    both.cuda->sum(total.device().slice(0, 1, 1), y.device().slice(0, 3, 20001));
    EXPECT_EQ(total.from_device()[0], total.from_device()[1]);
  }
}

TEST(CudaReduce, not_a_number_reaches_the_total) {
  Backends both;
  Mirror x(DType::kF32, {40000}), total(DType::kF64, {1});
  x.normal("x"), total.fill(0.0);
  std::vector<double> values(40000, 1.0);
  values[39999] = NAN;
  x.values(values);
  both.cuda->sum(total.device(), x.device());
  EXPECT_TRUE(std::isnan(total.from_device()[0]));
}

TEST(CudaReduce, rows_of_a_strided_matrix) {
  Backends both;
  for (const std::int64_t rows : {1, 3, 31, 100}) {
    for (const std::int64_t width : {1, 17, 33, 129}) {
      Mirror x(DType::kF64, {rows, width + 5}), sums(DType::kF64, {width});
      x.normal("x"), sums.fill(2.0);
      both.cpu->sum_rows(sums.host(), x.host().slice(1, 2, width));
      both.cuda->sum_rows(sums.device(), x.device().slice(1, 2, width));
      // Sums of rows + 1 terms, relative to a typical one's magnitude.
      EXPECT_LE(deviation(sums), tolerance(DType::kF64, static_cast<double>(4 * rows + 4)));
    }
  }
}

TEST(CudaReduce, control_a_missing_element_is_found) {
  Backends both;
  Mirror x(DType::kF32, {1000}), total(DType::kF64, {1});
  x.fill(1e-3), total.fill(0.0);
  both.cpu->sum(total.host(), x.host());
  both.cuda->sum(total.device(), x.device().slice(0, 0, 999));
  EXPECT_GT(std::fabs(total.from_device()[0] - total.at_host(0)), bound(1002, 1.0));
}

}  // namespace
}  // namespace pg::model::testing

#include <bit>

#include "tests/cuda/mirror.h"

namespace pg::model::testing {
namespace {

// The GPU rounds to bf16 by an instruction: ties, denormals, overflow to infinity and NaNs must be
// those of pg::bf16 (one NaN is as good as another).
TEST(CudaConversion, bf16_of_every_kind_of_float) {
  Backends both;
  std::vector<double> values;
  for (std::uint32_t upper = 0; upper < 0x10000; upper += 7) {
    for (const std::uint32_t lower : {0x0000u, 0x7FFFu, 0x8000u, 0x8001u}) {
      values.push_back(static_cast<double>(std::bit_cast<float>(upper << 16 | lower)));
    }
  }
  const auto n = static_cast<std::int64_t>(values.size());
  Mirror x(DType::kF32, {n}), y(DType::kBF16, {n}), wide(DType::kBF16, {n / 2, 3});
  x.values(values);
  both.cpu->copy(y.host(), x.host());
  both.cuda->copy(y.device(), x.device());
  EXPECT_TRUE(same(y));
  // Single elements take another instruction than pairs do.
  wide.fill(0.0);
  both.cpu->copy(wide.host().slice(1, 1, 2), x.host().reshape({n / 2, 2}));
  both.cuda->copy(wide.device().slice(1, 1, 2), x.device().reshape({n / 2, 2}));
  EXPECT_TRUE(same(wide));
  // The pairs of packs: the sum of two, rounded.
  Mirror a(DType::kBF16, {1, n}), r(DType::kBF16, {1, n}), other(DType::kBF16, {1, n});
  Mirror out(DType::kBF16, {1, n}), stats(DType::kF32, {1, 2}), gamma(DType::kBF16, {n});
  a.values(values), other.whole("other", -3, 3), gamma.fill(1.0);
  both.cpu->norm_forward(NormKind::kRmsNorm, out.host(), r.host(), stats.host(), a.host(),
                         other.host(), gamma.host(), TensorView(), 1.0);
  both.cuda->norm_forward(NormKind::kRmsNorm, out.device(), r.device(), stats.device(), a.device(),
                          other.device(), gamma.device(), TensorView(), 1.0);
  EXPECT_TRUE(same(r));
}

TEST(CudaConversion, control_rounding_down_is_found) {
  Backends both;
  Mirror x(DType::kF32, {4}), y(DType::kBF16, {4});
  x.values({1.0, 1.0 + 0x1.8p-7, 1.0, 1.0});  // a tie, to the even neighbour above
  both.cuda->copy(y.device(), x.device());
  both.cpu->copy(y.host(), x.host());
  EXPECT_TRUE(same(y));
  x.values({1.0, 1.0 + 0x1.0p-7, 1.0, 1.0});
  both.cpu->copy(y.host(), x.host());
  EXPECT_FALSE(same(y));
}

}  // namespace
}  // namespace pg::model::testing

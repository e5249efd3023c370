#include "tests/cuda/tolerance.h"

namespace pg::model::testing {
namespace {

// A sum of w terms in another order errs by at most w roundings, by about sqrt(w) in fact; results
// divide by statistics of such sums. 16 more for the chain of products. Parameter gradients are
// sums over the rows.
double roundings(std::int64_t terms) {
  return 16.0 + static_cast<double>(terms);
}

struct Shape {
  std::int64_t n, width;
};
// One warp a row, one block a row, wider than registers; whole packs and others.
constexpr Shape kShapes[] = {{1, 1},   {3, 3},    {5, 17},    {9, 64},   {40, 129}, {65, 256},
                             {2, 768}, {30, 520}, {17, 1028}, {3, 4096}, {2, 9001}, {3, 18440}};

std::string name_of(DType type, NormKind kind, const Shape& s) {
  return std::string(dtype_name(type)) +
         (kind == NormKind::kLayerNorm ? " LayerNorm " : " RMSNorm ") + std::to_string(s.n) + "x" +
         std::to_string(s.width);
}

// dgamma and dbeta are added to 1; what matters is what was added.
TEST(CudaNorm, forward_and_backward_are_the_cpus) {
  Backends both;
  for (const auto type : kComputeTypes) {
    for (const auto kind : {NormKind::kLayerNorm, NormKind::kRmsNorm}) {
      for (const auto& s : kShapes) {
        SCOPED_TRACE(name_of(type, kind, s));
        const auto accumulator = accumulator_of(type);
        const bool centred = kind == NormKind::kLayerNorm;
        Mirror residual(type, {s.n, s.width}), x(type, {s.n, s.width}), r(type, {s.n, s.width});
        Mirror y(type, {s.n, s.width}), stats(accumulator, {s.n, 2});
        Mirror gamma(type, {s.width}), beta(type, {s.width});
        residual.normal("residual", 0.5), x.normal("x"), gamma.normal("gamma", 1.0, 0.3);
        beta.normal("beta");
        both.cpu->norm_forward(kind, y.host(), r.host(), stats.host(), residual.host(), x.host(),
                               gamma.host(), centred ? beta.host() : TensorView(), 1e-5);
        const auto forward = [&] {
          both.cuda->norm_forward(kind, y.device(), r.device(), stats.device(), residual.device(),
                                  x.device(), gamma.device(),
                                  centred ? beta.device() : TensorView(), 1e-5);
          return y.from_device();
        };
        const auto first = forward();
        EXPECT_TRUE(same(r));  // one addition and one rounding
        EXPECT_LE(deviation(y), tolerance(type, roundings(s.width)));
        EXPECT_LE(deviation(stats), tolerance(accumulator, roundings(s.width)));
        EXPECT_TRUE(same_bits(first, forward()));

        // Both backends from the same statistics: the host's.
        stats.upload();
        Mirror dr(type, {s.n, s.width}), dy(type, {s.n, s.width});
        Mirror dgamma(accumulator, {s.width}), dbeta(accumulator, {s.width});
        dy.normal("dy"), dr.normal("dr"), dgamma.fill(1.0), dbeta.fill(1.0);
        const auto bias = [&](TensorView v) { return centred ? v : TensorView(); };
        both.cuda->norm_backward(kind, dr.device(), dgamma.device(), bias(dbeta.device()),
                                 dy.device(), r.device(), stats.device(), gamma.device());
        const auto dr_once = dr.from_device(), gamma_once = dgamma.from_device(),
                   beta_once = dbeta.from_device();
        dr.upload(), dgamma.upload(), dbeta.upload();
        both.cuda->norm_backward(kind, dr.device(), dgamma.device(), bias(dbeta.device()),
                                 dy.device(), r.device(), stats.device(), gamma.device());
        EXPECT_TRUE(same_bits(dr_once, dr.from_device()));
        EXPECT_TRUE(same_bits(gamma_once, dgamma.from_device()));
        EXPECT_TRUE(same_bits(beta_once, dbeta.from_device()));
        both.cpu->norm_backward(kind, dr.host(), dgamma.host(), bias(dbeta.host()), dy.host(),
                                r.host(), stats.host(), gamma.host());
        EXPECT_LE(deviation(dr), tolerance(type, roundings(s.width)));
        EXPECT_LE(deviation(dgamma), tolerance(accumulator, roundings(s.n)));
        EXPECT_LE(deviation(dbeta), tolerance(accumulator, roundings(s.n)));
      }
    }
  }
}

TEST(CudaNorm, without_a_branch_r_is_not_written_and_r_may_be_the_residual) {
  Backends both;
  for (const auto type : kComputeTypes) {
    for (const auto kind : {NormKind::kLayerNorm, NormKind::kRmsNorm}) {
      Mirror residual(type, {6, 200}), x(type, {6, 200}), r(type, {6, 200}), y(type, {6, 200});
      Mirror stats(accumulator_of(type), {6, 2}), gamma(type, {200});
      residual.normal("residual"), x.normal("x"), gamma.normal("gamma");
      const auto before = r.from_device();
      both.cpu->norm_forward(kind, y.host(), TensorView(), stats.host(), residual.host(),
                             TensorView(), gamma.host(), TensorView(), 1e-6);
      both.cuda->norm_forward(kind, y.device(), r.device(), stats.device(), residual.device(),
                              TensorView(), gamma.device(), TensorView(), 1e-6);
      EXPECT_LE(deviation(y), tolerance(type, roundings(200)));
      EXPECT_TRUE(same_bits(before, r.from_device()));
      EXPECT_TRUE(same(residual));

      both.cpu->norm_forward(kind, y.host(), residual.host(), stats.host(), residual.host(),
                             x.host(), gamma.host(), TensorView(), 1e-6);
      both.cuda->norm_forward(kind, y.device(), residual.device(), stats.device(),
                              residual.device(), x.device(), gamma.device(), TensorView(), 1e-6);
      EXPECT_TRUE(same(residual));
      EXPECT_LE(deviation(y), tolerance(type, roundings(200)));
    }
  }
}

// A pass that is computed again lies elsewhere, and must have the bits of the first.
TEST(CudaNorm, bits_do_not_depend_on_where_the_rows_lie) {
  Backends both;
  for (const auto type : kComputeTypes) {
    for (const std::int64_t width : {24, 136, 1100, 9000}) {
      constexpr std::int64_t kRows = 9;
      const auto accumulator = accumulator_of(type);
      // Columns of a wider matrix: `at` chooses between aligned rows and others.
      const auto run = [&](std::int64_t at) {
        Mirror in(type, {kRows, width}), gamma(type, {width + 8}), packed(type, {kRows, width + 8});
        Mirror y(type, {kRows, width + 8}), dr(type, {kRows, width + 8});
        Mirror stats(accumulator, {kRows, 2}), dgamma(accumulator, {width}),
            out(type, {kRows, width});
        in.normal("in"), gamma.fill(1.25), packed.fill(0.0), dr.fill(0.5), dgamma.fill(0.0);
        const auto part = [&](const Mirror& m) { return m.device().slice(1, at, width); };
        const auto scale = gamma.device().slice(0, at, width);
        both.cuda->copy(part(packed), in.device());
        both.cuda->norm_forward(NormKind::kLayerNorm, part(y), TensorView(), stats.device(),
                                part(packed), TensorView(), scale, TensorView(), 1e-5);
        both.cuda->norm_backward(NormKind::kLayerNorm, part(dr), dgamma.device(), TensorView(),
                                 part(packed), part(packed), stats.device(), scale);
        both.cuda->copy(out.device(), part(y));
        auto all = out.from_device();
        both.cuda->copy(out.device(), part(dr));
        for (const auto& more : {out.from_device(), stats.from_device(), dgamma.from_device()}) {
          all.insert(all.end(), more.begin(), more.end());
        }
        return all;
      };
      const auto aligned = run(0);
      EXPECT_TRUE(same_bits(aligned, run(1))) << dtype_name(type) << " " << width;
      EXPECT_TRUE(same_bits(aligned, run(8))) << dtype_name(type) << " " << width;
    }
  }
}

TEST(CudaNorm, a_row_that_is_not_finite_stays_so_alone) {
  Backends both;
  for (const auto type : kComputeTypes) {
    Mirror residual(type, {3, 40}), y(type, {3, 40}), gamma(type, {40});
    Mirror stats(accumulator_of(type), {3, 2});
    std::vector<double> values(120, 1.0);
    for (std::size_t i = 0; i < 120; ++i) values[i] = std::sin(static_cast<double>(i));
    values[45] = NAN;
    residual.values(values), gamma.fill(1.0);
    for (const auto kind : {NormKind::kLayerNorm, NormKind::kRmsNorm}) {
      both.cpu->norm_forward(kind, y.host(), TensorView(), stats.host(), residual.host(),
                             TensorView(), gamma.host(), TensorView(), 1e-6);
      both.cuda->norm_forward(kind, y.device(), TensorView(), stats.device(), residual.device(),
                              TensorView(), gamma.device(), TensorView(), 1e-6);
      EXPECT_LE(deviation(y), tolerance(type, roundings(40)));
      const auto got = y.from_device();
      EXPECT_TRUE(std::isnan(got[40]));
      EXPECT_FALSE(std::isnan(got[39]));
      EXPECT_FALSE(std::isnan(got[80]));
    }
  }
}

TEST(CudaNorm, control_another_epsilon_is_found) {
  Backends both;
  for (const auto type : kComputeTypes) {
    Mirror residual(type, {4, 64}), y(type, {4, 64}), gamma(type, {64});
    Mirror stats(accumulator_of(type), {4, 2});
    residual.normal("residual"), gamma.fill(1.0);
    both.cpu->norm_forward(NormKind::kRmsNorm, y.host(), TensorView(), stats.host(),
                           residual.host(), TensorView(), gamma.host(), TensorView(), 1e-5);
    both.cuda->norm_forward(NormKind::kRmsNorm, y.device(), TensorView(), stats.device(),
                            residual.device(), TensorView(), gamma.device(), TensorView(), 3e-2);
    EXPECT_GT(deviation(y), tolerance(type, roundings(64)));
  }
}

}  // namespace
}  // namespace pg::model::testing

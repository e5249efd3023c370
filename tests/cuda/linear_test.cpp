// Linear layers on the GPU: against the CPU's within the rounding of sums, and bit for bit where
// whole numbers leave nothing to round.
#include <array>
#include <cstdlib>

#include "tests/cuda/products.h"

namespace pg::model::testing {
namespace {

struct Shape {
  std::int64_t n, in, out;
};
constexpr Shape kShapes[] = {{1, 1, 1},     {3, 17, 129}, {17, 64, 48},  {129, 40, 24}, {33, 1, 65},
                             {64, 128, 72}, {5, 300, 3},  {16, 16, 256}, {200, 24, 17}};

std::string text(DType type, const Shape& s) {
  return fmt::format("{} [{}, {}] -> {}", dtype_name(type), s.n, s.in, s.out);
}

std::vector<DType> results_of(DType type) {
  if (type == DType::kBF16) return {DType::kBF16, DType::kF32};
  return {type};
}

TEST(CudaLinear, forward_is_that_of_the_cpu) {
  Backends both;
  for (const auto type : kComputeTypes) {
    for (const auto& s : kShapes) {
      for (const auto to : results_of(type)) {
        Mirror x(type, {s.n, s.in}), w(type, {s.out, s.in}), bias(type, {s.out});
        x.normal("x"), w.normal("w"), bias.normal("bias");
        for (const bool with_bias : {false, true}) {
          Mirror y(to, {s.n, s.out});
          both.cpu->linear_forward(y.host(), x.host(), w.host(),
                                   with_bias ? bias.host() : TensorView());
          both.cuda->linear_forward(y.device(), x.device(), w.device(),
                                    with_bias ? bias.device() : TensorView());
          const Terms terms{x.host(), w.host(), false, true};
          const auto allowed = [&](std::int64_t i, std::int64_t j) {
            return terms.error(i, j, with_bias ? std::abs(bias.at_host(j)) : 0.0);
          };
          EXPECT_LE(worst(y, allowed), 1.0) << text(type, s) << dtype_name(to) << with_bias;
        }
        both.cpu->weights_changed();  // others will lie there
      }
    }
  }
}

TEST(CudaLinear, backward_is_that_of_the_cpu) {
  Backends both;
  for (const auto type : kComputeTypes) {
    const auto sum_type = accumulator_of(type);
    for (const auto& s : kShapes) {
      Mirror x(type, {s.n, s.in}), w(type, {s.out, s.in}), dy(type, {s.n, s.out});
      Mirror dw(sum_type, {s.out, s.in}), dbias(sum_type, {s.out});
      x.normal("x"), w.normal("w"), dy.normal("dy"), dw.normal("dw"), dbias.normal("dbias");
      Mirror old_dw(sum_type, {s.out, s.in}), old_dbias(sum_type, {1, s.out});
      old_dw.normal("dw"), old_dbias.normal("dbias");
      for (const bool accumulate : {false, true}) {
        Mirror dx(type, {s.n, s.in}), old(type, {s.n, s.in});
        if (accumulate) dx.normal("dx"), old.normal("dx");
        both.cpu->linear_backward_input(dx.host(), dy.host(), w.host(), accumulate);
        both.cuda->linear_backward_input(dx.device(), dy.device(), w.device(), accumulate);
        const Terms terms{dy.host(), w.host()};
        EXPECT_LE(worst(dx,
                        [&](std::int64_t i, std::int64_t j) {
                          const double before =
                              accumulate ? std::abs(element(old.host(), i, j)) : 0.0;
                          // The CPU may round the product before it adds.
                          double sum = 0.0, magnitude = 0.0;
                          terms.at(i, j, sum, magnitude);
                          return terms.error(i, j, before) +
                                 (accumulate ? epsilon_of(type) * std::abs(sum) : 0.0);
                        }),
                  1.0)
            << text(type, s) << accumulate;
      }
      both.cpu->linear_backward_weight(dw.host(), dbias.host(), dy.host(), x.host());
      both.cuda->linear_backward_weight(dw.device(), dbias.device(), dy.device(), x.device());
      const Terms terms{dy.host(), x.host(), true, false};
      EXPECT_LE(worst(dw,
                      [&](std::int64_t i, std::int64_t j) {
                        return terms.error(i, j, std::abs(element(old_dw.host(), i, j)));
                      }),
                1.0)
          << text(type, s);
      Mirror ones(type, {s.n, 1});
      ones.fill(1.0);
      const Terms sums{dy.host(), ones.host(), true, false};
      const auto gpu = dbias.from_device();
      for (std::int64_t j = 0; j < s.out; ++j) {
        const double difference = dbias.at_host(j) - gpu[static_cast<std::size_t>(j)];
        EXPECT_LE(std::abs(difference), sums.error(j, 0, std::abs(old_dbias.at_host(j))))
            << text(type, s);
      }
      both.cpu->weights_changed();
    }
  }
}

// Sums of small whole numbers are exact in any order, and both backends round them alike.
TEST(CudaLinear, whole_numbers_come_out_exactly) {
  Backends both;
  for (const auto type : kComputeTypes) {
    const auto sum_type = accumulator_of(type);
    for (const auto& s : kShapes) {
      // Rows lie further apart than they are wide: evenly, or such that no 16 bytes are aligned.
      for (const std::int64_t at : {0, 8, 3}) {
        Mirror x(type, {s.n, s.in + 16}), w(type, {s.out, s.in + 16}), bias(type, {s.out + 1});
        Mirror dy(type, {s.n, s.out + 16});
        Mirror y(type, {s.n, s.out}), dx(type, {s.n, s.in}), dw(sum_type, {s.out, s.in});
        Mirror dbias(sum_type, {s.out});
        x.whole("x", -4, 4), w.whole("w", -4, 4), bias.whole("bias", -9, 9);
        dy.whole("dy", -4, 4), dw.whole("dw", -99, 99), dbias.whole("db", -99, 99);
        const auto in = [&](TensorView v) { return v.slice(1, at, s.in); };
        const auto out = [&](TensorView v) { return v.slice(1, at, s.out); };
        const std::int64_t first_bias = at == 3 ? 1 : 0;
        both.cpu->linear_forward(y.host(), in(x.host()), in(w.host()),
                                 bias.host().slice(0, first_bias, s.out));
        both.cpu->linear_backward_input(dx.host(), out(dy.host()), in(w.host()), false);
        both.cpu->linear_backward_weight(dw.host(), dbias.host(), out(dy.host()), in(x.host()));
        // On the GPU results may be strided, too.
        Mirror wide_y(type, {s.n, s.out + 16}), wide_dx(type, {s.n, s.in + 16});
        Mirror wide_dw(sum_type, {s.out, s.in + 16});
        const auto wide = [](const Mirror& m) { return m.device(); };
        both.cuda->copy(in(wide(wide_dw)), dw.device());
        both.cuda->linear_forward(out(wide(wide_y)), in(wide(x)), in(wide(w)),
                                  bias.device().slice(0, first_bias, s.out));
        both.cuda->linear_backward_input(in(wide(wide_dx)), out(wide(dy)), in(wide(w)), false);
        both.cuda->linear_backward_weight(in(wide(wide_dw)), dbias.device(), out(wide(dy)),
                                          in(wide(x)));
        both.cuda->copy(y.device(), out(wide(wide_y)));
        both.cuda->copy(dx.device(), in(wide(wide_dx)));
        both.cuda->copy(dw.device(), in(wide(wide_dw)));
        for (const Mirror* m : {&y, &dx, &dw, &dbias}) {
          EXPECT_TRUE(same(*m)) << text(type, s) << " at " << at << " " << m->host().text();
        }
        both.cpu->weights_changed();
      }
    }
  }
}

TEST(CudaLinear, bias_gradient_of_many_rows) {
  Backends both;
  for (const auto type : kComputeTypes) {
    for (const auto& s : {Shape{5000, 8, 9}, {1031, 1, 520}, {257, 1, 256}}) {
      Mirror x(type, {s.n, s.in}), dy(type, {s.n, s.out}), dw(accumulator_of(type), {s.out, s.in}),
          dbias(accumulator_of(type), {s.out});
      x.whole("x", -2, 2), dy.whole("dy", -4, 4), dw.fill(0.0), dbias.whole("db", -9, 9);
      both.cpu->linear_backward_weight(dw.host(), dbias.host(), dy.host(), x.host());
      both.cuda->linear_backward_weight(dw.device(), dbias.device(), dy.device(), x.device());
      EXPECT_TRUE(same(dbias)) << text(type, s);
      EXPECT_TRUE(same(dw)) << text(type, s);
    }
  }
}

// Rows of w that are no multiple of a pack, in logits whose rows are aligned: taken in two
// products.
TEST(CudaLinear, a_vocabulary_that_ends_inside_a_pack) {
  Backends both;
  constexpr std::int64_t kN = 37, kIn = 24, kPitch = 1088;
  for (const std::int64_t vocab : {1031, 1032, 1025}) {
    // These sums stay below 256: whole numbers that bf16 holds, in any order and of any parts.
    Mirror x(DType::kBF16, {kN, kIn}), w(DType::kBF16, {vocab, kIn}), bias(DType::kBF16, {vocab});
    Mirror dy(DType::kBF16, {kN, vocab}), wide_dy(DType::kBF16, {kN, kPitch});
    Mirror y(DType::kF32, {kN, vocab}), wide_y(DType::kF32, {kN, kPitch});
    Mirror dx(DType::kBF16, {kN, kIn}), dw(DType::kF32, {vocab, kIn}), dbias(DType::kF32, {vocab});
    x.whole("x", -4, 4), w.whole("w", -1, 1), bias.whole("bias", -9, 9), dy.whole("dy", -1, 1);
    dw.whole("dw", -99, 99), dbias.whole("dbias", -99, 99);
    const auto part = [&](const Mirror& m) { return m.device().slice(1, 0, vocab); };
    both.cuda->copy(part(wide_dy), dy.device());
    for (const bool with_bias : {true, false}) {
      both.cpu->linear_forward(y.host(), x.host(), w.host(),
                               with_bias ? bias.host() : TensorView());
      both.cuda->linear_forward(part(wide_y), x.device(), w.device(),
                                with_bias ? bias.device() : TensorView());
      both.cuda->copy(y.device(), part(wide_y));
      EXPECT_TRUE(equal(y)) << vocab << with_bias;
    }
    for (const bool accumulate : {false, true}) {
      both.cpu->linear_backward_input(dx.host(), dy.host(), w.host(), accumulate);
      both.cuda->linear_backward_input(dx.device(), part(wide_dy), w.device(), accumulate);
      EXPECT_TRUE(equal(dx)) << vocab << accumulate;
    }
    both.cpu->linear_backward_weight(dw.host(), dbias.host(), dy.host(), x.host());
    both.cuda->linear_backward_weight(dw.device(), dbias.device(), part(wide_dy), x.device());
    EXPECT_TRUE(equal(dw)) << vocab;
    EXPECT_TRUE(equal(dbias)) << vocab;
    // Nothing was written behind the rows.
    const auto all = wide_y.from_device();
    for (std::int64_t i = 0; i < kN; ++i) {
      for (auto j = vocab; j < kPitch; ++j) {
        EXPECT_TRUE(std::isnan(all[static_cast<std::size_t>(i * kPitch + j)])) << i << " " << j;
      }
    }
    both.cpu->weights_changed();
  }
}

// Sums of a few hundred and biases that cancel most of them: rounded to bf16 before the bias is
// added, results would be whole numbers off.
TEST(CudaLinear, a_bias_is_added_before_the_result_is_rounded) {
  Backends both;
  constexpr std::int64_t kN = 20, kIn = 296, kOut = 8;
  Mirror x(DType::kBF16, {kN, kIn}), w(DType::kBF16, {kOut, kIn}), bias(DType::kBF16, {kOut});
  Mirror y(DType::kBF16, {kN, kOut});
  std::vector<double> weights(kOut * kIn, 1.0);
  for (std::int64_t j = 0; j < kOut; ++j) {
    // Sums of 296 to 303.
    for (std::int64_t l = 0; l < j; ++l) weights[static_cast<std::size_t>(j * kIn + l)] = 2.0;
  }
  x.fill(1.0), w.values(weights), bias.fill(-292.0);
  both.cpu->linear_forward(y.host(), x.host(), w.host(), bias.host());
  both.cuda->linear_forward(y.device(), x.device(), w.device(), bias.device());
  EXPECT_TRUE(equal(y));
  for (std::int64_t at = 0; at < y.elements(); ++at) {
    EXPECT_EQ(y.at_host(at), 4.0 + static_cast<double>(at % kOut));
  }
}

TEST(CudaLinear, no_rows_are_no_work) {
  Backends both;
  Mirror w(DType::kF32, {3, 5}), dw(DType::kF32, {3, 5}), dbias(DType::kF32, {3});
  w.normal("w"), dw.normal("dw"), dbias.normal("db");
  Mirror x(DType::kF32, {0, 5}), y(DType::kF32, {0, 3});
  both.cuda->linear_forward(y.device(), x.device(), w.device(), {});
  both.cuda->linear_backward_input(x.device(), y.device(), w.device(), false);
  both.cuda->linear_backward_weight(dw.device(), dbias.device(), y.device(), x.device());
  EXPECT_TRUE(same(dw));
  EXPECT_TRUE(same(dbias));
}

// gelu's slope is at most 1.13 (at sqrt(2)): so much of the errors of its argument arrives. The
// GPU's epilogue takes the sum itself, the CPU what is stored of it: one rounding of h. A tanh of
// 11 bits, which the epilogue may have, is off by 2^-12 h, which the other rounding of h covers.
//
// Computing them: about 6 roundings of z = 2u move s = sigmoid(z) by 6 z s (1 - s) < 2 roundings,
// so gelu = x s by fewer than 4 of x; and its slope, of which the steepest part is at most
// 3 z^2 s (1 - s) < 1.4, by fewer than 12 of 1. In each backend.
constexpr double kSlope = 1.13, kGeluRoundings = 2.0 * 4.0, kSlopeRoundings = 2.0 * 12.0;

void check_gelu(Backends& both, DType type, const Shape& s, std::int64_t padding) {
  Mirror x(type, {s.n, s.in}), w(type, {s.out, s.in}), bias(type, {s.out});
  x.normal("x"), bias.normal("bias");
  w.normal("w", 0.0, 1.0 / std::sqrt(static_cast<double>(s.in)));
  for (const bool with_bias : {false, true}) {
    Mirror y(type, {s.n, s.out}), h(type, {s.n, s.out});
    Mirror wide_y(type, {s.n, s.out + padding}), wide_h(type, {s.n, s.out + padding});
    const auto part = [&](const Mirror& m) { return m.device().slice(1, 0, s.out); };
    both.cpu->linear_gelu_forward(y.host(), h.host(), x.host(), w.host(),
                                  with_bias ? bias.host() : TensorView());
    both.cuda->linear_gelu_forward(part(wide_y), part(wide_h), x.device(), w.device(),
                                   with_bias ? bias.device() : TensorView());
    both.cuda->copy(y.device(), part(wide_y));
    both.cuda->copy(h.device(), part(wide_h));
    const Terms terms{x.host(), w.host(), false, true};
    const auto allowed = [&](std::int64_t i, std::int64_t j) {
      return terms.error(i, j, with_bias ? std::abs(bias.at_host(j)) : 0.0);
    };
    EXPECT_LE(worst(h, allowed), 1.0) << text(type, s) << with_bias;
    const auto after_gelu = [&](std::int64_t i, std::int64_t j) {
      return kSlope * allowed(i, j) +
             (2.0 * kSlope * epsilon_of(type) + kGeluRoundings * epsilon_of(accumulator_of(type))) *
                 std::abs(element(h.host(), i, j));
    };
    EXPECT_LE(worst(y, after_gelu), 1.0) << text(type, s) << with_bias;
  }
  Mirror dh(type, {s.n, s.in}), h(type, {s.n, s.in}), dy(type, {s.n, s.out});
  h.normal("h", 0.0, 2.0), dy.normal("dy");
  Mirror wide_dh(type, {s.n, s.in + padding}), wide_h(type, {s.n, s.in + padding});
  const auto part = [&](const Mirror& m) { return m.device().slice(1, 0, s.in); };
  both.cuda->copy(part(wide_h), h.device());
  both.cpu->linear_gelu_backward_input(dh.host(), dy.host(), w.host(), h.host());
  both.cuda->linear_gelu_backward_input(part(wide_dh), dy.device(), w.device(), part(wide_h));
  both.cuda->copy(dh.device(), part(wide_dh));
  const Terms terms{dy.host(), w.host()};
  // Two steps round the product between them.
  const auto allowed = [&](std::int64_t i, std::int64_t j) {
    double sum = 0.0, magnitude = 0.0;
    terms.at(i, j, sum, magnitude);
    return kSlope * (terms.error(i, j, 0.0) + 2.0 * epsilon_of(type) * std::abs(sum)) +
           kSlopeRoundings * epsilon_of(accumulator_of(type)) * std::abs(sum);
  };
  EXPECT_LE(worst(dh, allowed), 1.0) << text(type, s);
  both.cpu->weights_changed();
}

TEST(CudaLinear, gelu_in_the_epilogue) {
  Backends both;
  for (const auto& s : kShapes) {
    for (const std::int64_t padding : {0, 8}) {
      if (s.out % 8 == 0 && s.in % 8 == 0) check_gelu(both, DType::kBF16, s, padding);
    }
  }
}

TEST(CudaLinear, gelu_where_no_epilogue_fits) {
  Backends both;
  for (const auto type : kComputeTypes) {
    for (const auto& s : kShapes) check_gelu(both, type, s, 1);
  }
}

// (On a real GPU, which does not know this variable, these are the epilogues once more.)
TEST(CudaLinear, two_steps_where_the_library_refuses_an_epilogue) {
  setenv("PG_SIMULATED_EPILOGUES", "0", 1);
  Backends both;
  for (const auto type : kComputeTypes) {
    for (const auto& s : kShapes) {
      Mirror x(type, {s.n, s.in}), w(type, {s.out, s.in}), bias(type, {s.out}),
          y(type, {s.n, s.out});
      x.whole("x", -4, 4), w.whole("w", -4, 4), bias.whole("bias", -9, 9);
      both.cpu->linear_forward(y.host(), x.host(), w.host(), bias.host());
      both.cuda->linear_forward(y.device(), x.device(), w.device(), bias.device());
      EXPECT_TRUE(same(y)) << text(type, s);
      both.cpu->weights_changed();
    }
  }
  check_gelu(both, DType::kBF16, {16, 24, 32}, 0);
  unsetenv("PG_SIMULATED_EPILOGUES");
}

TEST(CudaLinear, the_same_bits_again_and_elsewhere) {
  comm::Gpu gpu{0};
  const auto cuda = make_cuda_kernels(gpu);
  for (const auto type : kComputeTypes) {
    for (const auto& s : kShapes) {
      Mirror w(type, {s.out, s.in}), bias(type, {s.out});
      w.normal("w"), bias.normal("bias");
      std::vector<std::vector<double>> results;
      for (int time = 0; time < 2; ++time) {
        // Four rows further down the second time: other addresses.
        Mirror x(type, {s.n + 4, s.in}), y(type, {s.n + 4, s.out}), dx(type, {s.n, s.in});
        Mirror dw(accumulator_of(type), {s.out, s.in}), dbias(accumulator_of(type), {s.out});
        Mirror values(type, {s.n, s.in});
        values.normal("x");
        const auto rows = [&](TensorView v) { return v.slice(0, 4 * time, s.n); };
        cuda->copy(rows(x.device()), values.device());
        dw.fill(0.5), dbias.fill(0.5);
        cuda->linear_forward(rows(y.device()), rows(x.device()), w.device(), bias.device());
        cuda->linear_backward_input(dx.device(), rows(y.device()), w.device(), false);
        cuda->linear_backward_weight(dw.device(), dbias.device(), rows(y.device()),
                                     rows(x.device()));
        auto all = y.from_device();
        all = {all.begin() + 4 * time * s.out, all.begin() + (4 * time + s.n) * s.out};
        for (const Mirror* m : {&dx, &dw, &dbias}) {
          const auto more = m->from_device();
          all.insert(all.end(), more.begin(), more.end());
        }
        results.push_back(std::move(all));
      }
      EXPECT_EQ(results[0], results[1]) << text(type, s);
    }
  }
}

TEST(CudaLinear, one_wrong_operand_is_seen) {
  Backends both;
  for (const auto type : kComputeTypes) {
    Mirror x(type, {40, 64}), w(type, {32, 64}), y(type, {40, 32});
    x.normal("x"), w.normal("w");
    both.cuda->linear_forward(y.device(), x.device(), w.device(), {});
    Mirror other(type, {40, 64});
    std::vector<double> values;
    for (std::int64_t i = 0; i < x.elements(); ++i) values.push_back(x.at_host(i));
    values[5 * 64 + 7] += 0.5;
    other.values(values);
    both.cpu->linear_forward(y.host(), other.host(), w.host(), {});
    const Terms terms{x.host(), w.host(), false, true};
    EXPECT_GT(worst(y, [&](std::int64_t i, std::int64_t j) { return terms.error(i, j, 0.0); }), 1.0)
        << dtype_name(type);
    EXPECT_FALSE(same(y));
  }
}

}  // namespace
}  // namespace pg::model::testing

// Products of groups of rows on the GPU: against the CPU's, exactly, in whole numbers and within
// the rounding of sums otherwise; and that a row's bits are its own.
#include "tests/cuda/products.h"

namespace pg::model::testing {
namespace {

const std::vector<std::vector<std::int64_t>> kSplits = {
    {0, 0}, {0, 1}, {0, 0, 5, 5, 37, 70, 71, 71}, {0, 64, 64, 193}, {0, 3, 20}};

// More groups than one kernel sums the columns of.
std::vector<std::int64_t> many_groups() {
  std::vector<std::int64_t> begin = {0};
  for (std::int64_t g = 0; g < 70; ++g) begin.push_back(begin.back() + g % 3);
  return begin;
}

struct Weights {
  std::vector<std::unique_ptr<Mirror>> all;
  std::vector<TensorView> host, device;

  Weights(DType type, std::size_t groups, std::initializer_list<std::int64_t> shape) {
    for (std::size_t g = 0; g < groups; ++g) {
      all.push_back(std::make_unique<Mirror>(type, shape));
      host.push_back(all.back()->host());
      device.push_back(all.back()->device());
    }
  }
  Weights& whole(const std::string& name, std::int64_t most) {
    for (std::size_t g = 0; g < all.size(); ++g) {
      all[g]->whole(name + std::to_string(g), -most, most);
    }
    return *this;
  }
  Weights& normal(const std::string& name) {
    for (std::size_t g = 0; g < all.size(); ++g) all[g]->normal(name + std::to_string(g));
    return *this;
  }
};

TEST(CudaGroupedLinear, whole_numbers_come_out_exactly) {
  Backends both;
  for (const auto type : kComputeTypes) {
    const auto sum_type = accumulator_of(type);
    auto splits = kSplits;
    splits.push_back(many_groups());
    for (const auto& begin : splits) {
      for (const auto& [in, out, padding] :
           {std::array<std::int64_t, 3>{1, 1, 0}, {40, 24, 0}, {40, 24, 8}, {33, 65, 3}}) {
        const auto rows = begin.back();
        const std::size_t groups = begin.size() - 1;
        Mirror x(type, {rows, in + padding}), dy(type, {rows, out + padding});
        Mirror y(type, {rows, out}), plain(type, {rows, out}), dx(type, {rows, in});
        x.whole("x", -4, 4), dy.whole("dy", -4, 4);
        Weights w(type, groups, {out, in}), bias(type, groups, {out});
        Weights dw(sum_type, groups, {out, in}), dbias(sum_type, groups, {out});
        w.whole("w", 4), bias.whole("bias", 9), dw.whole("dw", 99), dbias.whole("dbias", 99);
        const auto ins = [&](TensorView v) { return v.slice(1, 0, in); };
        const auto outs = [&](TensorView v) { return v.slice(1, 0, out); };
        both.cpu->grouped_linear_forward(y.host(), ins(x.host()), w.host, bias.host, begin);
        both.cpu->grouped_linear_forward(plain.host(), ins(x.host()), w.host, {}, begin);
        both.cpu->grouped_linear_backward_input(dx.host(), outs(dy.host()), w.host, begin);
        both.cpu->grouped_linear_backward_weight(dw.host, dbias.host, outs(dy.host()),
                                                 ins(x.host()), begin);
        both.cuda->grouped_linear_forward(y.device(), ins(x.device()), w.device, bias.device,
                                          begin);
        both.cuda->grouped_linear_forward(plain.device(), ins(x.device()), w.device, {}, begin);
        both.cuda->grouped_linear_backward_input(dx.device(), outs(dy.device()), w.device, begin);
        both.cuda->grouped_linear_backward_weight(dw.device, dbias.device, outs(dy.device()),
                                                  ins(x.device()), begin);
        std::vector<const Mirror*> results = {&y, &plain, &dx};
        for (std::size_t g = 0; g < groups; ++g) {
          results.push_back(dw.all[g].get());
          results.push_back(dbias.all[g].get());
        }
        for (const auto* m : results) {
          EXPECT_TRUE(equal(*m)) << dtype_name(type) << " " << rows << " rows, " << groups
                                 << " groups, " << in << " to " << out << ": " << m->host().text();
        }
        both.cpu->weights_changed();
      }
    }
  }
}

TEST(CudaGroupedLinear, sums_are_those_of_the_cpu) {
  Backends both;
  const std::vector<std::int64_t> begin = {0, 0, 5, 5, 37, 70};
  const std::size_t groups = begin.size() - 1;
  const std::int64_t in = 72, out = 40, rows = begin.back();
  for (const auto type : kComputeTypes) {
    Mirror x(type, {rows, in}), dy(type, {rows, out}), y(type, {rows, out}), dx(type, {rows, in});
    x.normal("x"), dy.normal("dy");
    Weights w(type, groups, {out, in}), dw(accumulator_of(type), groups, {out, in});
    w.normal("w"), dw.normal("dw");
    both.cpu->grouped_linear_forward(y.host(), x.host(), w.host, {}, begin);
    both.cpu->grouped_linear_backward_input(dx.host(), dy.host(), w.host, begin);
    both.cuda->grouped_linear_forward(y.device(), x.device(), w.device, {}, begin);
    both.cuda->grouped_linear_backward_input(dx.device(), dy.device(), w.device, begin);
    Weights old(accumulator_of(type), groups, {out, in});
    old.normal("dw");
    both.cpu->grouped_linear_backward_weight(dw.host, {}, dy.host(), x.host(), begin);
    both.cuda->grouped_linear_backward_weight(dw.device, {}, dy.device(), x.device(), begin);
    const auto group_of = [&](std::int64_t row) {
      std::size_t g = 0;
      while (begin[g + 1] <= row) ++g;
      return g;
    };
    const auto forward = [&](std::int64_t i, std::int64_t j) {
      return Terms{x.host(), w.host[group_of(i)], false, true}.error(i, j, 0.0);
    };
    const auto backward = [&](std::int64_t i, std::int64_t j) {
      return Terms{dy.host(), w.host[group_of(i)]}.error(i, j, 0.0);
    };
    EXPECT_LE(worst(y, forward), 1.0) << dtype_name(type);
    EXPECT_LE(worst(dx, backward), 1.0) << dtype_name(type);
    for (std::size_t g = 0; g < groups; ++g) {
      const auto part = [&](TensorView v) { return v.slice(0, begin[g], begin[g + 1] - begin[g]); };
      const Terms terms{part(dy.host()), part(x.host()), true, false};
      EXPECT_LE(worst(*dw.all[g],
                      [&](std::int64_t i, std::int64_t j) {
                        return terms.error(i, j, std::abs(element(old.host[g], i, j)));
                      }),
                1.0)
          << dtype_name(type) << " group " << g;
    }
    both.cpu->weights_changed();
  }
}

// All rows of one group at once; and the same rows dealt out to groups of other sizes with the same
// weight, in reverse order: each row has the same bits.
TEST(CudaGroupedLinear, a_rows_bits_depend_on_no_other_row) {
  comm::Gpu gpu{0};
  // New kernels for each way: what one chose for its sizes must be what the other chooses.
  for (const auto type : kComputeTypes) {
    for (const auto& [in, out] : {std::pair<std::int64_t, std::int64_t>{96, 64}, {77, 33}}) {
      constexpr std::int64_t kRows = 150;
      Mirror x(type, {kRows, in}), dy(type, {kRows, out}), w(type, {out, in});
      Mirror bias(type, {out}), y(type, {kRows, out}), dx(type, {kRows, in});
      x.normal("x"), dy.normal("dy"), w.normal("w"), bias.normal("bias");
      const std::vector<TensorView> one_w = {w.device()}, one_bias = {bias.device()};
      const std::vector<std::int64_t> whole = {0, kRows};
      const auto together = make_cuda_kernels(gpu);
      together->grouped_linear_forward(y.device(), x.device(), one_w, one_bias, whole);
      together->grouped_linear_backward_input(dx.device(), dy.device(), one_w, whole);
      const auto ys = y.from_device(), dxs = dx.from_device();

      Mirror back_x(type, {kRows, in}), back_dy(type, {kRows, out});
      Mirror back_y(type, {kRows, out}), back_dx(type, {kRows, in});
      const auto apart = make_cuda_kernels(gpu);
      for (std::int64_t i = 0; i < kRows; ++i) {
        const auto row = [&](TensorView v, std::int64_t at) { return v.slice(0, at, 1); };
        apart->copy(row(back_x.device(), kRows - 1 - i), row(x.device(), i));
        apart->copy(row(back_dy.device(), kRows - 1 - i), row(dy.device(), i));
      }
      const std::vector<std::int64_t> begin = {0, 1, 3, 3, 10, 27, 42, 106, kRows};
      const std::vector<TensorView> ws(begin.size() - 1, w.device());
      const std::vector<TensorView> biases(begin.size() - 1, bias.device());
      apart->grouped_linear_forward(back_y.device(), back_x.device(), ws, biases, begin);
      apart->grouped_linear_backward_input(back_dx.device(), back_dy.device(), ws, begin);
      const auto back_ys = back_y.from_device(), back_dxs = back_dx.from_device();
      std::int64_t different = 0;
      for (std::int64_t i = 0; i < kRows; ++i) {
        for (std::int64_t j = 0; j < out; ++j) {
          different += ys[static_cast<std::size_t>(i * out + j)] !=
                       back_ys[static_cast<std::size_t>((kRows - 1 - i) * out + j)];
        }
        for (std::int64_t j = 0; j < in; ++j) {
          different += dxs[static_cast<std::size_t>(i * in + j)] !=
                       back_dxs[static_cast<std::size_t>((kRows - 1 - i) * in + j)];
        }
      }
      EXPECT_EQ(different, 0) << dtype_name(type) << " " << in << " to " << out;
    }
  }
}

}  // namespace
}  // namespace pg::model::testing

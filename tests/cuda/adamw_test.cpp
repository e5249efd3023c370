#include "tests/cuda/tolerance.h"

namespace pg::model::testing {
namespace {

// m and v: two products and a sum; w: a dozen operations of which the quotient's error enters with
// the step's share of the weight.
constexpr double kRoundings = 16.0;

// The flat states of a few parameters on both sides; a parameter is a slice of each.
struct States {
  Mirror weight, master, m, v, grad;

  States(DType type, std::int64_t n)
      : weight(type, {n}),
        master(accumulator_of(type), {n}),
        m(accumulator_of(type), {n}),
        v(accumulator_of(type), {n}),
        grad(accumulator_of(type), {n}) {
    master.normal("w"), weight.normal("w"), m.normal("m", 0.0, 0.1), grad.normal("g");
    std::vector<double> squares;
    for (std::int64_t i = 0; i < n; ++i) {
      squares.push_back(0.01 + master.at_host(i) * master.at_host(i));
    }
    v.values(squares);
  }
  AdamWTensors part(bool on_gpu, std::int64_t at, std::int64_t n, double decay) const {
    const auto slice = [&](const Mirror& x) {
      return (on_gpu ? x.device() : x.host()).slice(0, at, n);
    };
    const bool exact = weight.dtype() == master.dtype();
    return {slice(weight), exact ? TensorView() : slice(master), slice(m), slice(v), slice(grad),
            decay};
  }
  AdamWTensors all(bool on_gpu) const { return part(on_gpu, 0, weight.elements(), 0.1); }
};

AdamWStep step_of(std::int64_t step) {
  return {.lr = 0.01, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .grad_scale = 0.7, .step = step};
}

TEST(CudaAdamW, many_parameters_as_on_the_cpu) {
  Backends both;
  for (const auto type : kComputeTypes) {
    for (const std::size_t count : {1, 59, 60, 61, 130}) {
      SCOPED_TRACE(std::string(dtype_name(type)) + " " + std::to_string(count));
      const States states(type, 16000);
      std::vector<AdamWTensors> host, device;
      std::int64_t at = 0;
      for (std::size_t i = 0; i < count; ++i) {
        // Empty ones, ones of several blocks, ones that do not begin at 16 bytes.
        const auto n = static_cast<std::int64_t>(i == 0 ? 5003 : i * 29 % 150);
        if (i % 3 == 0) at = (at + 7) / 8 * 8;
        for (const bool on_gpu : {false, true}) {
          (on_gpu ? device : host).push_back(states.part(on_gpu, at, n, i % 2 == 0 ? 0.1 : 0.0));
        }
        at += n;
      }
      for (const std::int64_t step : {1, 2, 1000}) {
        both.cpu->adamw(host, step_of(step));
        both.cuda->adamw(device, step_of(step));
      }
      const auto accumulator = accumulator_of(type);
      // Three steps.
      EXPECT_LE(deviation(states.m), tolerance(accumulator, 3 * kRoundings));
      EXPECT_LE(deviation(states.v), tolerance(accumulator, 3 * kRoundings));
      EXPECT_LE(deviation(states.weight), tolerance(type, 3 * kRoundings));
      EXPECT_LE(deviation(states.master), tolerance(accumulator, 3 * kRoundings));
      EXPECT_TRUE(same(states.grad));
      // Elements of no parameter are left alone.
      const auto masters = states.master.from_device();
      for (std::int64_t i = at; i < states.master.elements(); ++i) {
        EXPECT_EQ(masters[static_cast<std::size_t>(i)], states.master.at_host(i));
      }
    }
  }
}

TEST(CudaAdamW, bits_do_not_depend_on_where_the_parameter_lies_and_weights_are_rounded_masters) {
  Backends both;
  for (const auto type : kComputeTypes) {
    const auto run = [&](std::int64_t at) {
      States p(type, 3001 + at);
      // The same numbers wherever they lie.
      for (Mirror* x : {&p.weight, &p.master, &p.m, &p.v, &p.grad}) {
        std::vector<double> values;
        for (std::int64_t i = 0; i < x->elements(); ++i) {
          values.push_back(0.5 + 0.4 * std::sin(0.37 * static_cast<double>(i - at)));
        }
        x->values(values);
      }
      both.cuda->adamw(std::vector<AdamWTensors>{p.part(true, at, 3001, 0.1)}, step_of(3));
      std::vector<double> all;
      const auto weight = p.weight.from_device(), master = p.master.from_device();
      for (const auto& x : {weight, master, p.m.from_device(), p.v.from_device()}) {
        all.insert(all.end(), x.begin() + at, x.end());
      }
      for (std::size_t i = 0; type == DType::kBF16 && i < weight.size(); ++i) {
        if (static_cast<std::int64_t>(i) < at) continue;
        EXPECT_EQ(weight[i],
                  static_cast<double>(static_cast<float>(bf16(static_cast<float>(master[i])))));
      }
      return all;
    };
    const auto first = run(0);
    EXPECT_TRUE(same_bits(first, run(0))) << dtype_name(type);
    EXPECT_TRUE(same_bits(first, run(1))) << dtype_name(type);
    EXPECT_TRUE(same_bits(first, run(4))) << dtype_name(type);
  }
}

TEST(CudaAdamW, control_another_step_is_found) {
  Backends both;
  for (const auto type : kComputeTypes) {
    const States p(type, 100);
    both.cpu->adamw(std::vector<AdamWTensors>{p.all(false)}, step_of(1));
    both.cuda->adamw(std::vector<AdamWTensors>{p.all(true)}, step_of(2));
    const auto& exact = type == DType::kBF16 ? p.master : p.weight;
    EXPECT_GT(deviation(exact), tolerance(accumulator_of(type), 3 * kRoundings));
  }
}

TEST(CudaAdamW, nothing_to_do_and_states_that_do_not_fit) {
  Backends both;
  both.cuda->adamw({}, step_of(1));
  const States p(DType::kF32, 8);
  auto wrong = p.all(true);
  wrong.m = wrong.m.slice(0, 0, 7);
  EXPECT_THROW(both.cuda->adamw(std::vector<AdamWTensors>{wrong}, step_of(1)), Error);
  EXPECT_THROW(both.cuda->adamw(std::vector<AdamWTensors>{p.all(false)}, step_of(1)), Error);
}

}  // namespace
}  // namespace pg::model::testing

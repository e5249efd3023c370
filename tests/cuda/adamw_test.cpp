#include "tests/cuda/tolerance.h"

namespace pg::model::testing {
namespace {

// m and v: two products and a sum; w: a dozen operations of which the quotient's error enters with
// the step's share of the weight.
constexpr double kRoundings = 16.0;

// One parameter on both sides; its views begin `at` elements into their memory.
struct Parameter {
  Mirror weight, master, m, v, grad;
  std::int64_t at, n;
  double decay;

  Parameter(DType type, std::int64_t size, std::int64_t first, double weight_decay)
      : weight(type, {size + first}),
        master(accumulator_of(type), {size + first}),
        m(accumulator_of(type), {size + first}),
        v(accumulator_of(type), {size + first}),
        grad(accumulator_of(type), {size + first}),
        at(first),
        n(size),
        decay(weight_decay) {
    master.normal("w"), weight.normal("w"), m.normal("m", 0.0, 0.1), grad.normal("g");
    std::vector<double> squares;
    for (std::int64_t i = 0; i < v.elements(); ++i) {
      squares.push_back(0.01 + master.at_host(i) * master.at_host(i));
    }
    v.values(squares);
  }
  AdamWTensors tensors(bool on_gpu) const {
    const auto part = [&](const Mirror& x) {
      return (on_gpu ? x.device() : x.host()).slice(0, at, n);
    };
    const bool exact = weight.dtype() == master.dtype();
    return {part(weight), exact ? TensorView() : part(master), part(m), part(v), part(grad), decay};
  }
};

AdamWStep step_of(std::int64_t step) {
  return {.lr = 0.01, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .grad_scale = 0.7, .step = step};
}

TEST(CudaAdamW, many_parameters_as_on_the_cpu) {
  Backends both;
  for (const auto type : kComputeTypes) {
    for (const std::size_t count : {1, 59, 60, 61, 130}) {
      std::vector<std::unique_ptr<Parameter>> all;
      std::vector<AdamWTensors> host, device;
      for (std::size_t i = 0; i < count; ++i) {
        const auto n = static_cast<std::int64_t>(i == 0 ? 5003 : i * 29 % 150);
        all.push_back(std::make_unique<Parameter>(type, n, static_cast<std::int64_t>(i % 3),
                                                  i % 2 == 0 ? 0.1 : 0.0));
        host.push_back(all.back()->tensors(false)), device.push_back(all.back()->tensors(true));
      }
      for (const std::int64_t step : {1, 2, 1000}) {
        both.cpu->adamw(host, step_of(step));
        both.cuda->adamw(device, step_of(step));
      }
      const auto accumulator = accumulator_of(type);
      for (const auto& p : all) {
        // Three steps.
        EXPECT_LE(deviation(p->m), tolerance(accumulator, 3 * kRoundings));
        EXPECT_LE(deviation(p->v), tolerance(accumulator, 3 * kRoundings));
        EXPECT_LE(deviation(p->weight), tolerance(type, 3 * kRoundings));
        EXPECT_LE(deviation(p->master), tolerance(accumulator, 3 * kRoundings));
        EXPECT_TRUE(same(p->grad));
      }
    }
  }
}

TEST(CudaAdamW, bits_do_not_depend_on_where_the_parameter_lies_and_weights_are_rounded_masters) {
  Backends both;
  for (const auto type : kComputeTypes) {
    const auto run = [&](std::int64_t at) {
      Parameter p(type, 3001, at, 0.1);
      // The same numbers wherever they lie.
      for (Mirror* x : {&p.weight, &p.master, &p.m, &p.v, &p.grad}) {
        std::vector<double> values;
        for (std::int64_t i = 0; i < x->elements(); ++i) {
          values.push_back(0.5 + 0.4 * std::sin(0.37 * static_cast<double>(i - at)));
        }
        x->values(values);
      }
      both.cuda->adamw(std::vector<AdamWTensors>{p.tensors(true)}, step_of(3));
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
    const Parameter p(type, 100, 0, 0.1);
    both.cpu->adamw(std::vector<AdamWTensors>{p.tensors(false)}, step_of(1));
    both.cuda->adamw(std::vector<AdamWTensors>{p.tensors(true)}, step_of(2));
    const auto& exact = type == DType::kBF16 ? p.master : p.weight;
    EXPECT_GT(deviation(exact), tolerance(accumulator_of(type), 3 * kRoundings));
  }
}

TEST(CudaAdamW, nothing_to_do_and_states_that_do_not_fit) {
  Backends both;
  both.cuda->adamw({}, step_of(1));
  const Parameter p(DType::kF32, 8, 0, 0.0);
  auto wrong = p.tensors(true);
  wrong.m = wrong.m.slice(0, 0, 7);
  EXPECT_THROW(both.cuda->adamw(std::vector<AdamWTensors>{wrong}, step_of(1)), Error);
  EXPECT_THROW(both.cuda->adamw(std::vector<AdamWTensors>{p.tensors(false)}, step_of(1)), Error);
}

}  // namespace
}  // namespace pg::model::testing

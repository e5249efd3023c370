// The model against values from outside: the same weights in PyTorch and Hugging Face's Llama and
// GPT-2, and in Mixtral and others with experts, give the stored logits, loss, gradients and AdamW
// steps. The gradients are those of the mean loss and the auxiliary losses together.
//
// Tolerances are relative, in the Frobenius norm of a tensor. fp64: 1e-9; both sides round at 1e-16
// a step and agree to about 1e-14, so a term lost or doubled cannot hide. fp32: 3e-5; unit rounding
// is 6e-8, and the reference's own code in fp32 is 1.7e-6 away from itself in fp64 at worst (an
// expert's gradient), which leaves a factor of 18 for another order of sums. No token's choice of
// experts hangs on it: the last one chosen leads by more than 3e-3 of its probability.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <ostream>
#include <string>
#include <vector>

#include "golden_file.h"
#include "harness/one_rank.h"
#include "model/optim/optimizer.h"

namespace pg::golden {
namespace {

using model::TensorView;

struct Case {
  const char* file;
  DType type;
  double tolerance;
};

void PrintTo(const Case& c, std::ostream* out) {
  *out << c.file << " " << dtype_name(c.type);
}

double norm(const std::vector<double>& x) {
  return std::sqrt(std::inner_product(x.begin(), x.end(), x.begin(), 0.0));
}

double distance(const std::vector<double>& x, const std::vector<double>& y) {
  PG_ASSERT(x.size() == y.size(), "{} and {} values", x.size(), y.size());
  double sum = 0.0;
  for (std::size_t i = 0; i < x.size(); ++i) sum += (x[i] - y[i]) * (x[i] - y[i]);
  return std::sqrt(sum);
}

std::vector<double> values_of(TensorView view) {
  const auto n = view.elements();
  if (view.dtype() == DType::kF64) return {view.data<double>(), view.data<double>() + n};
  return {view.data<float>(), view.data<float>() + n};
}

void put(TensorView view, const std::vector<double>& values) {
  PG_ASSERT(view.elements() == static_cast<std::int64_t>(values.size()), "{}", view.text());
  if (view.dtype() == DType::kF64) {
    std::copy(values.begin(), values.end(), view.data<double>());
  } else {
    std::transform(values.begin(), values.end(), view.data<float>(),
                   [](double v) { return static_cast<float>(v); });
  }
}

// A golden file, and the model of its configuration with its weights.
class Golden : public testing::OneRank {
 public:
  Golden(const GoldenFile& golden, const model::ModelConfig& config, DType type)
      : OneRank(config, type, golden.integer("batch"), golden.integer("seq"), /*seed=*/0),
        file(golden),
        vocab_(config.vocab),
        tokens_(file.ints("/tokens").values),
        targets_(file.ints("/targets").values) {
    batch.sequences = file.integer("batch");
    batch.seq = file.integer("seq");
    const auto n = batch.tokens_count();
    for (std::int64_t i = 0; i < n; ++i) {
      positions_.push_back(static_cast<std::int32_t>(i % batch.seq));
    }
    samples_.resize(static_cast<std::size_t>(batch.sequences));
    std::iota(samples_.begin(), samples_.end(), 0);
    batch.tokens = TensorView(tokens_.data(), DType::kI32, {n});
    batch.positions = TensorView(positions_.data(), DType::kI32, {n});
    batch.targets = TensorView(targets_.data(), DType::kI32, {n});
    batch.samples = samples_;
    valid = std::count_if(targets_.begin(), targets_.end(), [](auto t) { return t >= 0; });

    for (std::size_t id = 0; id < params.table().size(); ++id) {
      put(params.weight(id), file.doubles("/weights/" + name(id)).values);
    }
    kernels->weights_changed();
  }

  const std::string& name(std::size_t id) const { return params.table()[id].name; }

  std::vector<double> logits() {
    const auto n = batch.tokens_count();
    const model::Buffer buffer(
        static_cast<std::size_t>(n * vocab_) * dtype_size(params.accumulator()),
        model::Buffer::Kind::kReal);
    const TensorView view(buffer.at(0), params.accumulator(), {n, vocab_});
    model.logits(batch, view);
    return values_of(view);
  }

  // The mean loss; its gradients, and those of the auxiliary losses' mean over sequences, replace
  // those in the store.
  double mean_loss_and_gradients() {
    kernels->fill_zero(params.all_grads());
    model.counters().clear(*kernels);
    const auto count = static_cast<double>(valid);
    return forward_backward(batch, 1.0 / count, 1.0 / static_cast<double>(batch.sequences)) / count;
  }

  // What the routers' losses added to it, weighted.
  double auxiliary_loss() {
    const auto& moe = params.layout().rank_config().moe;
    double sum = 0.0;
    for (const auto block : model.counters().blocks()) {
      sum += moe.aux_loss * *model.counters().balance_loss(block).data<double>() +
             moe.z_loss * *model.counters().z_loss(block).data<double>() /
                 static_cast<double>(batch.seq);
    }
    return sum / static_cast<double>(batch.sequences);
  }

  const GoldenFile& file;
  model::MicroBatch batch;
  std::int64_t valid = 0;

 private:
  std::int64_t vocab_;
  std::vector<std::int32_t> tokens_, targets_, positions_;
  std::vector<std::int64_t> samples_;
};

class GoldenModel : public ::testing::TestWithParam<Case> {
 protected:
  const double tolerance = GetParam().tolerance;
  const GoldenFile file{golden_path(GetParam().file)};
  Golden golden{file, file.config(), GetParam().type};
};

TEST_P(GoldenModel, the_parameter_table_has_the_reference_models_names_and_shapes) {
  std::vector<std::string> names;
  for (const auto& spec : golden.params.table().specs()) {
    names.push_back(spec.name);
    EXPECT_EQ(file.doubles("/weights/" + spec.name).shape, spec.shape) << spec.name;
  }
  std::sort(names.begin(), names.end());
  EXPECT_EQ(file.names("/weights"), names);
}

TEST_P(GoldenModel, logits_match) {
  const auto expected = file.doubles("/logits").values;
  EXPECT_LE(distance(golden.logits(), expected), tolerance * norm(expected));
}

TEST_P(GoldenModel, loss_matches_with_and_without_gradients) {
  const double expected = file.doubles("/loss").values.at(0);
  const double alone = golden.loss(golden.batch);
  EXPECT_NEAR(alone / static_cast<double>(golden.valid), expected, tolerance * expected);
  EXPECT_NEAR(golden.mean_loss_and_gradients(), expected, tolerance * expected);
}

TEST_P(GoldenModel, every_gradient_matches) {
  golden.mean_loss_and_gradients();
  std::vector<std::vector<double>> expected;
  double squares = 0.0;
  for (std::size_t id = 0; id < golden.params.table().size(); ++id) {
    expected.push_back(file.doubles("/grads/" + golden.name(id)).values);
    squares += norm(expected.back()) * norm(expected.back());
  }
  const double whole = std::sqrt(squares);
  for (std::size_t id = 0; id < expected.size(); ++id) {
    // GPT-2's key bias has gradient zero, as softmax ignores a shift; both sides hold the rounding
    // of the sums before it. The smallest other gradient is 0.0023 of the whole.
    const double size = norm(expected[id]);
    const bool is_zero = size < 1e-12 * whole;
    EXPECT_LE(distance(values_of(golden.params.grad(id)), expected[id]),
              tolerance * (is_zero ? 1e-2 * whole : size))
        << golden.name(id);
  }
}

// Zero in a file without experts.
TEST_P(GoldenModel, auxiliary_loss_matches) {
  golden.mean_loss_and_gradients();
  const auto names = file.names("/");
  const bool stored = std::find(names.begin(), names.end(), "aux_loss") != names.end();
  const double expected = stored ? file.doubles("/aux_loss").values.at(0) : 0.0;
  EXPECT_NEAR(golden.auxiliary_loss(), expected, tolerance * expected);
}

class GoldenTraining : public GoldenModel {};

// Losses, norms, and weights after clipping (in some steps) and AdamW with decay on matrices.
TEST_P(GoldenTraining, five_adamw_steps_match) {
  const auto losses = file.doubles("/losses").values, norms = file.doubles("/grad_norms").values;
  const double lr = file.real("optimizer_lr"), eps = file.real("optimizer_eps");
  const auto steps = static_cast<double>(losses.size());
  model::AdamWConfig config;
  config.beta1 = file.real("optimizer_beta1");
  config.beta2 = file.real("optimizer_beta2");
  config.eps = eps;
  config.weight_decay = file.real("optimizer_weight_decay");
  config.clip = file.real("optimizer_clip");
  model::Optimizer optimizer(config, golden.params, *golden.kernels, golden.groups);
  for (std::size_t i = 0; i < losses.size(); ++i) {
    EXPECT_NEAR(golden.mean_loss_and_gradients(), losses[i], tolerance * losses[i]) << i;
    const double size = optimizer.grad_norm().norm;
    EXPECT_NEAR(size, norms[i], tolerance * norms[i]) << i;
    optimizer.update(static_cast<std::int64_t>(i) + 1, lr, size);
    golden.kernels->weights_changed();
  }
  for (std::size_t id = 0; id < golden.params.table().size(); ++id) {
    const auto expected = file.doubles("/final_weights/" + golden.name(id)).values;
    // AdamW turns a gradient of nothing but rounding, r, into a step of lr * r / (r + eps). About
    // ten roundings of elements below 0.1 (the norm is clipped to 1) make r.
    double noise = 0.0;
    if (norm(file.doubles("/grads/" + golden.name(id)).values) < 1e-12 * norms[0]) {
      const double r = golden.params.compute() == DType::kF64 ? 1e-16 : 6e-8;
      noise = steps * lr * r / (r + eps) * std::sqrt(static_cast<double>(expected.size()));
    }
    EXPECT_LE(distance(values_of(golden.params.weight(id)), expected),
              tolerance * norm(expected) + noise)
        << golden.name(id);
  }
}

constexpr Case kCases[] = {
    {"llama_gqa", DType::kF64, 1e-9},      {"llama_gqa", DType::kF32, 3e-5},
    {"gpt2_tied", DType::kF64, 1e-9},      {"gpt2_tied", DType::kF32, 3e-5},
    {"llama_mqa_tied", DType::kF64, 1e-9}, {"llama_mqa_tied", DType::kF32, 3e-5},
};

std::string case_name(const ::testing::TestParamInfo<Case>& c) {
  return std::string(c.param.file) + "_" + std::string(dtype_name(c.param.type));
}

INSTANTIATE_TEST_SUITE_P(Reference, GoldenModel, ::testing::ValuesIn(kCases), case_name);
// The last file holds no steps.
INSTANTIATE_TEST_SUITE_P(Reference, GoldenTraining, ::testing::ValuesIn(kCases, kCases + 4),
                         case_name);

constexpr Case kMoeCases[] = {
    {"mixtral_top2", DType::kF64, 1e-9}, {"mixtral_top2", DType::kF32, 3e-5},
    {"switch_gelu", DType::kF64, 1e-9},  {"switch_gelu", DType::kF32, 3e-5},
    {"qwen_moe", DType::kF64, 1e-9},     {"qwen_moe", DType::kF32, 3e-5},
};

INSTANTIATE_TEST_SUITE_P(WithExperts, GoldenModel, ::testing::ValuesIn(kMoeCases), case_name);
// The last file holds no steps.
INSTANTIATE_TEST_SUITE_P(WithExperts, GoldenTraining, ::testing::ValuesIn(kMoeCases, kMoeCases + 4),
                         case_name);

// The tolerance tells a model that is slightly another from the right one.
TEST(GoldenControl, another_epsilon_or_theta_does_not_match) {
  const GoldenFile file(golden_path("llama_mqa_tied"));
  const auto expected = file.doubles("/logits").values;
  const auto deviation = [&](const model::ModelConfig& config) {
    Golden golden(file, config, DType::kF64);
    return distance(golden.logits(), expected) / norm(expected);
  };
  auto config = file.config();
  config.norm_eps *= 1.01;
  EXPECT_GT(deviation(config), 1e-9);
  config = file.config();
  config.rope_theta *= 1.01;
  EXPECT_GT(deviation(config), 1e-9);
}

TEST(GoldenControl, other_gates_or_auxiliary_factors_do_not_match) {
  const GoldenFile file(golden_path("mixtral_top2"));
  const std::string router = "blocks.0.moe.router.weight";
  const auto expected = file.doubles("/grads/" + router).values;
  const auto deviation = [&](const model::ModelConfig& config) {
    Golden golden(file, config, DType::kF64);
    golden.mean_loss_and_gradients();
    std::size_t id = 0;
    while (golden.name(id) != router) ++id;
    return distance(values_of(golden.params.grad(id)), expected) / norm(expected);
  };
  auto config = file.config();
  config.moe.renormalize = false;
  EXPECT_GT(deviation(config), 1e-4);
  config = file.config();
  config.moe.aux_loss *= 1.01;
  EXPECT_GT(deviation(config), 1e-4);
  config = file.config();
  config.moe.z_loss *= 1.01;
  EXPECT_GT(deviation(config), 1e-4);
}

}  // namespace
}  // namespace pg::golden

// The reader of golden files, against what the files must hold by themselves: the stored loss is
// the cross-entropy of the stored logits, and the first norm is that of the stored gradients.
#include "golden_file.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <numeric>
#include <stdexcept>
#include <string>

namespace pg::golden {
namespace {

const char* const kFiles[] = {"llama_gqa",    "gpt2_tied", "llama_mqa_tied",
                              "mixtral_top2", "qwen_moe",  "switch_gelu"};

// What the call throws; empty when it does not.
std::string refusal(const std::function<void()>& call) {
  try {
    call();
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return {};
}

std::int64_t elements(const std::vector<std::int64_t>& shape) {
  return std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
}

TEST(GoldenFile, config_of_each_file_is_the_model_that_was_made) {
  model::ModelConfig llama;
  llama.layers = 2, llama.hidden = 24, llama.heads = 4, llama.kv_heads = 2, llama.head_dim = 6;
  llama.ffn = 40, llama.vocab = 61, llama.max_seq = 16;
  EXPECT_TRUE(GoldenFile(golden_path("llama_gqa")).config() == llama);

  model::ModelConfig gpt2;
  gpt2.layers = 2, gpt2.hidden = 20, gpt2.heads = 4, gpt2.kv_heads = 4, gpt2.head_dim = 5;
  gpt2.ffn = 80, gpt2.vocab = 53, gpt2.max_seq = 16, gpt2.bias = gpt2.tie_embeddings = true;
  gpt2.norm = model::NormKind::kLayerNorm, gpt2.activation = model::Activation::kGelu;
  gpt2.position = model::PositionKind::kLearned;
  EXPECT_TRUE(GoldenFile(golden_path("gpt2_tied")).config() == gpt2);

  model::ModelConfig mqa;
  mqa.layers = 3, mqa.hidden = 23, mqa.heads = 3, mqa.kv_heads = 1, mqa.head_dim = 10;
  mqa.ffn = 37, mqa.vocab = 47, mqa.max_seq = 9, mqa.tie_embeddings = true;
  mqa.rope_theta = 500000.0, mqa.norm_eps = 1e-6;
  EXPECT_TRUE(GoldenFile(golden_path("llama_mqa_tied")).config() == mqa);
}

TEST(GoldenFile, config_of_each_file_with_experts_is_the_model_that_was_made) {
  model::ModelConfig mixtral;
  mixtral.layers = 2, mixtral.hidden = 20, mixtral.heads = 4, mixtral.kv_heads = 2;
  mixtral.head_dim = 6, mixtral.ffn = 40, mixtral.vocab = 43, mixtral.max_seq = 16;
  mixtral.moe = {.experts = 5, .top_k = 2, .ffn = 11, .aux_loss = 0.05, .z_loss = 0.02};
  EXPECT_TRUE(GoldenFile(golden_path("mixtral_top2")).config() == mixtral);

  model::ModelConfig qwen;
  qwen.layers = 4, qwen.hidden = 18, qwen.heads = 3, qwen.kv_heads = 1, qwen.head_dim = 6;
  qwen.ffn = 31, qwen.vocab = 41, qwen.max_seq = 8, qwen.rope_theta = 1e6, qwen.norm_eps = 1e-6;
  qwen.moe = {.experts = 6, .top_k = 3, .ffn = 7, .renormalize = false};
  qwen.moe.shared_experts = qwen.moe.every = 2;
  EXPECT_TRUE(GoldenFile(golden_path("qwen_moe")).config() == qwen);

  model::ModelConfig gelu;
  gelu.layers = 2, gelu.hidden = 16, gelu.heads = 4, gelu.kv_heads = 4, gelu.head_dim = 4;
  gelu.ffn = 64, gelu.vocab = 37, gelu.max_seq = 12, gelu.bias = gelu.tie_embeddings = true;
  gelu.norm = model::NormKind::kLayerNorm, gelu.activation = model::Activation::kGelu;
  gelu.position = model::PositionKind::kLearned;
  gelu.moe = {.experts = 4, .top_k = 1, .ffn = 23, .renormalize = false, .z_loss = 0.02};
  gelu.moe.router = model::RouterKind::kSwitch;
  EXPECT_TRUE(GoldenFile(golden_path("switch_gelu")).config() == gelu);
}

TEST(GoldenFile, shapes_are_the_tables_shapes) {
  using Shape = std::vector<std::int64_t>;
  const GoldenFile llama(golden_path("llama_gqa")), mqa(golden_path("llama_mqa_tied"));
  const GoldenFile gpt2(golden_path("gpt2_tied"));
  EXPECT_EQ(llama.doubles("/weights/blocks.1.attention.k.weight").shape, (Shape{12, 24}));
  EXPECT_EQ(llama.doubles("/weights/lm_head.weight").shape, (Shape{61, 24}));
  EXPECT_EQ(mqa.doubles("/weights/blocks.2.attention.q.weight").shape, (Shape{30, 23}));
  EXPECT_EQ(mqa.doubles("/weights/blocks.2.attention.out.weight").shape, (Shape{23, 30}));
  EXPECT_EQ(gpt2.doubles("/weights/blocks.0.mlp.up.weight").shape, (Shape{80, 20}));
  EXPECT_EQ(gpt2.doubles("/weights/embed.positions.weight").shape, (Shape{16, 20}));
  EXPECT_EQ(gpt2.ints("/tokens").shape, (Shape{3, 11}));
  EXPECT_EQ(gpt2.doubles("/loss").shape, Shape{});
  EXPECT_FALSE(gpt2.has("/weights/lm_head.weight"));
  EXPECT_FALSE(mqa.has("/losses"));
  EXPECT_FALSE(mqa.has("/aux_loss"));
}

TEST(GoldenFile, shapes_of_experts_are_the_tables_shapes) {
  using Shape = std::vector<std::int64_t>;
  const GoldenFile qwen(golden_path("qwen_moe")), gelu(golden_path("switch_gelu"));
  EXPECT_EQ(qwen.doubles("/weights/blocks.0.mlp.gate.weight").shape, (Shape{31, 18}));
  EXPECT_EQ(qwen.doubles("/weights/blocks.1.moe.router.weight").shape, (Shape{6, 18}));
  EXPECT_EQ(qwen.doubles("/weights/blocks.1.moe.experts.5.gate.weight").shape, (Shape{7, 18}));
  EXPECT_EQ(qwen.doubles("/weights/blocks.1.moe.experts.5.down.weight").shape, (Shape{18, 7}));
  EXPECT_EQ(qwen.doubles("/weights/blocks.3.moe.shared.up.weight").shape, (Shape{14, 18}));
  EXPECT_EQ(qwen.doubles("/aux_loss").values, std::vector<double>{0.0});
  EXPECT_FALSE(qwen.has("/weights/blocks.1.mlp.up.weight"));
  EXPECT_FALSE(qwen.has("/losses"));
  EXPECT_EQ(gelu.doubles("/weights/blocks.0.moe.experts.3.up.weight").shape, (Shape{23, 16}));
  EXPECT_EQ(gelu.doubles("/weights/blocks.0.moe.experts.3.up.bias").shape, Shape{23});
  EXPECT_EQ(gelu.doubles("/weights/blocks.0.moe.experts.3.down.bias").shape, Shape{16});
  EXPECT_FALSE(gelu.has("/weights/blocks.0.moe.router.bias"));
}

TEST(GoldenFile, every_weight_has_a_gradient_of_its_shape) {
  for (const auto* name : kFiles) {
    const GoldenFile file(golden_path(name));
    const auto weights = file.names("/weights");
    EXPECT_EQ(file.names("/grads"), weights) << name;
    if (file.has("/final_weights")) {
      EXPECT_EQ(file.names("/final_weights"), weights) << name;
    }
    for (const auto& weight : weights) {
      const auto value = file.doubles("/weights/" + weight);
      EXPECT_EQ(file.doubles("/grads/" + weight).shape, value.shape) << name << " " << weight;
      EXPECT_EQ(static_cast<std::int64_t>(value.values.size()), elements(value.shape));
    }
  }
}

// Catches a wrong order of axes or values. Rounding: some 50 fp64 terms a row, 30 rows.
TEST(GoldenFile, loss_is_the_mean_cross_entropy_of_the_logits_over_valid_targets) {
  const std::int64_t valid_targets[] = {26, 29, 24, 23, 23, 25};
  for (int i = 0; i < 6; ++i) {
    const GoldenFile file(golden_path(kFiles[i]));
    const auto targets = file.ints("/targets");
    const auto logits = file.doubles("/logits");
    const std::int64_t vocab = file.integer("vocab");
    ASSERT_EQ(logits.shape, (std::vector<std::int64_t>{targets.shape[0], targets.shape[1], vocab}));
    double sum = 0.0;
    std::int64_t valid = 0;
    for (std::size_t row = 0; row < targets.values.size(); ++row) {
      if (targets.values[row] < 0) continue;
      const double* logit = logits.values.data() + row * vocab;
      double exponentials = 0.0;
      for (std::int64_t v = 0; v < vocab; ++v) exponentials += std::exp(logit[v]);
      sum += std::log(exponentials) - logit[targets.values[row]];
      ++valid;
    }
    EXPECT_EQ(valid, valid_targets[i]) << kFiles[i];
    EXPECT_NEAR(sum / static_cast<double>(valid), file.doubles("/loss").values.at(0), 1e-13);
  }
}

TEST(GoldenFile, first_step_of_the_trajectory_is_the_stored_gradient) {
  for (const auto* name : {"llama_gqa", "gpt2_tied", "mixtral_top2", "switch_gelu"}) {
    const GoldenFile file(golden_path(name));
    double squares = 0.0;
    for (const auto& weight : file.names("/grads")) {
      for (const double g : file.doubles("/grads/" + weight).values) squares += g * g;
    }
    const auto norms = file.doubles("/grad_norms").values, losses = file.doubles("/losses").values;
    ASSERT_EQ(norms.size(), 5u);
    ASSERT_EQ(losses.size(), 5u);
    EXPECT_NEAR(norms[0], std::sqrt(squares), 1e-13 * norms[0]) << name;
    EXPECT_EQ(losses[0], file.doubles("/loss").values.at(0)) << name;
    EXPECT_EQ(file.real("optimizer_lr"), 1e-2);
  }
}

TEST(GoldenFile, weights_are_exact_in_fp32) {
  for (const auto* name : kFiles) {
    const GoldenFile file(golden_path(name));
    for (const auto& weight : file.names("/weights")) {
      for (const double w : file.doubles("/weights/" + weight).values) {
        ASSERT_EQ(static_cast<double>(static_cast<float>(w)), w) << name << " " << weight;
      }
    }
  }
}

TEST(GoldenFile, what_is_not_there_or_has_another_type_is_refused_by_name) {
  const GoldenFile file(golden_path("gpt2_tied"));
  const auto says = [](const std::string& text, const char* part) {
    return text.find("gpt2_tied.h5") != std::string::npos && text.find(part) != std::string::npos;
  };
  EXPECT_TRUE(says(refusal([&] { file.doubles("/weights/nothing"); }), "/weights/nothing"));
  EXPECT_TRUE(says(refusal([&] { file.doubles("/tokens"); }), "/tokens"));
  EXPECT_TRUE(says(refusal([&] { file.ints("/logits"); }), "/logits"));
  EXPECT_TRUE(says(refusal([&] { file.names("/momenta"); }), "/momenta"));
  EXPECT_TRUE(says(refusal([&] { file.integer("rope_theta"); }), "rope_theta"));
  EXPECT_TRUE(says(refusal([&] { file.real("layers"); }), "layers"));
  EXPECT_TRUE(says(refusal([&] { file.text("colour"); }), "colour"));
  EXPECT_FALSE(file.has_attribute("colour"));
  EXPECT_NE(refusal([] { GoldenFile missing(golden_path("none")); }), "");
}

}  // namespace
}  // namespace pg::golden

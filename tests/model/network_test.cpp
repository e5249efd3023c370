// The whole network against finite differences of its own loss, and what its arena and FLOP counts
// claim.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "harness/one_rank.h"
#include "harness/sums.h"

namespace pg::model {
namespace {

ModelConfig llama() {
  ModelConfig c;
  c.layers = 2;
  c.hidden = 12;
  c.heads = 4;
  c.kv_heads = 2;
  c.head_dim = 6;  // not hidden / heads
  c.ffn = 11;
  c.vocab = 17;
  c.max_seq = 7;
  c.window = 4;
  return c;
}

ModelConfig gpt2() {
  ModelConfig c = llama();
  c.kv_heads = 4;
  c.head_dim = 3;
  c.window = 0;
  c.norm = NormKind::kLayerNorm;
  c.activation = Activation::kGelu;
  c.position = PositionKind::kLearned;
  c.bias = true;
  c.tie_embeddings = true;
  c.dropout = 0.2;
  return c;
}

class Network : public testing::OneRank {
 public:
  explicit Network(const ModelConfig& c, RecomputePlan recompute = {})
      : OneRank(c, DType::kF64, 2, 7, 3, recompute) {
    params.initialise(2);
    // Spread the values: with the small initial ones gradients of q and k are near zero.
    for (std::size_t id = 0; id < params.table().size(); ++id) {
      for (std::int64_t e = 0; e < params.table()[id].elements(); ++e) {
        params.weight(id).data<double>()[e] +=
            0.3 *
            comm::random_normal(comm::random_key(id, "spread"), static_cast<std::uint64_t>(e));
      }
    }
    for (std::int32_t i = 0; i < 14; ++i) {
      tokens.push_back(i * 5 % 17);
      targets.push_back(i == 3 ? -1 : (i * 7 + 2) % 17);
      positions.push_back(i % 7);
    }
    const auto view = [](std::vector<std::int32_t>& x) {
      return TensorView(x.data(), DType::kI32, {14});
    };
    batch.sequences = 2;
    batch.seq = 7;
    batch.tokens = view(tokens);
    batch.positions = view(positions);
    batch.targets = view(targets);
    batch.samples = samples;
  }
  double step() {
    kernels->fill_zero(params.all_grads());
    return forward_backward(batch, 1.0);
  }

  std::vector<std::int32_t> tokens, targets, positions;
  std::vector<std::int64_t> samples{11, 42};
  MicroBatch batch;
};

// Central differences with h = 1e-5: truncation h^2 f'''/6 about 1e-10 of the loss's scale (about
// 40), rounding 40 eps / h about 1e-9: 1e-6 holds with room, and a wrong term is of the order of
// the gradient.
TEST(Transformer, every_parameter_s_gradient_matches_finite_differences) {
  for (const auto& config : {llama(), gpt2()}) {
    Network net(config);
    net.step();
    std::vector<std::vector<double>> gradients;
    for (std::size_t id = 0; id < net.params.table().size(); ++id) {
      const auto* g = net.params.grad(id).data<double>();
      gradients.emplace_back(g, g + net.params.table()[id].elements());
    }
    for (std::size_t id = 0; id < gradients.size(); ++id) {
      const auto n = static_cast<std::int64_t>(gradients[id].size());
      for (std::int64_t e = 0; e < n; e += std::max<std::int64_t>(1, n / 5)) {
        double& w = net.params.weight(id).data<double>()[e];
        const double at = w, h = 1e-5;
        w = at + h;
        const double above = net.step();
        w = at - h;
        const double below = net.step();
        w = at;
        const double slope = (above - below) / (2 * h);
        EXPECT_NEAR(gradients[id][static_cast<std::size_t>(e)], slope, 1e-6 * (1 + std::abs(slope)))
            << net.params.table()[id].name << " element " << e;
      }
    }
  }
}

TEST(Transformer, activation_memory_is_used_up_to_the_planned_byte) {
  for (const auto& config : {llama(), gpt2()}) {
    for (const auto mode : {Recompute::kNone, Recompute::kSelective, Recompute::kFull}) {
      Network net(config, {mode, 0});
      net.step();
      net.step();
      EXPECT_EQ(net.model.high_water(), net.model.planned().total());
    }
  }
}

// Same kernels, same operands: not a digit differs, dropout included.
TEST(Transformer, recomputation_gives_the_same_bits) {
  for (const auto& config : {llama(), gpt2()}) {
    Network plain(config);
    const double loss = plain.step();
    for (const auto& plan :
         {RecomputePlan{Recompute::kSelective, 0}, RecomputePlan{Recompute::kFull, 0},
          RecomputePlan{Recompute::kFull, 1}, RecomputePlan{Recompute::kSelective, 1}}) {
      Network again(config, plan);
      EXPECT_EQ(again.step(), loss);
      for (std::size_t id = 0; id < plain.params.table().size(); ++id) {
        const auto* a = plain.params.grad(id).data<double>();
        const auto* b = again.params.grad(id).data<double>();
        for (std::int64_t e = 0; e < plain.params.table()[id].elements(); ++e) {
          ASSERT_EQ(a[e], b[e]) << plain.params.table()[id].name;
        }
      }
    }
  }
}

TEST(Transformer, places_complete_once_each_from_head_to_embedding) {
  Network net(llama());
  net.step();
  EXPECT_EQ(net.use.done, (std::vector<std::int64_t>{3, 2, 1, 0}));
  // The tied head's share of the token table waits for the embedding's.
  Network tied(gpt2());
  tied.step();
  EXPECT_EQ(tied.use.done, (std::vector<std::int64_t>{3, 2, 1, 0, 4}));
}

TEST(Transformer, gradients_add_up_over_micro_batches) {
  Network net(llama());
  net.step();
  const auto id = net.params.table().id("blocks.0.attention.k.weight");
  const double once = net.params.grad(id).data<double>()[5];
  net.forward_backward(net.batch, 1.0);
  EXPECT_NEAR(net.params.grad(id).data<double>()[5], 2 * once, 1e-12 * std::abs(once));
}

TEST(Transformer, loss_alone_has_no_dropout_and_no_gradients) {
  Network net(gpt2());
  net.kernels->fill_zero(net.params.all_grads());
  const double plain = net.loss(net.batch);
  EXPECT_NE(plain, net.forward_backward(net.batch, 0.0));
  EXPECT_EQ(plain, net.loss(net.batch));
  EXPECT_EQ(squares_of(*net.kernels, net.params.all_grads()), 0.0);
}

TEST(Transformer, model_flops_are_six_n_plus_causal_attention) {
  auto c = gpt2();
  const double n = 17 * 12 + 2 * (4 * 12 * 12 + 2 * 11 * 12);  // matrices only; tied head once
  EXPECT_DOUBLE_EQ(model_flops_per_token(c, 7), 6 * n + 12.0 * 4.0 * 12 * 2);
  c.tie_embeddings = false;  // a head of its own; the table is then only looked up
  EXPECT_DOUBLE_EQ(model_flops_per_token(c, 7), 6 * n + 12.0 * 4.0 * 12 * 2);
  c.window = 1;  // each token sees itself
  EXPECT_DOUBLE_EQ(model_flops_per_token(c, 7), 6 * n + 12.0 * 1.0 * 12 * 2);
}

}  // namespace
}  // namespace pg::model

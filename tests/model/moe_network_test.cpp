// Networks with experts against finite differences of their own loss, auxiliary terms included, on
// one rank; and the arithmetic of loads, capacities and the balance by bias.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "harness/one_rank.h"
#include "harness/sums.h"
#include "model/optim/router_balance.h"

namespace pg::model {
namespace {

constexpr std::int64_t kSequences = 2, kSeq = 9;
constexpr double kSequenceScale = 0.7;

ModelConfig mixtral() {
  ModelConfig c;
  c.layers = 2;
  c.hidden = 12;
  c.heads = 4;
  c.kv_heads = 2;
  c.head_dim = 4;
  c.ffn = 11;
  c.vocab = 17;
  c.max_seq = kSeq;
  c.moe.experts = 4;
  c.moe.top_k = 2;
  c.moe.ffn = 7;
  c.moe.aux_loss = 0.9;  // large, so that their gradients count
  c.moe.z_loss = 0.4;
  return c;
}

struct Variant {
  std::string name;
  ModelConfig config;
};

std::vector<Variant> variants() {
  std::vector<Variant> all{{"top-2 of 4, renormalised", mixtral()}};
  auto c = mixtral();
  c.moe.renormalize = false;
  c.moe.shared_experts = 2;
  c.moe.every = 2;
  all.push_back({"every second block, shared experts", c});
  c = mixtral();
  c.moe.capacity_factor = 0.8;  // ceil(0.8 * 2 * 9 / 4) = 4 tokens of a sequence
  all.push_back({"capacity", c});
  c.moe.renormalize = false;
  c.moe.top_k = 1;
  c.moe.router = RouterKind::kSwitch;
  c.bias = true;
  c.activation = Activation::kGelu;
  c.norm = NormKind::kLayerNorm;
  c.position = PositionKind::kLearned;
  c.tie_embeddings = true;
  all.push_back({"switch with biases", c});
  c = mixtral();
  c.moe.router = RouterKind::kExpertChoice;
  c.moe.renormalize = false;
  c.moe.aux_loss = 0.0;
  all.push_back({"expert choice", c});
  return all;
}

class Network : public testing::OneRank {
 public:
  explicit Network(const ModelConfig& c, RecomputePlan recompute = {})
      : OneRank(c, DType::kF64, kSequences, kSeq, 3, recompute) {
    params.initialise(2);
    for (std::size_t id = 0; id < params.table().size(); ++id) {
      for (std::int64_t e = 0; e < params.table()[id].elements(); ++e) {
        params.weight(id).data<double>()[e] +=
            0.3 *
            comm::random_normal(comm::random_key(id, "spread"), static_cast<std::uint64_t>(e));
      }
    }
    const auto n = static_cast<std::int32_t>(kSequences * kSeq);
    for (std::int32_t i = 0; i < n; ++i) {
      tokens.push_back(i * i * 5 % 17);
      targets.push_back(i == 3 ? -1 : (i * 7 + 2) % 17);
      positions.push_back(i % static_cast<std::int32_t>(kSeq));
    }
    const auto view = [&](std::vector<std::int32_t>& x) {
      return TensorView(x.data(), DType::kI32, {n});
    };
    batch.sequences = kSequences;
    batch.seq = kSeq;
    batch.tokens = view(tokens);
    batch.positions = view(positions);
    batch.targets = view(targets);
    batch.samples = samples;
  }

  // The loss with its auxiliary terms; the gradients of it are in the store.
  double step() {
    kernels->fill_zero(params.all_grads());
    model.counters().clear(*kernels);
    double loss = forward_backward(batch, 1.0, kSequenceScale);
    const auto& moe = params.layout().rank_config().moe;
    for (const auto block : model.counters().blocks()) {
      loss += kSequenceScale * (moe.aux_loss * value(model.counters().balance_loss(block)) +
                                moe.z_loss * value(model.counters().z_loss(block)) / kSeq);
    }
    return loss;
  }
  static double value(TensorView x) { return *x.data<double>(); }
  double sum(TensorView x) { return sum_of(*kernels, x); }

  std::vector<std::int32_t> tokens, targets, positions;
  std::vector<std::int64_t> samples{11, 42};
  MicroBatch batch;
};

// Bounds as in network_test.cpp; a choice that flips within h would show as a deviation of the
// order of the loss, and none does at these values.
TEST(MoeNetwork, every_parameter_s_gradient_matches_finite_differences) {
  for (const auto& [name, config] : variants()) {
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
            << name << ": " << net.params.table()[id].name << " element " << e;
      }
    }
  }
}

TEST(MoeNetwork, recomputation_gives_the_same_bits_and_counts_once) {
  for (const auto& [name, config] : variants()) {
    Network plain(config);
    const double loss = plain.step();
    for (const auto mode : {Recompute::kSelective, Recompute::kFull}) {
      Network again(config, {mode, 0});
      EXPECT_EQ(again.step(), loss) << name;
      const auto counts = plain.model.counters().all(), others = again.model.counters().all();
      for (std::int64_t i = 0; i < counts.elements(); ++i) {
        ASSERT_EQ(counts.data<double>()[i], others.data<double>()[i]) << name;
      }
      for (std::size_t id = 0; id < plain.params.table().size(); ++id) {
        const auto* a = plain.params.grad(id).data<double>();
        const auto* b = again.params.grad(id).data<double>();
        for (std::int64_t e = 0; e < plain.params.table()[id].elements(); ++e) {
          ASSERT_EQ(a[e], b[e]) << name << ": " << plain.params.table()[id].name;
        }
      }
    }
  }
}

TEST(MoeNetwork, counters_add_up_to_what_was_routed) {
  for (const auto& [name, config] : variants()) {
    Network net(config);
    net.step();
    const auto& moe = config.moe;
    for (const auto block : net.model.counters().blocks()) {
      const double chosen = net.sum(net.model.counters().chosen(block));
      const double kept = net.sum(net.model.counters().kept(block));
      const auto per_sequence = moe.router == RouterKind::kExpertChoice
                                    ? moe.experts * expert_capacity(moe, kSeq)
                                    : moe.top_k * kSeq;
      EXPECT_EQ(chosen, static_cast<double>(kSequences * per_sequence)) << name;
      if (moe.capacity_factor == 0.0) {
        EXPECT_EQ(kept, chosen) << name;
      } else {
        EXPECT_LT(kept, chosen) << name;
      }
      EXPECT_GE(Network::value(net.model.counters().balance_loss(block)), 0.0);
    }
  }
}

TEST(ExpertLoads, capacity_is_the_even_share_times_its_factor_rounded_up) {
  MoeConfig moe;
  moe.experts = 8;
  moe.top_k = 2;
  EXPECT_EQ(expert_capacity(moe, 100), 100);  // dropless
  moe.capacity_factor = 1.0;
  EXPECT_EQ(expert_capacity(moe, 100), 25);
  EXPECT_EQ(expert_capacity(moe, 101), 26);
  moe.capacity_factor = 1.1;
  EXPECT_EQ(expert_capacity(moe, 40), 11);  // 1.1 * 10 in fp64 is above 11
  moe.capacity_factor = 100;
  EXPECT_EQ(expert_capacity(moe, 40), 40);
  moe.capacity_factor = 0.0001;
  EXPECT_EQ(expert_capacity(moe, 40), 1);
  moe.router = RouterKind::kExpertChoice;
  EXPECT_EQ(expert_capacity(moe, 40), 10);
}

TEST(ExpertLoads, the_largest_load_is_all_tokens_of_all_ranks_on_one) {
  MoeConfig moe;
  moe.experts = 8;
  moe.top_k = 3;
  Sharding s;
  EXPECT_EQ(largest_load(moe, s, 2, 20).received, 60);
  EXPECT_EQ(balanced_load(moe, s, 2, 20).received, 60);
  s.ep = 4;  // two experts a rank: a token can want both
  EXPECT_EQ(largest_load(moe, s, 2, 20).sent, 60);
  EXPECT_EQ(largest_load(moe, s, 2, 20).received, 4 * 40);
  EXPECT_EQ(balanced_load(moe, s, 2, 20).received, 60);
  moe.capacity_factor = 1.0;  // ceil(3 * 10 / 8) = 4 tokens of each of 2 sequences an expert
  EXPECT_EQ(largest_load(moe, s, 2, 20).received, 4 * 2 * 4 * 2);
  s.cp = 2;  // of 20 positions, 10 of them here: 8 tokens an expert, all of which can be here
  EXPECT_EQ(largest_load(moe, s, 2, 20).received, 4 * 2 * 8 * 2);
}

TEST(RouterBalance, asked_for_more_than_the_mean_loses_a_step) {
  auto config = mixtral();
  config.moe.bias_update = 0.125;
  ParamStore params(ParamLayout(config), DType::kF32);
  params.initialise(1);
  const auto kernels = make_cpu_kernels(1);
  RouterBalance balance(params, *kernels, dry_groups({}, config.kv_heads));
  MoeReport report;
  report.blocks.push_back({0, {5, 1, 3, 3}, {5, 1, 3, 3}, 0, 0});
  report.blocks.push_back({1, {2, 2, 2, 3}, {2, 2, 2, 3}, 0, 0});
  balance.update(report);
  balance.update(report);
  const auto biases = [&](std::int64_t block) {
    const auto* b = params.router_bias(block).data<float>();
    return std::vector<float>(b, b + 4);
  };
  EXPECT_EQ(biases(0), (std::vector<float>{-0.25F, 0.25F, 0.0F, 0.0F}));
  EXPECT_EQ(biases(1), (std::vector<float>{0.25F, 0.25F, 0.25F, -0.25F}));
  EXPECT_EQ(report.dropped_share(), 0.0);
  report.blocks[0].kept = {3, 1, 3, 3};
  EXPECT_DOUBLE_EQ(report.dropped_share(), 2.0 / 21.0);
}

}  // namespace
}  // namespace pg::model

// Mixtures of experts: whatever the routing, the same deck and seed on any grid give the losses,
// gradients, routers' losses and dropped tokens of one rank. Bounds as in parity_test.cpp; 10
// steps.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>

#include "axes.h"
#include "case_runner.h"

namespace pg::testing {
namespace {

CaseRunner& runner() {
  static CaseRunner made("experts");
  return made;
}

using model::ContextMethod;
using model::Recompute;
using model::ScheduleKind;
constexpr auto kLlama = Style::kLlama, kGpt2 = Style::kGpt2;
constexpr Feed kFeeds[] = {Feed::kTopK,   Feed::kTopKShared, Feed::kTopKCapacity,
                           Feed::kSwitch, Feed::kBalanced,   Feed::kExpertChoice};

// What the cases below are compared with: runs that learn, with routers at work.
TEST(Experts, one_rank_learns_balances_and_drops) {
  for (const auto style : {kLlama, kGpt2}) {
    for (const auto feed : kFeeds) {
      const auto& trace = runner().reference(of_style(style, feed));
      const auto what = std::string(style_name(style)) + " " + feed_name(feed);
      EXPECT_LT(trace.losses.back(), trace.losses.front() - 0.2) << what;
      EXPECT_GT(trace.aux_losses.front(), 0.0) << what;
      const auto [least, most] = std::minmax_element(trace.dropped.begin(), trace.dropped.end());
      if (feed == Feed::kTopKCapacity || feed == Feed::kSwitch) {
        EXPECT_GT(*least, 0.0) << what;
        if (root()) std::printf("    %-16s drops %.3f to %.3f\n", what.c_str(), *least, *most);
      } else {
        EXPECT_EQ(*most, 0.0) << what;
      }
    }
  }
}

TEST(Experts, fp64_is_the_same_on_every_covering_case) {
  const auto all = expert_cases(comm::Communicator::world().size());
  const auto cases = covering(all);
  if (root()) {
    std::printf("    %zu legal cases; %zu have every combination of three factors\n", all.size(),
                cases.size());
  }
  runner().expect_parity(cases);
}

// Routing is defined for one sequence: losses, capacity and choice do not see the micro-batch.
TEST(Experts, micro_batch_size_does_not_change_the_mathematics) {
  double worst = 0;
  for (const auto style : {kLlama, kGpt2}) {
    for (const auto feed : kFeeds) {
      for (const int sequences : {2, 4}) {
        auto c = of_style(style, feed);
        c.sequences = sequences;
        const auto result = runner().compare(c);
        expect_within(result, c.name());
        worst = std::max({worst, result.worst_gradient, result.worst_loss, result.worst_aux});
      }
    }
  }
  if (root()) std::printf("    1, 2 and 4 sequences: off by %.1e\n", worst);
}

TEST(Experts, fp64_is_the_same_at_the_edges) {
  const auto tiny = [](std::int64_t seq) {
    return [seq](app::Deck& d) {
      d.train.seq = seq;
      d.model.moe.experts = 8;
    };
  };
  // Every token is the same and so goes the same way.
  const auto one_token = make_tokens(comm::Communicator::world(), "experts_one_token", 9001, 1, 3);
  const auto all_to_one = [&](app::Deck& d) {
    d.data.train = one_token.string();
    d.model.window = 0;
    d.model.moe.capacity_factor = 0.0;
    // Slower, so that a loss of nothing is not what is compared.
    d.optimizer.lr = 1e-3;
  };
  const auto llama = [](Feed feed) { return of_style(kLlama, feed); };
  const auto gpt2 = [](Feed feed) { return of_style(kGpt2, feed); };
  const std::vector<Edge> edges{
      {"an expert a rank, most of them without a token", with_experts(llama(Feed::kSwitch), 8),
       tiny(2)},
      {"the same under ZeRO 3, all made again",
       with_recompute(with_zero(with_experts(gpt2(Feed::kTopK), 4), 2, 3), Recompute::kFull),
       tiny(2)},
      {"one token a micro-batch", with_experts(gpt2(Feed::kTopKCapacity), 4), tiny(1)},
      {"all tokens to one expert of four ranks", with_experts(llama(Feed::kSwitch), 4), all_to_one},
      {"all tokens to one expert, ZeRO 2 and tp 2",
       with_tensor(with_zero(with_experts(llama(Feed::kSwitch), 2), 2, 2), 2, true), all_to_one},
      {"biases that turn the choice over at every step",
       with_zero(with_experts(llama(Feed::kBalanced), 4), 2, 1),
       [](app::Deck& d) { d.model.moe.bias_update = 10.0; }},
      {"every token to every expert", with_experts(gpt2(Feed::kTopK), 4),
       [](app::Deck& d) { d.model.moe.top_k = 8; }},
      {"one expert takes one token of a sequence", with_experts(llama(Feed::kExpertChoice), 4),
       [](app::Deck& d) {
         d.model.moe.experts = 48;
         d.model.moe.top_k = 1;
       }},
      {"one micro-batch in two stages of two ep ranks",
       with_stages(with_experts(gpt2(Feed::kTopKShared), 4), 2, ScheduleKind::k1F1B),
       [](app::Deck& d) { d.train.global_batch = 4; }},
      {"tensors of fewer elements than replicas",
       with_context(with_zero(with_experts(gpt2(Feed::kTopK), 2), 2, 3), 2, ContextMethod::kRing),
       [](app::Deck& d) {
         d.model.hidden = 3;
         d.model.head_dim = 1;
         d.model.moe.ffn = 2;
       }},
      {"the same under ZeRO 1 with experts of width 1",
       with_context(with_zero(with_experts(llama(Feed::kTopKShared), 2), 2, 1), 2,
                    ContextMethod::kUlysses),
       [](app::Deck& d) {
         d.model.hidden = 3;
         d.model.head_dim = 2;
         d.model.moe.ffn = 1;
       }},
      {"two layers of which one has experts, in two stages",
       with_stages(with_experts(llama(Feed::kTopKShared), 2), 2, ScheduleKind::kGPipe),
       [](app::Deck& d) { d.model.layers = 2; }},
      {"five layers of which two have experts, in four chunks",
       with_stages(with_zero(with_experts(gpt2(Feed::kTopKShared), 2), 2, 3), 2,
                   ScheduleKind::kInterleaved),
       [](app::Deck& d) { d.model.layers = 5; }},
      {"four sequences a micro-batch", with_experts(llama(Feed::kTopKCapacity), 2),
       [](app::Deck& d) { d.train.micro_batch = 4; }},
  };
  expect_parity_at(edges, runner());
}

// Exchanges between stages, ring steps and the sums of ZeRO. Run a second time with every send a
// rendezvous: nothing may deadlock.
TEST(ExpertsWait, exchanges_of_any_size_never_deadlock) {
  const auto top_k = of_style(kLlama, Feed::kTopK), shared = of_style(kGpt2, Feed::kTopKShared);
  const auto of_two = [](MatrixCase c) {
    c.sequences = 2;
    return c;
  };
  runner().expect_parity({
      with_zero(with_experts(top_k, 4), 2, 3),
      with_stages(with_experts(top_k, 4), 2, ScheduleKind::kInterleaved),
      with_stages(with_zero(with_experts(shared, 2), 2, 2), 2, ScheduleKind::k1F1B),
      of_two(with_context(with_experts(shared, 2), 4, ContextMethod::kRing)),
      with_stages(with_context(with_experts(top_k, 2), 2, ContextMethod::kRing), 2,
                  ScheduleKind::kGPipe),
  });
}

TEST(ExpertsControl, a_sum_over_the_wrong_ranks_is_found) {
  const auto top_k = of_style(kLlama, Feed::kTopK);
  const auto on_gpt2 = of_style(kGpt2, Feed::kTopKCapacity);
  const std::vector<Control> controls{
      {"experts summed over all replicas", with_experts(top_k, 2), {.sum_experts_over_all = true}},
      {"experts summed over all replicas of dp 2 ep 4",
       with_zero(with_experts(on_gpt2, 4), 2, 0),
       {.sum_experts_over_all = true}},
      {"routers that know their part of a sequence, ring",
       with_context(top_k, 2, ContextMethod::kRing),
       {.drop_statistics_sum = true}},
      {"routers that know their part of a sequence, ulysses",
       with_context(with_experts(on_gpt2, 2), 2, ContextMethod::kUlysses),
       {.drop_statistics_sum = true}},
      {"no sum over the ep ranks", with_experts(top_k, 2), {.drop_replica_sum = true}},
      {"a bucket of ZeRO 1 on ep 2",
       with_zero(with_experts(top_k, 2), 1, 1),
       {.drop_one_bucket = true}},
      {"a bucket of ZeRO 2 on ep 2 dp 2",
       with_zero(with_experts(on_gpt2, 2), 2, 2),
       {.drop_one_bucket = true}},
      {"a bucket of ZeRO 3 on ep 4",
       with_zero(with_experts(top_k, 4), 1, 3),
       {.drop_one_bucket = true}},
      {"a norm's sum over tp",
       with_tensor(with_experts(top_k, 2), 2, true),
       {.drop_stream_sum = true}},
      {"the tied table's two stages",
       with_stages(with_experts(on_gpt2, 2), 2, ScheduleKind::k1F1B),
       {.drop_tied_sum = true}},
      {"weights of other replicas, ZeRO 1 on ep 2 dp 2",
       with_zero(with_experts(top_k, 2), 2, 1),
       {.drop_publish = true}},
      {"new weights in the slots, ZeRO 3 on ep 2 dp 2",
       with_zero(with_experts(top_k, 2), 2, 3),
       {.keep_stale_slots = true}},
  };
  expect_found(controls, runner());
}

}  // namespace
}  // namespace pg::testing

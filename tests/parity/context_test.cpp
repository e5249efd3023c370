// Sequences cut over ranks: each method, whatever attention may see, gives the losses and gradients
// of whole sequences on one rank. Bounds as in parity_test.cpp; 10 steps.
#include <gtest/gtest.h>

#include <cstdio>

#include "axes.h"
#include "case_runner.h"

namespace pg::testing {
namespace {

CaseRunner& runner() {
  static CaseRunner made("context");
  return made;
}

using model::ContextMethod;
using model::Recompute;
using model::ScheduleKind;
constexpr auto kRing = ContextMethod::kRing, kUlysses = ContextMethod::kUlysses,
               kAllGather = ContextMethod::kAllGather;

TEST(Context, fp64_is_the_same_on_every_covering_case) {
  const auto all = context_cases(comm::Communicator::world().size());
  const auto cases = covering(all);
  if (root()) {
    std::printf("    %zu legal cases; %zu have every combination of three factors\n", all.size(),
                cases.size());
  }
  runner().expect_parity(cases);
}

TEST(Context, fp64_is_the_same_at_the_edges) {
  const auto llama = of_style(Style::kLlama), gpt2 = of_style(Style::kGpt2);
  const auto masked = with_mask(llama, Mask::kDocuments);
  const auto seq = [](std::int64_t n) {
    return [n](app::Deck& d) { d.train.seq = d.model.max_seq = n; };
  };
  const auto alone = [seq](std::int64_t n) {
    return [n, seq](app::Deck& d) {
      seq(n)(d);
      d.train.global_batch = 1;
    };
  };
  const auto window = [](std::int64_t n) { return [n](app::Deck& d) { d.model.window = n; }; };
  const auto one_kv_head = [](app::Deck& d) { d.model.kv_heads = 1; };
  const auto short_documents =
      make_documents(comm::Communicator::world(), "context_short", 9001, 61, 5, 2);
  const auto in_short_documents = [&](app::Deck& d) { d.data.train = short_documents.string(); };
  const std::vector<Edge> edges{
      {"ring, one position a chunk", with_context(llama, 4, kRing), seq(8)},
      {"allgather, one position a chunk", with_context(gpt2, 4, kAllGather), seq(8)},
      {"ulysses, one position a rank", with_context(gpt2, 4, kUlysses), seq(4)},
      {"ring, one position a rank of the stream",
       with_tensor(with_context(llama, 4, kRing), 2, true), seq(8)},
      {"ring, one sequence of odd chunks", with_context(llama, 3, kRing), alone(18)},
      {"allgather, one sequence of odd chunks", with_context(gpt2, 2, kAllGather), alone(20)},
      {"ulysses, one sequence of odd parts", with_context(gpt2, 3, kUlysses), alone(15)},
      {"ring on eight ranks, ZeRO 3", with_zero(with_context(gpt2, 8, kRing), 1, 3), seq(48)},
      {"allgather on eight ranks, ZeRO 2", with_zero(with_context(llama, 8, kAllGather), 1, 2),
       seq(48)},
      {"ring, one sequence in two stages",
       with_stages(with_context(llama, 3, kRing), 2, ScheduleKind::k1F1B), alone(24)},
      {"ring, each token sees itself", with_context(llama, 4, kRing), window(1)},
      {"allgather, each token sees itself", with_context(gpt2, 3, kAllGather), window(1)},
      {"ring, a window over all but one token", with_context(llama, 4, kRing), window(23)},
      {"ulysses, a KV head on three ranks", with_context(llama, 3, kUlysses), one_kv_head},
      {"ulysses, a KV head on four ranks, with tp 2",
       with_tensor(with_context(gpt2, 2, kUlysses), 2, true), one_kv_head},
      {"ring, documents of one and two tokens", with_context(masked, 4, kRing), in_short_documents},
      {"ulysses, documents of one and two tokens",
       with_recompute(with_context(masked, 2, kUlysses), Recompute::kSelective),
       in_short_documents},
      {"allgather, documents of one and two tokens",
       with_tensor(with_context(with_mask(gpt2, Mask::kDocuments), 3, kAllGather), 2, true),
       in_short_documents},
      {"ring, documents and a window",
       with_context(with_mask(gpt2, Mask::kDocumentsWindow), 4, kRing), [](app::Deck&) {}},
  };
  expect_parity_at(edges, runner());
}

TEST(ContextControl, a_broken_part_of_a_sequence_is_found) {
  const auto llama = with_mask(of_style(Style::kLlama), Mask::kCausal);
  const auto gpt2 = with_mask(of_style(Style::kGpt2), Mask::kDocuments);
  const std::vector<Control> controls{
      {"another rank's chunks in a wrong order, ring on 2",
       with_context(llama, 2, kRing),
       {.break_zigzag = true}},
      {"another rank's chunks in a wrong order, ring on 4",
       with_context(gpt2, 4, kRing),
       {.break_zigzag = true}},
      {"another rank's chunks in a wrong order, allgather on 3",
       with_context(llama, 3, kAllGather),
       {.break_zigzag = true}},
      {"no sum over cp, ulysses", with_context(gpt2, 2, kUlysses), {.drop_replica_sum = true}},
      {"a bucket of ZeRO 2 over cp, ring",
       with_zero(with_context(gpt2, 2, kRing), 2, 2),
       {.drop_one_bucket = true}},
      {"a norm's sum over tp under cp, allgather",
       with_tensor(with_context(llama, 2, kAllGather), 2, true),
       {.drop_stream_sum = true}},
      {"a KV head's copies on tp 4 under cp, ring",
       with_tensor(with_context(llama, 2, kRing), 4, false),
       {.drop_kv_copy = true}},
      {"weights of other cp ranks, ZeRO 1",
       with_zero(with_context(llama, 4, kUlysses), 1, 1),
       {.drop_publish = true}},
  };
  expect_found(controls, runner());
}

}  // namespace
}  // namespace pg::testing

// The same for experts and parts of sequences. n ranks, N tokens of a sequence, G sequences a step,
// L layers, e bytes of an element, Q and K the widths of queries and keys, C hidden; over all ranks
// and on top of the replicas' gradients, 2 (n-1) P e:
//   ring       3 (n-1) N 2K e L G              keys and values forward, in backward again, and
//                                              their gradients
//   allgather  3 (n-1) N 2K e L G              the same as two gathers and a scatter
//   ulysses    (n-1)/n N (4 Q + 4 K) e L G     q, k, v to heads, outputs back; both again
//   experts    4 (n-1)/n R C e L G             R rows of a sequence to experts and back, both again
// R is exactly the choice of all experts under expert choice, and top_k N under top_k, where the
// share that leaves a rank is (n-1)/n in the mean.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>

#include "model/layers/expert_parallel.h"
#include "wire_count.h"

namespace pg::testing {
namespace {

using model::ContextMethod;

// So many that one missing transfer of four is more than kExtra on 4 ranks, beside the gradients:
// 3/4 N Q L G of 3/4 N 8 Q L G + 6 P, with P = 216 000, is 4 %.
constexpr std::int64_t kSequences = 8;
constexpr double kMoves = static_cast<double>(kLayers * kSequences);

// Elements of experts, or of all else.
double elements(const app::Deck& deck, bool experts) {
  double n = 0;
  const model::ParamTable table(deck.model);
  for (const auto& spec : table.specs()) {
    const bool is = spec.name.find(".moe.experts.") != std::string::npos;
    if (is == experts) n += static_cast<double>(spec.elements());
  }
  return n;
}

TEST(WireAxes, parts_of_sequences_send_what_their_method_needs) {
  const double n = ranks();
  auto deck = wire_deck(kSequences);
  deck.grid.cp = static_cast<std::int64_t>(n);
  const double gradients = 2 * (n - 1) * elements(deck, false) * kBytes;
  const double keys = 2 * kStream * kBytes * kMoves;  // KV heads are as wide as the stream
  expect_wire("ring", deck, gradients + 3 * (n - 1) * keys);
  deck.context.method = ContextMethod::kAllGather;
  expect_wire("allgather", deck, gradients + 3 * (n - 1) * keys);
  deck.context.method = ContextMethod::kUlysses;
  expect_wire("ulysses", deck, gradients + (n - 1) / n * 8 * kStream * kBytes * kMoves);
}

TEST(WireAxes, experts_get_their_rows_and_give_them_back) {
  const double n = ranks();
  auto deck = wire_deck(kSequences);
  auto& moe = deck.model.moe;
  moe.experts = 8;
  moe.ffn = 40;
  moe.router = model::RouterKind::kExpertChoice;
  moe.renormalize = false;
  const auto rows = static_cast<double>(moe.experts * model::expert_capacity(moe, kSeq));
  EXPECT_EQ(rows, moe.top_k * kSeq);
  const auto exchanged = [&](double ep) {
    return 4 * (ep - 1) / ep * rows * kHidden * kBytes * kMoves;
  };
  const double dense = 2 * (n - 1) * elements(deck, false) * kBytes;
  deck.grid.ep = static_cast<std::int64_t>(n);
  expect_wire("expert choice", deck, dense + exchanged(n));

  moe.router = model::RouterKind::kTopK;
  moe.renormalize = true;
  // However uneven the experts' load: what all ranks keep is a share 1/n of it, if the ranks' own
  // tokens ask alike. Each of the 12 288 pairs that leave or stay is one draw: 5 / sqrt(12 288) =
  // 5 %, and as tokens of a sequence are alike, twice that.
  const auto c = count(deck);
  EXPECT_NEAR(c.least_rows / exchanged(n), 1.0, 0.1);
  EXPECT_GE(c.sent, c.least);
  EXPECT_LE(c.sent, 1.03 * c.least);
  if (comm::Communicator::world().rank() == 0) {
    std::printf("    top_k: rows to send %.4f of the even share, wire %.4f of the least\n",
                c.least_rows / exchanged(n), c.sent / c.least);
  }
  if (n != 4) return;
  // Experts are replicas over dp.
  moe.router = model::RouterKind::kExpertChoice;
  moe.renormalize = false;
  deck.grid.ep = deck.grid.dp = 2;
  expect_wire("expert choice, ep 2 dp 2", deck,
              dense + 2 * elements(deck, true) * kBytes + exchanged(2));
}

}  // namespace
}  // namespace pg::testing

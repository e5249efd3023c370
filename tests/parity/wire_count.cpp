#include "wire_count.h"

#include <gtest/gtest.h>

#include <cstdio>

namespace pg::testing {

// Of the method's bytes: losses, norms, agreement; measured below 2 % at these sizes, and a missing
// or doubled transfer of the method itself is at least 1 / (8 L + 5) = 3 %.
constexpr double kExtra = 0.03;

app::Deck wire_deck(std::int64_t global_batch) {
  static const auto tokens = make_tokens(comm::Communicator::world(), "wire", 20001, 509, 3);
  auto deck = llama_deck(tokens, DType::kF32);
  deck.model.layers = kLayers;
  deck.model.hidden = kHidden;
  deck.model.heads = deck.model.kv_heads = 8;
  deck.model.head_dim = 8;
  deck.model.ffn = 176;
  deck.model.vocab = 509;
  deck.model.max_seq = deck.train.seq = kSeq;
  deck.train.micro_batch = 1;
  deck.train.global_batch = global_batch;
  return deck;
}

WireCount count(const app::Deck& deck) {
  const auto world = comm::Communicator::world();
  comm::ProcessGrid grid(world, app::grid_of(deck, world.size()));
  app::Trainer trainer(deck, grid);
  trainer.step();
  WireBytes wire;
  const auto result = trainer.step();
  WireCount c;
  c.sent = static_cast<double>(wire.sent());
  for (const auto& row : result.traffic) {
    c.least += row.least_sent;
    if (row.operation == comm::Operation::kAllToAll) c.least_rows += row.least_sent;
  }
  const auto sums = comm::make_mpi_group(world.split(0, world.rank()), "sums");
  for (double* sum : {&c.sent, &c.least, &c.least_rows}) {
    *sum = comm::all_reduce(*sums, *sum, comm::ReduceOp::kSum);
  }
  return c;
}

WireCount expect_wire(const char* name, const app::Deck& deck, double method) {
  const auto c = count(deck);
  if (comm::Communicator::world().rank() == 0) {
    std::printf(
        "    %-28s method %9.0f B, wire %9.0f B: %.4f of it; %.4f of the least of all "
        "calls\n",
        name, method, c.sent, c.sent / method, c.sent / c.least);
  }
  EXPECT_GE(c.sent, method) << name << ": bytes are missing at the wire";
  EXPECT_LE(c.sent, (1 + kExtra) * method) << name;
  return c;
}

double ranks() {
  return comm::Communicator::world().size();
}

}  // namespace pg::testing

// Bytes of one training step at the wire: the deck, the count and the claim that the programs of
// parity.wire share. Collective over MPI_COMM_WORLD.
#pragma once

#include "harness/tiny_run.h"
#include "harness/wire_bytes.h"

namespace pg::testing {

// Of wire_deck: Llama style in fp32, 8 heads on 8 KV heads, one sequence a micro-batch.
inline constexpr std::int64_t kLayers = 3, kHidden = 64, kSeq = 64;
inline constexpr double kBytes = 4;
inline constexpr double kStream = static_cast<double>(kSeq * kHidden);
app::Deck wire_deck(std::int64_t global_batch);

struct WireCount {
  double sent = 0;        // at the wire, over all ranks
  double least = 0;       // that the step's calls need (TrafficRow)
  double least_rows = 0;  // of them those of all_to_all
};
// One step after one that warms up.
WireCount count(const app::Deck& deck);

// Expects all of `method` bytes at the wire, and little more; prints both. The count.
WireCount expect_wire(const char* name, const app::Deck& deck, double method);

double ranks();

}  // namespace pg::testing

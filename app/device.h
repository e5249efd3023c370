// Where a run computes: run.device, decided by all ranks together.
#pragma once

#include <memory>

#include "app/deck.h"
#include "comm/gpu.h"
#include "comm/mpi_session.h"

namespace pg::app {

// This rank's GPU; null: the run computes on CPUs. "cuda" needs one on every rank, "auto" takes
// GPUs where every rank has one and CPUs where none has: otherwise Error(kDeck), on all ranks,
// naming hosts and what is missing there. Ranks of a host share out its visible GPUs in order; with
// fewer GPUs than ranks several ranks share one. Collective.
std::unique_ptr<comm::Gpu> open_gpu(const Deck& deck, const comm::Communicator& world);

}  // namespace pg::app

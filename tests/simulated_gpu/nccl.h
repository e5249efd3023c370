// NCCL on the simulated GPU, over MPI: what the product calls of it. Operations run when the
// scheduler comes to their stream, and are polled; they end only when their peers have come,
// however short they are. What real NCCL answers with a hang or wrong bytes ends the process with a
// message: counts, types or operations that differ between ranks, collectives that two ranks issue
// in different orders, calls on a communicator that is not ready, a communicator freed with work in
// flight. As real ones, communicators that do not block are in progress for a while when they are
// made and at their first operation, and refuse other calls meanwhile; two ranks on one GPU are
// refused.
#pragma once

#include <nccl.h>

namespace pg::simulated {

// From now on every communicator of this process is in this asynchronous error: none of their
// operations ends until they are aborted.
void break_communicators(ncclResult_t error);

}  // namespace pg::simulated

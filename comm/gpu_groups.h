// Groups whose ranks have buffers on GPUs: two carriers, NCCL where every rank of a job has a GPU
// of its own, and MPI through pinned host memory where ranks share one (NCCL refuses that).
// ProcessGrid chooses. Buffers on the host go over MPI in both.
//
// Deadlock on the GPU. NCCL's kernels stay on the GPU until their peers have come. Each group has
// its own communicator and stream, so that a sum over dp and one over tp travel side by side; ranks
// issue them in the program's order, which is the same on all ranks of a group. Kernels that wait
// for each other across communicators need one thing more: that all of them have room. Each
// communicator runs one kernel at a time, and share_blocks() gives each so few blocks that all
// communicators of a rank fit the GPU at once, one block a processor; kernels that compute end by
// themselves and never keep that room for long. So any order in which the GPU takes them up is good
// (a chain of waits between the launches would make sums over tp wait for those over dp).
//
// Messages. A send ends when its receive has come, and on one stream it would hold up all behind
// it: two ranks that send to each other first and then receive would wait for ever. So each
// direction between two neighbours is a communicator of two ranks with a stream of its own (a
// lane): in it messages only wait for earlier ones of the same direction, as MPI's do. Its
// connection is made, and used once, when the group is made: NCCL makes them at the first use, and
// the host waits.
#pragma once

#include <memory>
#include <string>

#include "comm/gpu.h"
#include "comm/group.h"
#include "comm/mpi_session.h"

namespace pg::comm {

// Blocks a communicator's kernels may have: for collectives, and for one direction of messages.
struct NcclBlocks {
  int collective = 32, lane = 8;
};

// Of a GPU with `processors`, between `collectives` and `lanes` communicators: together at most
// `processors` as long as there are no more communicators than those, and at least one each.
NcclBlocks share_blocks(int processors, int collectives, int lanes);

// Communicators for messages of one rank in a group of `size`: both directions, each neighbour.
inline int lanes_of(int size) {
  return size < 2 ? 0 : size == 2 ? 2 : 4;
}

struct NcclOptions {
  NcclBlocks blocks;
  bool messages = false;  // make the lanes: without them send and recv are bugs
};

// "2.28.9"; empty without a GPU.
std::string nccl_version();

// Collective over `communicator`: returns when NCCL has connected its ranks. The host waits for
// NCCL here and in wait_for_gpu only, and looks at NCCL's own errors meanwhile: Error(kComm) naming
// group, operation, rank and host. The GPU must outlive it.
std::unique_ptr<Group> make_nccl_group(Communicator communicator, std::string name, const Gpu& gpu,
                                       const NcclOptions& options);

// Here the host does wait: in each call for what the GPU must do before it, and in its wait() for
// MPI. Liveness is that of an MPI group. Keeps pinned memory as large as the calls in flight.
std::unique_ptr<Group> make_staged_group(Communicator communicator, std::string name,
                                         const Gpu& gpu);

}  // namespace pg::comm

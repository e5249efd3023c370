#include "tests/simulated_gpu/nccl.h"

#include <cuda_runtime.h>
#include <sched.h>

#include <cstring>

#include "tests/simulated_gpu/nccl_work.h"
#include "tests/simulated_gpu/streams.h"

namespace pg::simulated {

namespace {

int world_rank() {
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  return rank;
}

struct Id {
  std::uint64_t key;
  int creator;  // its world rank; the communicator's rank 0
};

// What was aborted: MPI may still read what it sent.
std::vector<Handle>& graves() {
  static auto* all = new std::vector<Handle>;
  return *all;
}

// Every rank tells the creator who it is, and gets the list.
void make(State& s, const Id& id) {
  const int tag = tag_of(s.key, kMaking);
  const auto bytes_of = [](const Member* members, std::size_t n) {
    std::vector<char> bytes(n * sizeof(Member));
    std::memcpy(bytes.data(), members, bytes.size());
    return bytes;
  };
  Member me{s.rank, world_rank(), {}};
  cudaDeviceProp properties{};
  int device = 0;
  cudaGetDevice(&device);
  cudaGetDeviceProperties(&properties, device);
  std::memcpy(me.gpu, properties.uuid.bytes, sizeof(me.gpu));
  if ((s.rank == 0) != (me.world == id.creator)) stop("rank 0 must have made the id");
  s.members.resize(static_cast<std::size_t>(s.size));
  s.members[static_cast<std::size_t>(s.rank)] = me;
  s.joined = 1;
  if (s.rank != 0) s.outbox.send(bytes_of(&me, 1), id.creator, tag);
}

bool made(State& s, int creator) {
  const int tag = tag_of(s.key, kMaking);
  std::vector<char> bytes;
  if (s.rank == 0) {
    while (s.joined < s.members.size() && receive(MPI_ANY_SOURCE, tag, bytes)) {
      Member member;
      std::memcpy(&member, bytes.data(), sizeof(member));
      s.members.at(static_cast<std::size_t>(member.rank)) = member;
      if (++s.joined < s.members.size()) continue;
      std::vector<char> list(s.members.size() * sizeof(Member));
      std::memcpy(list.data(), s.members.data(), list.size());
      for (int r = 1; r < s.size; ++r) s.outbox.send(list, s.world_of(r), tag);
    }
    return s.joined == s.members.size();
  }
  if (!receive(creator, tag, bytes)) return false;
  std::memcpy(s.members.data(), bytes.data(), bytes.size());
  return true;
}

bool share_a_gpu(const State& s) {
  for (std::size_t a = 0; a < s.members.size(); ++a) {
    for (std::size_t b = 0; b < a; ++b) {
      if (std::memcmp(s.members[a].gpu, s.members[b].gpu, sizeof(s.members[a].gpu)) == 0)
        return true;
    }
  }
  return false;
}

}  // namespace

}  // namespace pg::simulated

struct ncclComm {
  pg::simulated::Handle state;
  int creator = 0;
  bool making = false;
};

namespace pg::simulated {

namespace {

struct Grouped {
  ncclComm_t comm;
  cudaStream_t stream;
  std::vector<Message> messages;
};
int depth = 0;
std::vector<Grouped> grouped;
int in_progress = 0;  // communicators: NCCL takes no other call meanwhile

ncclResult_t put(ncclComm_t comm, cudaStream_t stream, std::function<bool()> work) {
  auto& s = *comm->state;
  if (s.aborted || s.finalized) stop("a call on a communicator that was ended");
  if (comm->making || s.result == ncclInProgress) stop("a call on a communicator in progress");
  if (s.stream != nullptr && s.stream != stream) stop("one communicator on two streams");
  s.stream = stream;
  ++s.in_flight;
  auto counted = [state = comm->state, work = std::move(work)]() mutable {
    if (!work()) return false;
    --state->in_flight;
    return true;
  };
  if (s.blocking || s.connected) {
    enqueue_polled(stream, std::move(counted));
    return ncclSuccess;
  }
  // The first operation connects the ranks.
  s.connected = true;
  s.result = ncclInProgress;
  s.polls = 2;
  ++in_progress;
  s.waiting.push_back([stream, counted = std::move(counted)] { enqueue_polled(stream, counted); });
  return ncclInProgress;
}

ncclResult_t collective(ncclComm_t comm, cudaStream_t stream, const Header& header,
                        const void* send, void* recv) {
  if (depth > 0) stop("a collective in a group of calls is not simulated");
  if (in_progress > 0) return ncclInvalidUsage;
  return put(comm, stream, collective_work(comm->state, header, send, recv));
}

ncclResult_t message(ncclComm_t comm, cudaStream_t stream, const Message& m) {
  if (m.peer < 0 || m.peer >= comm->state->size) return ncclInvalidArgument;
  if (depth == 0) {
    if (in_progress > 0) return ncclInvalidUsage;
    return put(comm, stream, messages_work(comm->state, {m}));
  }
  for (auto& g : grouped) {
    if (g.comm == comm) {
      g.messages.push_back(m);
      return ncclSuccess;
    }
  }
  grouped.push_back({comm, stream, {m}});
  return comm->state->blocking ? ncclSuccess : ncclInProgress;
}

void progress(ncclComm_t comm) {
  auto& s = *comm->state;
  s.outbox.empty();
  if (s.result != ncclInProgress) return;
  if (comm->making) {
    if (!made(s, comm->creator)) {
      sched_yield();
      return;
    }
    comm->making = false;
    --in_progress;
    s.result = share_a_gpu(s) ? ncclInvalidUsage : ncclSuccess;
    return;
  }
  if (--s.polls > 0) return;
  s.result = ncclSuccess;
  --in_progress;
  for (auto& work : std::exchange(s.waiting, {})) work();
}

}  // namespace

void break_communicators(ncclResult_t error) {
  for (const auto& [key, state] : live()) state->result = error;
}

}  // namespace pg::simulated

using namespace pg::simulated;

extern "C" {

ncclResult_t ncclGetVersion(int* version) {
  *version = NCCL_VERSION_CODE;
  return ncclSuccess;
}
const char* ncclGetErrorString(ncclResult_t result) {
  switch (result) {
    case ncclSuccess:
      return "no error";
    case ncclInvalidUsage:
      return "invalid usage";
    case ncclRemoteError:
      return "remote process exited or there was a network error";
    default:
      return "an error of the simulated NCCL";
  }
}
const char* ncclGetLastError(ncclComm_t) {
  return "";
}

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  static std::uint64_t counter = 0;
  const Id mine{static_cast<std::uint64_t>(world_rank()) * 4096 + counter++ % 4096, world_rank()};
  static_assert(sizeof(mine) <= sizeof(id->internal));
  std::memset(id, 0, sizeof(*id));
  std::memcpy(id->internal, &mine, sizeof(mine));
  return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int size, ncclUniqueId id, int rank,
                                    ncclConfig_t* config) {
  if (depth == 0 && in_progress > 0) return ncclInvalidUsage;
  if (config->blocking != 0) stop("communicators that block are not simulated");
  Id from;
  std::memcpy(&from, id.internal, sizeof(from));
  *comm = new ncclComm{std::make_shared<State>(), from.creator, true};
  auto& s = *(*comm)->state;
  s.key = from.key;
  s.size = size;
  s.rank = rank;
  s.blocking = false;
  s.result = ncclInProgress;
  make(s, from);
  live()[s.key] = (*comm)->state;
  ++in_progress;
  return ncclInProgress;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* error) {
  progress(comm);
  *error = comm->state->result;
  return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm) {
  auto& s = *comm->state;
  if (depth == 0 && in_progress > 0) return ncclInvalidUsage;
  if (s.in_flight > 0) stop("a communicator is ended with work in flight");
  s.finalized = true;
  s.result = ncclInProgress;
  s.polls = 2;
  ++in_progress;
  return ncclInProgress;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  auto& s = *comm->state;
  if (!s.finalized || s.result == ncclInProgress) stop("a communicator is freed before its end");
  live().erase(s.key);
  while (!s.outbox.empty()) sched_yield();
  delete comm;
  return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t comm) {
  auto& s = *comm->state;
  s.aborted = true;
  if (s.result == ncclInProgress) --in_progress;
  live().erase(s.key);
  graves().push_back(comm->state);
  delete comm;
  return ncclSuccess;
}

ncclResult_t ncclGroupStart() {
  if (in_progress > 0) return ncclInvalidUsage;
  ++depth;
  return ncclSuccess;
}

ncclResult_t ncclGroupEnd() {
  if (--depth > 0) return ncclSuccess;
  auto result = in_progress > 0 ? ncclInProgress : ncclSuccess;
  for (auto& g : std::exchange(grouped, {})) {
    const auto status = put(g.comm, g.stream, messages_work(g.comm->state, std::move(g.messages)));
    if (status != ncclSuccess) result = status;
  }
  return result;
}

ncclResult_t ncclSend(const void* data, std::size_t count, ncclDataType_t type, int peer,
                      ncclComm_t comm, cudaStream_t stream) {
  return message(comm, stream, {true, const_cast<void*>(data), count * size_of(type), peer});
}
ncclResult_t ncclRecv(void* data, std::size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return message(comm, stream, {false, data, count * size_of(type), peer});
}
ncclResult_t ncclAllReduce(const void* send, void* recv, std::size_t count, ncclDataType_t type,
                           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream) {
  return collective(comm, stream, {kAllReduce, type, op, 0, count}, send, recv);
}
ncclResult_t ncclAllGather(const void* send, void* recv, std::size_t count, ncclDataType_t type,
                           ncclComm_t comm, cudaStream_t stream) {
  return collective(comm, stream, {kAllGather, type, 0, 0, count}, send, recv);
}
ncclResult_t ncclReduceScatter(const void* send, void* recv, std::size_t count, ncclDataType_t type,
                               ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream) {
  return collective(comm, stream, {kReduceScatter, type, op, 0, count}, send, recv);
}
ncclResult_t ncclBroadcast(const void* send, void* recv, std::size_t count, ncclDataType_t type,
                           int root, ncclComm_t comm, cudaStream_t stream) {
  return collective(comm, stream, {kBroadcast, type, 0, root, count}, send, recv);
}

// The GPU goes on while the host waits inside MPI: the calls of the program that do.
int MPI_Wait(MPI_Request* request, MPI_Status* status) {
  for (;;) {
    int done = 0;
    const int code = PMPI_Test(request, &done, status);
    if (code != MPI_SUCCESS || done != 0) return code;
    run_some();
    sched_yield();
  }
}
int MPI_Barrier(MPI_Comm comm) {
  MPI_Request request = MPI_REQUEST_NULL;
  const int code = PMPI_Ibarrier(comm, &request);
  return code == MPI_SUCCESS ? MPI_Wait(&request, MPI_STATUS_IGNORE) : code;
}
int MPI_Allreduce(const void* send, void* recv, int count, MPI_Datatype type, MPI_Op op,
                  MPI_Comm comm) {
  MPI_Request request = MPI_REQUEST_NULL;
  const int code = PMPI_Iallreduce(send, recv, count, type, op, comm, &request);
  return code == MPI_SUCCESS ? MPI_Wait(&request, MPI_STATUS_IGNORE) : code;
}

}  // extern "C"

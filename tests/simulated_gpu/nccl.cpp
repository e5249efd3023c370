#include "tests/simulated_gpu/nccl.h"

#include <cuda_runtime.h>
#include <mpi.h>
#include <sched.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "comm/dtype.h"
#include "tests/simulated_gpu/streams.h"

namespace pg::simulated {

namespace {

[[noreturn]] void stop(const std::string& what) {
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  std::fprintf(stderr, "simulated NCCL: rank %d: %s\n", rank, what.c_str());
  std::fflush(stderr);
  MPI_Abort(MPI_COMM_WORLD, 70);
  std::abort();
}

int world_rank() {
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  return rank;
}

// Above the tags of the program's groups. One for each communicator and channel.
enum Channel { kMaking, kCollective, kMessage };
int tag_of(std::uint64_t key, Channel channel) {
  return (1 << 20) + static_cast<int>(key % (1 << 20)) * 4 + channel;
}

// Messages are vectors of bytes. They are sent synchronously: a send ends when it is received.
class Outbox {
 public:
  void send(std::vector<char> bytes, int to, int tag) {
    auto& [kept, request] = letters_.emplace_back(std::move(bytes), MPI_REQUEST_NULL);
    MPI_Issend(kept.data(), static_cast<int>(kept.size()), MPI_BYTE, to, tag, MPI_COMM_WORLD,
               &request);
  }
  bool empty() {
    bool all = true;
    for (auto& [bytes, request] : letters_) {
      int done = 0;
      MPI_Test(&request, &done, MPI_STATUS_IGNORE);
      all = all && done != 0;
    }
    return all;
  }

 private:
  std::list<std::pair<std::vector<char>, MPI_Request>> letters_;
};

bool receive(int from, int tag, std::vector<char>& bytes) {
  int there = 0, size = 0;
  MPI_Message message;
  MPI_Status status;
  MPI_Improbe(from, tag, MPI_COMM_WORLD, &there, &message, &status);
  if (there == 0) return false;
  MPI_Get_count(&status, MPI_BYTE, &size);
  bytes.resize(static_cast<std::size_t>(size));
  MPI_Mrecv(bytes.data(), size, MPI_BYTE, &message, MPI_STATUS_IGNORE);
  return true;
}

struct Member {
  int rank, world;
  char gpu[16];
};

struct Id {
  std::uint64_t key;
  int creator;  // its world rank; the communicator's rank 0
};

struct State {
  std::uint64_t key = 0;
  int size = 0, rank = 0;
  std::vector<Member> members;
  bool blocking = true, connected = false, aborted = false, finalized = false;
  ncclResult_t result = ncclSuccess;           // the asynchronous one
  int polls = 0;                               // until what is in progress is done
  std::vector<std::function<void()>> waiting;  // operations that come onto their streams then
  cudaStream_t stream = nullptr;
  int in_flight = 0;
  std::uint64_t collectives = 0;  // issued
  Outbox outbox;
  std::size_t joined = 0;

  int world_of(int member) const { return members[static_cast<std::size_t>(member)].world; }
};
using Handle = std::shared_ptr<State>;

std::map<std::uint64_t, Handle>& live() {
  static std::map<std::uint64_t, Handle> all;
  return all;
}

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

std::size_t size_of(ncclDataType_t type) {
  switch (type) {
    case ncclFloat64:
    case ncclInt64:
      return 8;
    case ncclFloat32:
    case ncclInt32:
      return 4;
    case ncclBfloat16:
      return 2;
    case ncclUint8:
      return 1;
    default:
      stop("a type that is not simulated");
  }
}

template <class T, class Compute = T>
void combine(void* into, const void* from, std::size_t count, ncclRedOp_t op) {
  auto* a = static_cast<T*>(into);
  const auto* b = static_cast<const T*>(from);
  for (std::size_t i = 0; i < count; ++i) {
    const auto x = static_cast<Compute>(a[i]), y = static_cast<Compute>(b[i]);
    a[i] = static_cast<T>(static_cast<Compute>(op == ncclSum   ? x + y
                                               : op == ncclMax ? std::max(x, y)
                                                               : std::min(x, y)));
  }
}

void combine(void* into, const void* from, std::size_t count, ncclDataType_t type, ncclRedOp_t op) {
  switch (type) {
    case ncclFloat64:
      return combine<double>(into, from, count, op);
    case ncclFloat32:
      return combine<float>(into, from, count, op);
    case ncclBfloat16:
      return combine<bf16, float>(into, from, count, op);
    case ncclInt32:
      return combine<std::int32_t>(into, from, count, op);
    case ncclInt64:
      return combine<std::int64_t>(into, from, count, op);
    default:
      return combine<std::uint8_t>(into, from, count, op);
  }
}

// What all ranks of a collective must agree on.
struct Header {
  int operation, type, reduction, root;
  std::uint64_t count, number;
  std::uint64_t others;  // how many of the following
};
struct Issued {
  std::uint64_t communicator, collectives;
};
enum Collective { kAllReduce, kAllGather, kReduceScatter, kBroadcast };
constexpr const char* kNames[] = {"all_reduce", "all_gather", "reduce_scatter", "broadcast"};

std::string text(const Header& h) {
  return std::string(kNames[h.operation]) + " number " + std::to_string(h.number) + " of " +
         std::to_string(h.count) + " elements of type " + std::to_string(h.type) + ", reduction " +
         std::to_string(h.reduction) + ", root " + std::to_string(h.root);
}

class CollectiveWork {
 public:
  CollectiveWork(Handle state, const Header& header, const void* send, void* recv)
      : state_(std::move(state)), header_(header), send_(send), recv_(recv) {
    for (const auto& [key, other] : live()) issued_.push_back({key, other->collectives});
    header_.others = issued_.size();
    header_.number = state_->collectives++;
  }

  bool operator()() {
    if (state_->aborted) return true;
    if (!parts_) start();
    if (state_->result != ncclSuccess) return false;  // broken: for ever
    const int size = state_->size;
    for (int r = 0; r < size; ++r) {
      auto& part = (*parts_)[static_cast<std::size_t>(r)];
      std::vector<char> bytes;
      if (part || r == state_->rank) continue;
      if (!receive(state_->world_of(r), tag_of(state_->key, kCollective), bytes)) continue;
      part = std::make_shared<std::vector<char>>(opened(bytes, r));
    }
    for (int r = 0; r < size; ++r) {
      if (!(*parts_)[static_cast<std::size_t>(r)]) return false;
    }
    if (!finished_) finish();
    finished_ = true;
    return state_->outbox.empty();
  }

 private:
  std::size_t bytes() const {
    return header_.count * size_of(static_cast<ncclDataType_t>(header_.type));
  }
  // Of what this rank gives: the part for rank r, or all of it.
  std::vector<char> given(int r) const {
    const auto* from = static_cast<const char*>(send_);
    if (header_.operation == kReduceScatter) from += static_cast<std::size_t>(r) * bytes();
    if (header_.operation == kBroadcast && state_->rank != header_.root) return {};
    return {from, from + bytes()};
  }

  void start() {
    parts_ = std::make_shared<std::vector<std::shared_ptr<std::vector<char>>>>(
        static_cast<std::size_t>(state_->size));
    for (int r = 0; r < state_->size; ++r) {
      const auto part = given(r);
      if (r == state_->rank) {
        (*parts_)[static_cast<std::size_t>(r)] = std::make_shared<std::vector<char>>(part);
        continue;
      }
      std::vector<char> bytes(sizeof(Header) + issued_.size() * sizeof(Issued));
      std::memcpy(bytes.data(), &header_, sizeof(Header));
      std::memcpy(bytes.data() + sizeof(Header), issued_.data(), issued_.size() * sizeof(Issued));
      bytes.insert(bytes.end(), part.begin(), part.end());
      state_->outbox.send(std::move(bytes), state_->world_of(r), tag_of(state_->key, kCollective));
    }
  }

  std::vector<char> opened(const std::vector<char>& bytes, int from) const {
    Header theirs;
    std::memcpy(&theirs, bytes.data(), sizeof(Header));
    Header mine = header_;
    mine.others = theirs.others;
    if (std::memcmp(&mine, &theirs, sizeof(Header)) != 0) {
      stop(text(header_) + ", but rank " + std::to_string(from) + " of the communicator calls " +
           text(theirs));
    }
    std::vector<Issued> issued(theirs.others);
    std::memcpy(issued.data(), bytes.data() + sizeof(Header), issued.size() * sizeof(Issued));
    for (const auto& [communicator, collectives] : issued) {
      for (const auto& own : issued_) {
        if (own.communicator == communicator && own.collectives != collectives) {
          stop("collectives of two communicators come in different orders: " + text(header_) +
               " after " + std::to_string(own.collectives) + " of another, on rank " +
               std::to_string(from) + " after " + std::to_string(collectives));
        }
      }
    }
    return {bytes.begin() +
                static_cast<std::ptrdiff_t>(sizeof(Header) + issued.size() * sizeof(Issued)),
            bytes.end()};
  }

  // Sums begin with rank 1: an order that is the same everywhere, but not MPI's.
  void finish() {
    auto* to = static_cast<char*>(recv_);
    const auto part = [&](int r) { return (*parts_)[static_cast<std::size_t>(r)]->data(); };
    const int size = state_->size;
    if (header_.operation == kAllGather) {
      for (int r = 0; r < size; ++r) {
        std::memcpy(to + static_cast<std::size_t>(r) * bytes(), part(r), bytes());
      }
      return;
    }
    if (header_.operation == kBroadcast) {
      std::memcpy(to, part(header_.root), bytes());
      return;
    }
    std::memcpy(to, part(1 % size), bytes());
    for (int step = 1; step < size; ++step) {
      combine(to, part((1 + step) % size), header_.count, static_cast<ncclDataType_t>(header_.type),
              static_cast<ncclRedOp_t>(header_.reduction));
    }
  }

  Handle state_;
  Header header_;
  const void* send_;
  void* recv_;
  std::vector<Issued> issued_;
  std::shared_ptr<std::vector<std::shared_ptr<std::vector<char>>>> parts_;
  bool finished_ = false;
};

struct Message {
  bool sends;
  void* data;
  std::size_t bytes;
  int peer;
  bool done = false;
};

// The sends and receives of one group of calls: they begin together and end together.
class MessagesWork {
 public:
  MessagesWork(Handle state, std::vector<Message> messages)
      : state_(std::move(state)), messages_(std::move(messages)) {}

  bool operator()() {
    if (state_->aborted) return true;
    const int tag = tag_of(state_->key, kMessage);
    if (!begun_) {
      for (auto& m : messages_) {
        if (!m.sends) continue;
        const auto* from = static_cast<const char*>(m.data);
        state_->outbox.send({from, from + m.bytes}, state_->world_of(m.peer), tag);
        m.done = true;
      }
      begun_ = true;
    }
    if (state_->result != ncclSuccess) return false;
    bool all = true;
    std::vector<char> bytes;
    for (auto& m : messages_) {
      if (m.done) continue;
      m.done = receive(state_->world_of(m.peer), tag, bytes);
      all = all && m.done;
      if (!m.done) continue;
      if (bytes.size() != m.bytes) {
        stop("a message of " + std::to_string(bytes.size()) + " bytes came from rank " +
             std::to_string(m.peer) + " where " + std::to_string(m.bytes) + " were expected");
      }
      std::memcpy(m.data, bytes.data(), bytes.size());
    }
    return all && state_->outbox.empty();
  }

 private:
  Handle state_;
  std::vector<Message> messages_;
  bool begun_ = false;
};

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

template <class Work>
ncclResult_t put(ncclComm_t comm, cudaStream_t stream, Work work) {
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
  return put(comm, stream, CollectiveWork(comm->state, header, send, recv));
}

ncclResult_t message(ncclComm_t comm, cudaStream_t stream, const Message& m) {
  if (m.peer < 0 || m.peer >= comm->state->size) return ncclInvalidArgument;
  if (depth == 0) {
    if (in_progress > 0) return ncclInvalidUsage;
    return put(comm, stream, MessagesWork(comm->state, {m}));
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
    const auto status = put(g.comm, g.stream, MessagesWork(g.comm->state, std::move(g.messages)));
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
  return collective(comm, stream, {kAllReduce, type, op, 0, count, 0, 0}, send, recv);
}
ncclResult_t ncclAllGather(const void* send, void* recv, std::size_t count, ncclDataType_t type,
                           ncclComm_t comm, cudaStream_t stream) {
  return collective(comm, stream, {kAllGather, type, 0, 0, count, 0, 0}, send, recv);
}
ncclResult_t ncclReduceScatter(const void* send, void* recv, std::size_t count, ncclDataType_t type,
                               ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream) {
  return collective(comm, stream, {kReduceScatter, type, op, 0, count, 0, 0}, send, recv);
}
ncclResult_t ncclBroadcast(const void* send, void* recv, std::size_t count, ncclDataType_t type,
                           int root, ncclComm_t comm, cudaStream_t stream) {
  return collective(comm, stream, {kBroadcast, type, 0, root, count, 0, 0}, send, recv);
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

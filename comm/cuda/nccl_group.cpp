// Group over NCCL: one communicator for collectives, and one for each direction of messages between
// neighbours (comm/gpu_groups.h says why).
#include <cstring>
#include <exception>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "comm/cuda/gpu_events.h"
#include "comm/cuda/gpu_group.h"
#include "comm/cuda/nccl_communicator.h"
#include "comm/gpu_groups.h"
#include "comm/group_checks.h"

namespace pg::comm {

namespace {

// A lane has two ranks.
constexpr int kSender = 0, kReceiver = 1;
// Of the ids of lanes, while a group is made: to the next rank, and to the previous one.
constexpr int kForwardTag = 0, kBackwardTag = 1;

ncclDataType_t datatype(DType type) {
  switch (type) {
    case DType::kF64:
      return ncclFloat64;
    case DType::kF32:
      return ncclFloat32;
    case DType::kBF16:
      return ncclBfloat16;
    case DType::kI32:
      return ncclInt32;
    case DType::kI64:
      return ncclInt64;
    case DType::kU8:
      return ncclUint8;
  }
  throw fail(ExitCode::kBug, "bug: no NCCL type for dtype {}", static_cast<int>(type));
}

ncclRedOp_t reduction(ReduceOp op) {
  return op == ReduceOp::kSum ? ncclSum : op == ReduceOp::kMax ? ncclMax : ncclMin;
}

struct GpuBytes {
  void* data;
  explicit GpuBytes(std::size_t bytes) : data(gpu_allocate(bytes)) {}
  GpuBytes(const GpuBytes&) = delete;
  GpuBytes& operator=(const GpuBytes&) = delete;
  ~GpuBytes() { gpu_free(data); }
};

class NcclGroup final : public GpuGroup {
 public:
  NcclGroup(std::unique_ptr<Group> mpi, const Gpu& gpu, const NcclOptions& options)
      : GpuGroup(std::move(mpi), gpu), exceptions_(std::uncaught_exceptions()) {
    auto id = rank() == 0 ? NcclCommunicator::make_id() : ncclUniqueId{};
    host().broadcast(bytes_of(id), 0).wait();
    all_ = std::make_unique<NcclCommunicator>(std::string(name()), size(), rank(), id,
                                              options.blocks.collective);
    NcclCommunicator::make(std::vector{all_.get()});
    if (options.messages && size() > 1) make_lanes(options.blocks.lane);
  }

  // In order when nothing is wrong: a Pending that was waited for has ordered streams only, so the
  // host waits here. On the way out of a failure peers may never come: then communicators abort.
  ~NcclGroup() override {
    if (std::uncaught_exceptions() > exceptions_) return;
    try {
      for (auto* const c : communicators()) c->wait_until_idle();
      NcclCommunicator::end(communicators());
    } catch (const Error&) {
      // The next call on another group, or wait for the GPU, says it again: all have aborted.
    }
  }

 private:
  Pending sum_all(BufferView inout, ReduceOp op) override {
    return issue(*all_, "all_reduce", [&](auto comm, auto stream) {
      return ncclAllReduce(inout.data, inout.data, inout.count, datatype(inout.dtype),
                           reduction(op), comm, stream);
    });
  }

  Pending gather(BufferView send, BufferView recv) override {
    return issue(*all_, "all_gather", [&](auto comm, auto stream) {
      return ncclAllGather(send.data, recv.data, send.count, datatype(send.dtype), comm, stream);
    });
  }

  Pending scatter(BufferView send, BufferView recv, ReduceOp op) override {
    return issue(*all_, "reduce_scatter", [&](auto comm, auto stream) {
      return ncclReduceScatter(send.data, recv.data, recv.count, datatype(send.dtype),
                               reduction(op), comm, stream);
    });
  }

  // Both sides know which parts are empty: no message.
  Pending exchange(BufferView send, std::span<const std::size_t> send_counts, BufferView recv,
                   std::span<const std::size_t> recv_counts) override {
    if (send.count == 0 && recv.count == 0) return {};
    return issue(*all_, "all_to_all", [&](auto comm, auto stream) {
      const auto type = datatype(send.dtype);
      const auto element = dtype_size(send.dtype);
      auto* from = static_cast<char*>(send.data);
      auto* to = static_cast<char*>(recv.data);
      auto status = ncclGroupStart();
      for (int r = 0; r < size(); ++r) {
        const auto leaving = send_counts[static_cast<std::size_t>(r)];
        const auto coming = recv_counts[static_cast<std::size_t>(r)];
        if (r == rank()) {
          if (leaving > 0) gpu_copy_on(stream, to, from, leaving * element);
        } else {
          if (leaving > 0) keep(status, ncclSend(from, leaving, type, r, comm, stream));
          if (coming > 0) keep(status, ncclRecv(to, coming, type, r, comm, stream));
        }
        from += leaving * element;
        to += coming * element;
      }
      keep(status, ncclGroupEnd());
      return status;
    });
  }

  Pending spread(BufferView inout, int root) override {
    return issue(*all_, "broadcast", [&](auto comm, auto stream) {
      return ncclBroadcast(inout.data, inout.data, inout.count, datatype(inout.dtype), root, comm,
                           stream);
    });
  }

  Pending give(BufferView buffer, int to, int /*tag*/) override {
    auto& lane = lane_of(leaving_, to);
    if (buffer.count == 0) return {};
    return issue(lane, "send", [&](auto comm, auto stream) {
      return ncclSend(buffer.data, buffer.count, datatype(buffer.dtype), kReceiver, comm, stream);
    });
  }

  Pending take(BufferView buffer, int from, int /*tag*/) override {
    auto& lane = lane_of(coming_, from);
    if (buffer.count == 0) return {};
    return issue(lane, "recv", [&](auto comm, auto stream) {
      return ncclRecv(buffer.data, buffer.count, datatype(buffer.dtype), kSender, comm, stream);
    });
  }

  // After all that was issued on the compute stream; what is issued there after wait() comes after
  // it.
  Pending issue(NcclCommunicator& communicator, const char* operation,
                const NcclCommunicator::Call& call) {
    wait_on(communicator.stream(), events_->record(compute()));
    communicator.issue(operation, call);
    return Pending([done = events_->record(communicator.stream()), stream = compute()] {
      wait_on(stream, done);
    });
  }

  using Lanes = std::map<int, std::unique_ptr<NcclCommunicator>>;  // by the rank at the other end

  // All of a rank's are made together: one after the other, ranks in a ring would wait for each
  // other. Each is used once, because NCCL connects its ranks at the first use.
  void make_lanes(int blocks) {
    const int next = (rank() + 1) % size(), previous = (rank() + size() - 1) % size();
    std::vector<std::pair<int, ncclUniqueId>>
        sending;  // ids travel until their Pending is waited for
    sending.reserve(2);
    std::vector<Pending> travelling;
    const auto begin = [&](int to, int tag) {
      auto& [peer, id] = sending.emplace_back(to, NcclCommunicator::make_id());
      travelling.push_back(host().send(bytes_of(id), peer, tag));
      leaving_[peer] =
          std::make_unique<NcclCommunicator>(lane_name(rank(), peer), 2, kSender, id, blocks);
    };
    begin(next, kForwardTag);
    if (previous != next) begin(previous, kBackwardTag);
    const auto join = [&](int from, int tag) {
      ncclUniqueId id{};
      host().recv(bytes_of(id), from, tag).wait();
      coming_[from] =
          std::make_unique<NcclCommunicator>(lane_name(from, rank()), 2, kReceiver, id, blocks);
    };
    join(previous, kForwardTag);
    if (previous != next) join(next, kBackwardTag);
    travelling.clear();
    std::vector<NcclCommunicator*> lanes;
    std::vector<NcclCommunicator::Call> first;
    // Before anything is on its way: allocating waits for the GPU.
    const GpuBytes byte(1), sink(1);
    for (auto& [to, lane] : leaving_) {
      lanes.push_back(lane.get());
      first.emplace_back([&](ncclComm_t comm, cudaStream_t stream) {
        return ncclSend(byte.data, 1, ncclUint8, kReceiver, comm, stream);
      });
    }
    for (auto& [from, lane] : coming_) {
      lanes.push_back(lane.get());
      first.emplace_back([&](ncclComm_t comm, cudaStream_t stream) {
        return ncclRecv(sink.data, 1, ncclUint8, kSender, comm, stream);
      });
    }
    NcclCommunicator::make(lanes);
    NcclCommunicator::issue(lanes, "the first message", first);
    for (auto* lane : lanes) lane->wait_until_idle();
  }

  std::string lane_name(int from, int to) const {
    return fmt::format("{} (messages from {} to {})", name(), from, to);
  }

  NcclCommunicator& lane_of(Lanes& lanes, int peer) {
    const auto found = lanes.find(peer);
    PG_ASSERT(found != lanes.end(), "group {}: a GPU's message between ranks {} and {} of {}",
              name(), rank(), peer, size());
    return *found->second;
  }

  std::vector<NcclCommunicator*> communicators() const {
    std::vector<NcclCommunicator*> all;
    if (all_) all.push_back(all_.get());
    for (const auto* lanes : {&leaving_, &coming_}) {
      for (const auto& [peer, lane] : *lanes) all.push_back(lane.get());
    }
    return all;
  }

  // The first one that is not success; inside a group ncclInProgress is none.
  static void keep(ncclResult_t& status, ncclResult_t next) {
    if (status == ncclSuccess || status == ncclInProgress) status = next;
  }

  static BufferView bytes_of(ncclUniqueId& id) { return {&id, sizeof(id), DType::kU8}; }

  int exceptions_;  // in flight when it began
  std::shared_ptr<EventPool> events_ = std::make_shared<EventPool>();
  std::unique_ptr<NcclCommunicator> all_;
  Lanes leaving_, coming_;
};

}  // namespace

std::string nccl_version() {
  int version = 0;
  if (ncclGetVersion(&version) != ncclSuccess) return "?";
  return fmt::format("{}.{}.{}", version / 10000, version % 10000 / 100, version % 100);
}

std::unique_ptr<Group> make_nccl_group(Communicator communicator, std::string name, const Gpu& gpu,
                                       const NcclOptions& options) {
  return std::make_unique<NcclGroup>(make_mpi_group(std::move(communicator), std::move(name)), gpu,
                                     options);
}

}  // namespace pg::comm

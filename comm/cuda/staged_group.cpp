// Group of ranks that share a GPU: buffers on it travel by way of pinned host memory and MPI.
//
// The host is where MPI runs, and MPI must have begun when a call returns: a rank that waits for a
// message must not depend on another's wait. So a call waits until the compute stream has come to
// it, and its bytes are in pinned memory; wait() waits for MPI and issues the copy back.
#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "comm/activity.h"
#include "comm/cuda/gpu_events.h"
#include "comm/cuda/gpu_group.h"
#include "comm/gpu_groups.h"
#include "comm/group_checks.h"

namespace pg::comm {

namespace {

// A piece of pinned memory, in use by one call.
struct Room {
  void* data = nullptr;
  std::size_t bytes = 0;
  GpuEvent read;  // the GPU has copied its contents away

  explicit Room(std::size_t size) : data(pinned_allocate(size)), bytes(size) {}
  Room(const Room&) = delete;
  Room& operator=(const Room&) = delete;
  ~Room() {
    if (read) cudaEventSynchronize(read.get());
    pinned_free(data);
  }

  bool idle() {
    if (read && cudaEventQuery(read.get()) != cudaSuccess) return false;
    read.reset();
    return true;
  }
};

class StagedGroup final : public GpuGroup {
 public:
  StagedGroup(std::unique_ptr<Group> host, const Gpu& gpu) : GpuGroup(std::move(host), gpu) {}

 private:
  using Handle = std::shared_ptr<Room>;

  Pending sum_all(BufferView inout, ReduceOp op) override {
    const auto [room, there] = fetched(inout);
    return brought(host().all_reduce(there, op), room, there, inout);
  }

  Pending gather(BufferView send, BufferView recv) override {
    const auto room = room_for(recv.bytes());
    const auto all = on_host(room, recv);
    const BufferView own{part_of(all, send.count, rank()), send.count, send.dtype};
    fetch(own, send);
    return brought(host().all_gather(own, all), room, all, recv);
  }

  Pending scatter(BufferView send, BufferView recv, ReduceOp op) override {
    const auto [room, all] = fetched(send);
    const BufferView own{part_of(all, recv.count, rank()), recv.count, recv.dtype};
    return brought(host().reduce_scatter(all, own, op), room, own, recv);
  }

  Pending exchange(BufferView send, std::span<const std::size_t> send_counts, BufferView recv,
                   std::span<const std::size_t> recv_counts) override {
    const auto [leaving, out] = fetched(send);
    const auto coming = room_for(recv.bytes());
    const auto in = on_host(coming, recv);
    auto call = host().all_to_all(out, send_counts, in, recv_counts);
    return brought(keeping(std::move(call), leaving), coming, in, recv);
  }

  Pending spread(BufferView inout, int root) override {
    const auto room = room_for(inout.bytes());
    const auto there = on_host(room, inout);
    if (rank() != root) return brought(host().broadcast(there, root), room, there, inout);
    fetch(there, inout);
    return keeping(host().broadcast(there, root), room);
  }

  Pending give(BufferView buffer, int to, int tag) override {
    const auto [room, there] = fetched(buffer);
    return keeping(host().send(there, to, tag), room);
  }

  Pending take(BufferView buffer, int from, int tag) override {
    const auto room = room_for(buffer.bytes());
    const auto there = on_host(room, buffer);
    return brought(host().recv(there, from, tag), room, there, buffer);
  }

  // After all that was issued; there on return.
  void fetch(BufferView host_side, BufferView gpu_side) {
    if (gpu_side.count == 0) return;
    gpu_copy_on(compute(), host_side.data, gpu_side.data, gpu_side.bytes());
    const auto there = events_->record(compute());
    const Waiting waiting("the GPU");
    PG_CUDA(cudaEventSynchronize(there.get()));
  }

  std::pair<Handle, BufferView> fetched(BufferView buffer) {
    auto room = room_for(buffer.bytes());
    const auto there = on_host(room, buffer);
    fetch(there, buffer);
    return {std::move(room), there};
  }

  // When `call` is done, `from` (in `room`) is copied to the GPU before all that is issued then.
  Pending brought(Pending call, Handle room, BufferView from, BufferView to) const {
    return Pending([call = std::make_shared<Pending>(std::move(call)), room = std::move(room), from,
                    to, stream = compute(), events = events_] {
      call->wait();
      if (to.count == 0) return;
      gpu_copy_on(stream, to.data, from.data, to.bytes());
      room->read = events->record(stream);
    });
  }

  static Pending keeping(Pending call, Handle room) {
    return Pending([call = std::make_shared<Pending>(std::move(call)), room = std::move(room)] {
      call->wait();
    });
  }

  static BufferView on_host(const Handle& room, const BufferView& buffer) {
    return {room->data, buffer.count, buffer.dtype, Device::kCpu};
  }

  // The smallest idle one that is large enough; pinning memory takes longer than a copy.
  Handle room_for(std::size_t bytes) {
    Handle best;
    for (const auto& room : rooms_) {
      if (room.use_count() > 1 || room->bytes < bytes || !room->idle()) continue;
      if (!best || room->bytes < best->bytes) best = room;
    }
    if (best) return best;
    // What is too small would stay unused: its place is taken.
    std::erase_if(rooms_, [](const Handle& room) { return room.use_count() == 1 && room->idle(); });
    return rooms_.emplace_back(std::make_shared<Room>(std::max<std::size_t>(bytes, 4096)));
  }

  std::shared_ptr<EventPool> events_ = std::make_shared<EventPool>();
  std::vector<Handle> rooms_;
};

}  // namespace

std::unique_ptr<Group> make_staged_group(Communicator communicator, std::string name,
                                         const Gpu& gpu) {
  return std::make_unique<StagedGroup>(make_mpi_group(std::move(communicator), std::move(name)),
                                       gpu);
}

}  // namespace pg::comm

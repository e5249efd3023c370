// A set of ranks that communicate together: the interface that layers, the optimizer and the
// trainer use, whatever carries the bytes (MPI on the CPU, NCCL on a GPU, nothing for one rank).
//
// Every call returns at once with a Pending; buffers belong to the call until `wait()` returned.
// Calls on one group are issued in the same order on all its ranks, with the same counts. A failed
// call throws Error(kComm) naming group, operation, rank and host; a wrong one (a rank, count, type
// or overlap that cannot be) is a bug. A group must die before MPI_Finalize.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "comm/dtype.h"

namespace pg::comm {

class Gpu;

enum class ReduceOp { kSum, kMax, kMin };

// `count` elements of `dtype`, not owned.
struct BufferView {
  void* data = nullptr;
  std::size_t count = 0;
  DType dtype = DType::kF32;
  Device device = Device::kCpu;

  std::size_t bytes() const { return count * dtype_size(dtype); }
};

// A call that may still be running; it may outlive its group. Waits in its destructor, so that a
// buffer is never freed under it, even while an exception unwinds (a peer that never comes is the
// watchdog's case). A failure that shows only there ends the job: nobody would ever hear of it.
class Pending {
 public:
  Pending() = default;  // complete already
  explicit Pending(std::function<void()> wait) : wait_(std::move(wait)) {}
  Pending(Pending&& other) noexcept : wait_(std::exchange(other.wait_, nullptr)) {}
  Pending& operator=(Pending&& other) {
    wait();
    wait_ = std::exchange(other.wait_, nullptr);
    return *this;
  }
  ~Pending();

  void wait();

 private:
  std::function<void()> wait_;
};

// The tags of messages are 0..kLastTag: every MPI has tags to 32767, the last of which is kept for
// the exchanges inside a collective.
inline constexpr int kLastTag = 32766;

class Group {
 public:
  virtual ~Group() = default;

  virtual std::string_view name() const = 0;
  virtual int size() const = 0;
  virtual int rank() const = 0;

  // In place over all ranks; every rank gets the same bits, and the same again on every repeat.
  // bf16 is summed in fp32 and rounded at most once per addition. The maximum or minimum with a NaN
  // anywhere is NaN (in the floating types; a bug on a GPU, where NCCL would lose it).
  virtual Pending all_reduce(BufferView inout, ReduceOp op) = 0;
  // recv.count == send.count * size(), in rank order. In place when send is this rank's own part of
  // recv; no other overlap.
  virtual Pending all_gather(BufferView send, BufferView recv) = 0;
  // send.count == recv.count * size(); rank r gets the reduced r-th part. In place when recv is
  // this rank's own part of send (the other parts stay as they were); no other overlap. MPI's are
  // added up in rank order, at the wait, which needs room for the parts of the other ranks,
  // (size() - 1) * recv.bytes(), which the group keeps for its next one. NCCL's order is its own.
  virtual Pending reduce_scatter(BufferView send, BufferView recv, ReduceOp op) = 0;
  // Rank r gets the r-th part of `send` and sends the parts of `recv`, both in rank order without
  // gaps: send_counts[r] elements to rank r, recv_counts[r] from it (size() entries each). What one
  // rank sends to another is what that one receives: no rank can check this alone, and the messages
  // of later calls are in the wrong places where it is broken. Counts may be zero, and send
  // nothing. No overlap. The spans are read before the call returns.
  virtual Pending all_to_all(BufferView send, std::span<const std::size_t> send_counts,
                             BufferView recv, std::span<const std::size_t> recv_counts) = 0;
  virtual Pending broadcast(BufferView inout, int root) = 0;
  // Neither waits for the other side; any number may be in flight.
  // Messages between two ranks with one tag (0..kLastTag) arrive in the order they were sent, and
  // have the receiver's count. No elements is a message too. On a GPU those of different tags must
  // be received in the order they were sent too, since NCCL has no tags, and they travel between
  // neighbours only (ranks r and r + 1 modulo size(), both ways).
  virtual Pending send(BufferView buffer, int to, int tag) = 0;
  virtual Pending recv(BufferView buffer, int from, int tag) = 0;
  virtual void barrier() = 0;
};

// A group of one rank: everything is a copy or nothing, and complete on return; of buffers on the
// GPU (null: it takes none) a copy on its compute stream. send and recv are bugs there.
std::unique_ptr<Group> make_self_group(std::string name, const Gpu* gpu = nullptr);

// Of equal parts: send.count == recv.count, a multiple of size().
Pending all_to_all(Group& group, BufferView send, BufferView recv);

// Host-side conveniences, complete on return.
double all_reduce(Group& group, double value, ReduceOp op);
std::int64_t all_reduce(Group& group, std::int64_t value, ReduceOp op);
std::string broadcast(Group& group, std::string text, int root);
// One string from each rank, in rank order, on every rank.
std::vector<std::string> all_gather(Group& group, const std::string& text);

}  // namespace pg::comm

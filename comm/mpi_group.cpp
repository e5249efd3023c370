// Group over MPI: non-blocking calls on host buffers.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "comm/activity.h"
#include "comm/error.h"
#include "comm/group_checks.h"
#include "comm/mpi_internal.h"
#include "comm/staging.h"

namespace pg::comm {

namespace {

using mpi::check;

// One call after another on a group meets in that order, so one tag serves all exchanges.
constexpr int kExchangeTag = kLastTag + 1;

char* at(const BufferView& buffer, std::size_t element) {
  return static_cast<char*>(buffer.data) + element * dtype_size(buffer.dtype);
}

template <class Start>  // start(first element, elements)
void for_pieces(std::size_t count, std::size_t longest, Start start) {
  for (std::size_t done = 0; done < count; done += longest) {
    start(done, static_cast<int>(std::min(longest, count - done)));
  }
}

// What a call in flight needs, shared with its Pending, which may outlive the group.
struct Core {
  Communicator communicator;
  MPI_Comm comm;
  std::string name;
  mpi::Reductions reductions;
  GroupActivity activity;

  Core(Communicator c, std::string n)
      : communicator(std::move(c)),
        comm(mpi::handle(communicator)),
        name(std::move(n)),
        activity(name, communicator.world_ranks()) {}
};

// `count` elements in a row, in a buffer whose next row begins `stride` elements later.
class RowType {
 public:
  RowType(MPI_Datatype element, std::size_t size, int count, std::size_t stride) {
    MPI_Datatype row = MPI_DATATYPE_NULL;
    check(MPI_Type_contiguous(count, element, &row), "", "MPI_Type_contiguous");
    const int code = MPI_Type_create_resized(row, 0, static_cast<MPI_Aint>(stride * size), &type_);
    MPI_Type_free(&row);
    check(code, "", "MPI_Type_create_resized");
    check(MPI_Type_commit(&type_), "", "MPI_Type_commit");
  }
  ~RowType() {
    if (type_ != MPI_DATATYPE_NULL) MPI_Type_free(&type_);
  }
  RowType(const RowType&) = delete;
  RowType& operator=(const RowType&) = delete;
  MPI_Datatype get() const { return type_; }

 private:
  MPI_Datatype type_ = MPI_DATATYPE_NULL;
};

// One call, which may be several MPI requests: an MPI count is an int.
struct Call {
  std::shared_ptr<const Core> core;
  const char* operation;
  std::vector<MPI_Request> requests;
  std::vector<int> receives;  // elements the first requests must bring; the others bring none
  MPI_Datatype element = MPI_DATATYPE_NULL;
  std::vector<std::shared_ptr<RowType>> rows;  // in use until the requests are complete
  std::uint64_t number = 0;                    // of the group's collectives; 0: a message
  int peer = -1;                               // of a message: that rank in the job

  MPI_Request* add() { return &requests.emplace_back(MPI_REQUEST_NULL); }
  void checked(int code) const { check(code, core->name, operation); }
  Waiting wait() const { return {core->activity, operation, number, peer}; }

  // One by one: Open MPI 4.1's MPI_Waitall spins for ever on a request that failed before it came.
  void complete() {
    const auto waiting = wait();
    for (std::size_t i = 0; i < requests.size(); ++i) {
      MPI_Status status;
      checked(MPI_Wait(&requests[i], &status));
      if (i >= receives.size()) continue;
      // MPI takes a message shorter than its buffer for granted; here it would leave old values.
      int count = 0;
      checked(MPI_Get_count(&status, element, &count));
      PG_ASSERT(count == receives[i], "{} on group {}: {} of {} elements came from rank {}",
                operation, core->name, count, receives[i], status.MPI_SOURCE);
    }
  }
};

// The end of a reduce_scatter: this rank's part of all ranks, added up in rank order.
struct PartSum {
  std::shared_ptr<const Core> core;
  int size, rank;
  std::size_t longest;
  MPI_Op op;
  BufferView recv, own{};               // `own` may be `recv`
  std::shared_ptr<char[]> theirs = {};  // the parts of the other ranks, in rank order

  // Where the part of rank `other` belongs.
  BufferView from(int other) const {
    const auto slot = static_cast<std::size_t>(other < rank ? other : other - 1);
    return {theirs.get() + slot * recv.bytes(), recv.count, recv.dtype};
  }

  void run() const {
    const BufferView sum = rank == 0 ? recv : from(0);
    if (rank == 0) copy(own, sum);
    for (int r = 1; r < size; ++r) {
      const BufferView next = r == rank ? own : from(r);
      for_pieces(sum.count, longest, [&](std::size_t done, int count) {
        check(MPI_Reduce_local(at(next, done), at(sum, done), count, mpi::datatype(sum.dtype), op),
              core->name, "reduce_scatter");
      });
    }
    copy(sum, recv);
  }

  static void copy(const BufferView& source, const BufferView& target) {
    if (source.data != target.data) std::memcpy(target.data, source.data, target.bytes());
  }
};

class MpiGroup final : public Group {
 public:
  MpiGroup(Communicator communicator, std::string name, std::size_t longest)
      : core_(std::make_shared<const Core>(std::move(communicator), std::move(name))),
        size_(core_->communicator.size()),
        rank_(core_->communicator.rank()),
        longest_(longest) {
    PG_ASSERT(longest_ >= 1 && longest_ <= kLongestMessage, "{}", longest_);
  }

  std::string_view name() const override { return core_->name; }
  int size() const override { return size_; }
  int rank() const override { return rank_; }

  Pending all_reduce(BufferView inout, ReduceOp op) override {
    require_host(*this, inout);
    if (size_ == 1) return {};
    // Complete on return: nothing drives a non-blocking one while we compute on the CPU (there is
    // no progress thread), and Open MPI's takes longer (64 MiB on 2 ranks: 0.5 s against 0.3 s).
    const std::size_t done = all_reduce_blocks(inout, op);
    const BufferView rest{at(inout, done), inout.count - done, inout.dtype};
    const Call call = begin("all_reduce", inout.dtype);
    const auto reduction = core_->reductions.op(inout.dtype, op);
    const auto waiting = call.wait();
    for_pieces(rest.count, [&](std::size_t begun, int count) {
      call.checked(MPI_Allreduce(MPI_IN_PLACE, at(rest, begun), count, call.element, reduction,
                                 core_->comm));
    });
    return {};
  }

  Pending all_gather(BufferView send, BufferView recv) override {
    require_host(*this, send);
    require_all_gather(*this, send, recv);
    Call call = begin("all_gather", send.dtype);
    const bool in_place = gathers_in_place(*this, send, recv);
    for_pieces(send.count, [&](std::size_t done, int count) {
      // Piece `done` of each rank goes to the same place in that rank's part.
      const auto& row = call.rows.emplace_back(
          std::make_shared<RowType>(call.element, dtype_size(send.dtype), count, send.count));
      const void* from = in_place ? MPI_IN_PLACE : at(send, done);
      call.checked(MPI_Iallgather(from, count, call.element, at(recv, done), 1, row->get(),
                                  core_->comm, call.add()));
    });
    return pending(std::move(call));
  }

  // Pairwise exchange: each part goes straight to the rank that keeps it, so that every rank sends
  // the parts of the others once, which is the least there is. (On Open MPI 4.1, MPI_Ireduce to
  // each root sends up to 1.6 times as much and takes two to three times as long;
  // MPI_Reduce_scatter_block sends up to 1.5 times as much.)
  Pending reduce_scatter(BufferView send, BufferView recv, ReduceOp op) override {
    require_host(*this, send);
    require_reduce_scatter(*this, send, recv, op);
    if (recv.count == 0) return {};
    Call call = begin("reduce_scatter", send.dtype);
    PartSum sum{core_, size_, rank_, longest_, core_->reductions.op(send.dtype, op), recv};
    sum.own = part(send, recv.count, rank_);
    sum.theirs = room_for(static_cast<std::size_t>(
        reduce_scatter_room(size_, static_cast<std::int64_t>(recv.bytes()))));
    for (int step = 1; step < size_; ++step) {
      const int from = (rank_ + size_ - step) % size_;
      start_recv(call, sum.from(from), from, kExchangeTag);
    }
    // The next rank first, so that no rank is the first target of all.
    for (int step = 1; step < size_; ++step) {
      const int to = (rank_ + step) % size_;
      start_send(call, part(send, recv.count, to), to, kExchangeTag);
    }
    return Pending([call = std::move(call), sum = std::move(sum)]() mutable {
      call.complete();
      sum.run();
    });
  }

  // Pairwise exchange, as in reduce_scatter. Both sides know which parts are empty: no message.
  Pending all_to_all(BufferView send, std::span<const std::size_t> send_counts, BufferView recv,
                     std::span<const std::size_t> recv_counts) override {
    require_host(*this, send);
    require_all_to_all(*this, send, send_counts, recv, recv_counts);
    const auto out = parts(send, send_counts), in = parts(recv, recv_counts);
    const auto shifted = [&](int step) { return (rank_ + size_ + step) % size_; };
    Call call = begin("all_to_all", send.dtype);
    for (int step = 1; step < size_; ++step) {
      const int from = shifted(-step);
      const auto& part = in[static_cast<std::size_t>(from)];
      if (part.count > 0) start_recv(call, part, from, kExchangeTag);
    }
    for (int step = 1; step < size_; ++step) {
      const int to = shifted(step);
      const auto& part = out[static_cast<std::size_t>(to)];
      if (part.count > 0) start_send(call, part, to, kExchangeTag);
    }
    const auto own = static_cast<std::size_t>(rank_);
    if (out[own].count > 0) std::memcpy(in[own].data, out[own].data, out[own].bytes());
    return pending(std::move(call));
  }

  Pending broadcast(BufferView inout, int root) override {
    require_host(*this, inout);
    require_rank(*this, root);
    if (size_ == 1) return {};
    Call call = begin("broadcast", inout.dtype);
    for_pieces(inout.count, [&](std::size_t done, int count) {
      call.checked(MPI_Ibcast(at(inout, done), count, call.element, root, core_->comm, call.add()));
    });
    return pending(std::move(call));
  }

  Pending send(BufferView buffer, int to, int tag) override {
    require_message(buffer, to, tag);
    Call call = begin_message("send", buffer.dtype, to);
    start_send(call, buffer, to, tag);
    return pending(std::move(call));
  }

  Pending recv(BufferView buffer, int from, int tag) override {
    require_message(buffer, from, tag);
    Call call = begin_message("recv", buffer.dtype, from);
    start_recv(call, buffer, from, tag);
    return pending(std::move(call));
  }

  void barrier() override {
    const Waiting waiting(core_->activity, "barrier", core_->activity.issue());
    check(MPI_Barrier(core_->comm), core_->name, "barrier");
  }

 private:
  // Negative ranks are MPI's wildcard and its null process: never meant here.
  void require_message(const BufferView& buffer, int peer, int tag) const {
    require_host(*this, buffer);
    require_rank(*this, peer);
    require_tag(*this, tag);
  }

  Call start(const char* operation, DType type) const {
    Call call;
    call.core = core_;
    call.operation = operation;
    call.element = mpi::datatype(type);
    return call;
  }
  Call begin(const char* operation, DType type) const {
    Call call = start(operation, type);
    call.number = core_->activity.issue();
    return call;
  }
  Call begin_message(const char* operation, DType type, int peer) const {
    Call call = start(operation, type);
    call.peer = core_->activity.member(peer);
    return call;
  }

  static Pending pending(Call call) {
    if (call.requests.empty()) return {};
    return Pending([call = std::move(call)]() mutable { call.complete(); });
  }

  // A long buffer from its beginning, in blocks that the ranks share in equal parts; returns how
  // many elements are done. This sends the least on any number of ranks, where MPI_Allreduce sends
  // up to 9/8 of it when they are no power of two, and takes 0.4 to 0.9 of its time there; on
  // powers of two it gains from 32 MiB on, 0.5 to 0.7 of the time at 64 MiB (2 to 8 ranks of one
  // host). Blocks, so that the room it needs stays small.
  std::size_t all_reduce_blocks(const BufferView& inout, ReduceOp op) {
    if (!all_reduce_in_blocks(size_, inout.bytes())) return 0;
    std::size_t done = 0;
    while (const auto count = all_reduce_part(size_, inout.count - done, dtype_size(inout.dtype))) {
      const BufferView block{at(inout, done), count * static_cast<std::size_t>(size_), inout.dtype};
      const BufferView mine = part(block, count, rank_);
      reduce_scatter(block, mine, op).wait();
      all_gather(mine, block).wait();
      done += block.count;
    }
    return done;
  }

  // Memory of earlier reduce_scatters that are complete is used again: fresh pages of long buffers
  // cost as much time as the exchange.
  std::shared_ptr<char[]> room_for(std::size_t bytes) {
    std::vector<bool> idle;
    for (const auto& room : rooms_) idle.push_back(room.use_count() <= 1);
    const auto need = static_cast<std::int64_t>(bytes);
    const auto chosen = choose_room(idle, room_bytes_, need);
    if (chosen == rooms_.size()) {
      rooms_.emplace_back();
      room_bytes_.push_back(0);
    }
    if (room_bytes_[chosen] < need) {
      rooms_[chosen].reset();  // before the new one is there
      rooms_[chosen] = std::make_shared_for_overwrite<char[]>(bytes);
      room_bytes_[chosen] = need;
    }
    return rooms_[chosen];
  }

  static BufferView part(const BufferView& whole, std::size_t count, int index) {
    return {part_of(whole, count, index), count, whole.dtype, whole.device};
  }

  // Parts of these counts, one after the other.
  static std::vector<BufferView> parts(const BufferView& whole,
                                       std::span<const std::size_t> counts) {
    std::vector<BufferView> parts;
    std::size_t done = 0;
    for (const std::size_t count : counts) {
      parts.push_back({at(whole, done), count, whole.dtype, whole.device});
      done += count;
    }
    return parts;
  }

  void start_send(Call& call, const BufferView& buffer, int to, int tag) const {
    for_messages(buffer.count, [&](std::size_t done, int count) {
      call.checked(
          MPI_Isend(at(buffer, done), count, call.element, to, tag, core_->comm, call.add()));
    });
  }

  void start_recv(Call& call, const BufferView& buffer, int from, int tag) const {
    for_messages(buffer.count, [&](std::size_t done, int count) {
      call.receives.push_back(count);
      call.checked(
          MPI_Irecv(at(buffer, done), count, call.element, from, tag, core_->comm, call.add()));
    });
  }

  template <class Start>  // start(first element, elements)
  void for_pieces(std::size_t count, Start start) const {
    pg::comm::for_pieces(count, longest_, start);
  }

  // As for_pieces, but no elements are a message too: it says that the sender got there.
  template <class Start>
  void for_messages(std::size_t count, Start start) const {
    if (count == 0) return start(0, 0);
    for_pieces(count, start);
  }

  std::shared_ptr<const Core> core_;
  int size_, rank_;
  std::size_t longest_;
  std::vector<std::shared_ptr<char[]>> rooms_;  // of reduce_scatter; in use while a call shares it
  std::vector<std::int64_t> room_bytes_;
};

}  // namespace

std::unique_ptr<Group> make_mpi_group(Communicator communicator, std::string name,
                                      std::size_t longest_message) {
  return std::make_unique<MpiGroup>(std::move(communicator), std::move(name), longest_message);
}

}  // namespace pg::comm

// What the two carriers of GPU buffers share: the demands on a call, and MPI for host buffers.
#pragma once

#include <memory>
#include <string>

#include "comm/gpu.h"
#include "comm/group.h"

namespace pg::comm {

class GpuGroup : public Group {
 public:
  std::string_view name() const override { return host_->name(); }
  int size() const override { return size_; }
  int rank() const override { return rank_; }

  Pending all_reduce(BufferView inout, ReduceOp op) final;
  Pending all_gather(BufferView send, BufferView recv) final;
  Pending reduce_scatter(BufferView send, BufferView recv, ReduceOp op) final;
  Pending all_to_all(BufferView send, std::span<const std::size_t> send_counts, BufferView recv,
                     std::span<const std::size_t> recv_counts) final;
  Pending broadcast(BufferView inout, int root) final;
  Pending send(BufferView buffer, int to, int tag) final;
  Pending recv(BufferView buffer, int from, int tag) final;
  void barrier() final { host_->barrier(); }

 protected:
  GpuGroup(std::unique_ptr<Group> host, const Gpu& gpu);
  Group& host() { return *host_; }
  GpuStream compute() const { return compute_; }

 private:
  // Of buffers on the GPU, with elements in them (but for messages), and checked.
  virtual Pending sum_all(BufferView inout, ReduceOp op) = 0;
  virtual Pending gather(BufferView send, BufferView recv) = 0;
  virtual Pending scatter(BufferView send, BufferView recv, ReduceOp op) = 0;
  virtual Pending exchange(BufferView send, std::span<const std::size_t> send_counts,
                           BufferView recv, std::span<const std::size_t> recv_counts) = 0;
  virtual Pending spread(BufferView inout, int root) = 0;
  virtual Pending give(BufferView buffer, int to, int tag) = 0;
  virtual Pending take(BufferView buffer, int from, int tag) = 0;

  std::unique_ptr<Group> host_;
  int size_, rank_;
  GpuStream compute_;
};

}  // namespace pg::comm

#include "comm/cuda/gpu_group.h"

#include <utility>

#include "comm/group_checks.h"

namespace pg::comm {

GpuGroup::GpuGroup(std::unique_ptr<Group> host, const Gpu& gpu)
    : host_(std::move(host)), size_(host_->size()), rank_(host_->rank()), compute_(gpu.compute()) {}

Pending GpuGroup::all_reduce(BufferView inout, ReduceOp op) {
  if (inout.device == Device::kCpu) return host_->all_reduce(inout, op);
  require_buffer(*this, inout);
  require_reduction(*this, inout, op);
  if (inout.count == 0) return {};
  return sum_all(inout, op);
}

Pending GpuGroup::all_gather(BufferView send, BufferView recv) {
  require_all_gather(*this, send, recv);
  if (recv.device == Device::kCpu) return host_->all_gather(send, recv);
  if (send.count == 0) return {};
  return gather(send, recv);
}

Pending GpuGroup::reduce_scatter(BufferView send, BufferView recv, ReduceOp op) {
  require_reduce_scatter(*this, send, recv, op);
  if (send.device == Device::kCpu) return host_->reduce_scatter(send, recv, op);
  if (recv.count == 0) return {};
  return scatter(send, recv, op);
}

Pending GpuGroup::all_to_all(BufferView send, std::span<const std::size_t> send_counts,
                             BufferView recv, std::span<const std::size_t> recv_counts) {
  require_all_to_all(*this, send, send_counts, recv, recv_counts);
  if (send.device == Device::kCpu) return host_->all_to_all(send, send_counts, recv, recv_counts);
  return exchange(send, send_counts, recv, recv_counts);
}

Pending GpuGroup::broadcast(BufferView inout, int root) {
  if (inout.device == Device::kCpu) return host_->broadcast(inout, root);
  require_buffer(*this, inout);
  require_rank(*this, root);
  if (inout.count == 0) return {};
  return spread(inout, root);
}

Pending GpuGroup::send(BufferView buffer, int to, int tag) {
  require_buffer(*this, buffer);
  require_rank(*this, to);
  require_tag(*this, tag);
  if (buffer.device == Device::kCpu) return host_->send(buffer, to, tag);
  return give(buffer, to, tag);
}

Pending GpuGroup::recv(BufferView buffer, int from, int tag) {
  require_buffer(*this, buffer);
  require_rank(*this, from);
  require_tag(*this, tag);
  if (buffer.device == Device::kCpu) return host_->recv(buffer, from, tag);
  return take(buffer, from, tag);
}

}  // namespace pg::comm

// What every carrier of a group demands of its callers, so that a wrong call is a bug with its
// numbers on one rank and never wrong bytes or a hang on another.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "comm/error.h"
#include "comm/group.h"

namespace pg::comm {

inline void require_buffer(const Group& group, const BufferView& buffer) {
  PG_ASSERT(buffer.data != nullptr || buffer.count == 0, "group {}: {} elements at null",
            group.name(), buffer.count);
}

inline void require_host(const Group& group, const BufferView& buffer) {
  PG_ASSERT(buffer.device == Device::kCpu, "group {} carries host memory only", group.name());
  require_buffer(group, buffer);
}

// Both of a call's buffers, on one side.
inline void require_buffers(const Group& group, const BufferView& a, const BufferView& b) {
  require_buffer(group, a);
  require_buffer(group, b);
  PG_ASSERT(a.device == b.device, "group {}: one buffer on the host and one on the GPU",
            group.name());
}

// On a GPU a NaN may get lost in the maximum or minimum of a floating type (NCCL's does), and a bad
// value would pass.
inline void require_reduction(const Group& group, const BufferView& buffer, ReduceOp op) {
  const bool floating =
      buffer.dtype == DType::kF64 || buffer.dtype == DType::kF32 || buffer.dtype == DType::kBF16;
  PG_ASSERT(buffer.device == Device::kCpu || op == ReduceOp::kSum || !floating,
            "group {}: maximum or minimum of {} on the GPU", group.name(),
            dtype_name(buffer.dtype));
}

inline void require_rank(const Group& group, int rank) {
  PG_ASSERT(rank >= 0 && rank < group.size(), "rank {} in group {} of {}", rank, group.name(),
            group.size());
}

// Negative tags are MPI's wildcard; what lies above kLastTag is for the groups themselves.
inline void require_tag(const Group& group, int tag) {
  PG_ASSERT(tag >= 0 && tag <= kLastTag, "tag {} on group {}", tag, group.name());
}

// Where rank `index`'s part of a gathered buffer begins.
inline char* part_of(const BufferView& whole, std::size_t count, int index) {
  return static_cast<char*>(whole.data) +
         static_cast<std::size_t>(index) * count * dtype_size(whole.dtype);
}

inline bool overlap(const BufferView& a, const BufferView& b) {
  const auto x = reinterpret_cast<std::uintptr_t>(a.data);
  const auto y = reinterpret_cast<std::uintptr_t>(b.data);
  return x < y + b.bytes() && y < x + a.bytes();
}

// `part` is one rank's share of `whole`, wherever they lie.
inline void require_part_of(const Group& group, const BufferView& part, const BufferView& whole) {
  PG_ASSERT(part.dtype == whole.dtype, "group {}: {} and {}", group.name(), dtype_name(part.dtype),
            dtype_name(whole.dtype));
  PG_ASSERT(whole.count == part.count * static_cast<std::size_t>(group.size()),
            "group {}: {} elements for {} ranks of {}", group.name(), whole.count, group.size(),
            part.count);
}

inline void require_parts(const Group& group, const BufferView& part, const BufferView& whole) {
  require_buffers(group, part, whole);
  require_part_of(group, part, whole);
}

inline bool gathers_in_place(const Group& group, const BufferView& send, const BufferView& recv) {
  return send.data == part_of(recv, send.count, group.rank());
}

inline void require_all_gather(const Group& group, const BufferView& send, const BufferView& recv) {
  require_parts(group, send, recv);
  PG_ASSERT(gathers_in_place(group, send, recv) || !overlap(send, recv),
            "group {}: all_gather of {} elements over itself", group.name(), send.count);
}

inline bool scatters_in_place(const Group& group, const BufferView& send, const BufferView& recv) {
  return recv.data == part_of(send, recv.count, group.rank());
}

inline void require_reduce_scatter(const Group& group, const BufferView& send,
                                   const BufferView& recv, ReduceOp op) {
  require_parts(group, recv, send);
  require_reduction(group, send, op);
  PG_ASSERT(scatters_in_place(group, send, recv) || !overlap(send, recv),
            "group {}: reduce_scatter of {} elements over itself", group.name(), send.count);
}

// One count a rank, which add up to the buffer. By what is left of it, so that no sum wraps round.
inline void require_counts(const Group& group, const char* side, const BufferView& buffer,
                           std::span<const std::size_t> counts) {
  PG_ASSERT(counts.size() == static_cast<std::size_t>(group.size()),
            "group {}: all_to_all with {} {} counts for {} ranks", group.name(), counts.size(),
            side, group.size());
  std::size_t left = buffer.count;
  for (std::size_t r = 0; r < counts.size(); ++r) {
    PG_ASSERT(counts[r] <= left,
              "group {}: all_to_all {} counts {} elements for rank {}, with {} of {} left",
              group.name(), side, counts[r], r, left, buffer.count);
    left -= counts[r];
  }
  PG_ASSERT(left == 0, "group {}: all_to_all {} counts add up to {} of {} elements", group.name(),
            side, buffer.count - left, buffer.count);
}

// What can be said of an all_to_all wherever its buffers lie, and of a dry one too: its counts to
// receive may come from an exchange that brought nothing, so they need not fit those to send.
inline void require_exchange(const Group& group, const BufferView& send,
                             std::span<const std::size_t> send_counts, const BufferView& recv,
                             std::span<const std::size_t> recv_counts) {
  PG_ASSERT(send.dtype == recv.dtype, "group {}: all_to_all of {} into {}", group.name(),
            dtype_name(send.dtype), dtype_name(recv.dtype));
  require_counts(group, "send", send, send_counts);
  require_counts(group, "recv", recv, recv_counts);
}

// Of the counts that ranks must agree on, a rank alone knows its own part's; on a group of one rank
// that is all of them.
inline void require_all_to_all(const Group& group, const BufferView& send,
                               std::span<const std::size_t> send_counts, const BufferView& recv,
                               std::span<const std::size_t> recv_counts) {
  require_buffers(group, send, recv);
  require_exchange(group, send, send_counts, recv, recv_counts);
  const auto own = static_cast<std::size_t>(group.rank());
  PG_ASSERT(send_counts[own] == recv_counts[own],
            "group {}: all_to_all of {} elements to rank {} itself, which receives {}",
            group.name(), send_counts[own], own, recv_counts[own]);
  PG_ASSERT(!overlap(send, recv), "group {}: all_to_all of {} elements over {}", group.name(),
            send.count, recv.count);
}

}  // namespace pg::comm

// Host memory that an MPI group takes for itself while it reduces, beside the caller's buffers, and
// how it cuts long sums so that this stays small: plain arithmetic, which comm/mpi_group follows
// and memory plans count.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

namespace pg::comm {

// all_reduce in blocks, from this many bytes a rank: shorter ones gain nothing from it.
inline constexpr std::size_t kReduceBlockBytes = std::size_t{16} << 20;
inline constexpr std::size_t kLeastReducePartBytes = std::size_t{1} << 20;

// Bytes of the other ranks' parts that reduce_scatter receives, `recv_bytes` each.
inline std::int64_t reduce_scatter_room(int ranks, std::int64_t recv_bytes) {
  return (ranks - 1) * recv_bytes;
}

// Whether an all_reduce of `bytes` begins in blocks, which its ranks share in equal parts.
inline bool all_reduce_in_blocks(int ranks, std::size_t bytes) {
  return !std::has_single_bit(static_cast<unsigned>(ranks)) || bytes >= 2 * kReduceBlockBytes;
}

// Elements of a rank's part of the next block when `left` elements of `element` bytes are not yet
// summed; 0: the rest is too short for a block.
inline std::size_t all_reduce_part(int ranks, std::size_t left, std::size_t element) {
  const auto n = static_cast<std::size_t>(ranks);
  if (left / n * element < kLeastReducePartBytes) return 0;
  return std::min(std::max<std::size_t>(1, kReduceBlockBytes / element / n), left / n);
}

// Bytes for an all_reduce of `count` elements: those of its first block, which is the largest.
inline std::int64_t all_reduce_room(int ranks, std::int64_t count, std::size_t element) {
  const auto n = static_cast<std::size_t>(count);
  if (ranks == 1 || !all_reduce_in_blocks(ranks, n * element)) return 0;
  return reduce_scatter_room(
      ranks, static_cast<std::int64_t>(all_reduce_part(ranks, n, element) * element));
}

// Which of a group's rooms the next call takes: the first idle one that is large enough, else the
// first idle one, which then grows; none idle: a new one. `idle` and `bytes` are of each room.
inline std::size_t choose_room(const std::vector<bool>& idle,
                               const std::vector<std::int64_t>& bytes, std::int64_t need) {
  std::size_t chosen = idle.size();
  for (std::size_t i = idle.size(); i-- > 0;) {
    const bool fits = bytes[i] >= need;
    if (idle[i] && (fits || chosen == idle.size() || bytes[chosen] < need)) chosen = i;
  }
  return chosen;
}

// Bytes of a group's rooms after calls of these needs, of which the newest `in_flight` are on their
// way at any time.
inline std::int64_t rooms_after(const std::vector<std::int64_t>& needs, std::size_t in_flight) {
  std::vector<std::int64_t> bytes;
  std::deque<std::size_t> flying;
  for (const auto need : needs) {
    if (flying.size() == in_flight) flying.pop_front();
    std::vector<bool> idle(bytes.size(), true);
    for (const auto room : flying) idle[room] = false;
    const auto room = choose_room(idle, bytes, need);
    if (room == bytes.size()) bytes.push_back(0);
    bytes[room] = std::max(bytes[room], need);
    flying.push_back(room);
  }
  std::int64_t all = 0;
  for (const auto b : bytes) all += b;
  return all;
}

}  // namespace pg::comm

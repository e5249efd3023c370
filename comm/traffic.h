// What the groups of a run are asked to carry: for each group and operation the calls, the bytes of
// the buffers, and the bytes that the best known algorithm must send. Bytes counted at the wire are
// held against the last; ProcessGrid wraps every group it hands out.
//
// The counts are those of one rank. Their sum over the ranks of a group is the whole of what it
// did.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "comm/group.h"

namespace pg::comm {

enum class Operation : int {
  kAllReduce,
  kAllGather,
  kReduceScatter,
  kAllToAll,
  kBroadcast,
  kSend,
  kRecv,
  kBarrier
};
inline constexpr int kOperations = 8;

const char* operation_name(Operation operation);  // "all_reduce", ...

struct TrafficRow {
  std::string group;
  Operation operation = Operation::kAllReduce;
  std::int64_t calls = 0;
  // Bytes of the logical buffer: all of it in all_reduce and broadcast, the gathered one in
  // all_gather, the one to be scattered in reduce_scatter, the one to be sent in all_to_all (what
  // this rank keeps of it included), the message in send and recv.
  std::int64_t payload = 0;
  // Bytes that the best algorithm sends from one rank of n, the mean over ranks, with B the
  // payload: all_reduce 2 (n-1)/n B; all_gather, reduce_scatter and broadcast (n-1)/n B; send B;
  // recv and barrier 0 (Patarasuk and Yuan 2009, "Bandwidth optimal all-reduce algorithms"). Not
  // whole numbers; sums below 2^53/n bytes are exact to a rounding of 1 in 2^53 a call.
  // Ranks differ in all_to_all: there it is what this rank sends to the others, exact below 2^53.
  double least_sent = 0;
};

class Traffic {
 public:
  Traffic() = default;
  Traffic(const Traffic&) = delete;
  Traffic& operator=(const Traffic&) = delete;

  // What was called since the beginning or the last reset, by group name and then by operation in
  // the order above: the same order on every rank. Groups of one name are one.
  std::vector<TrafficRow> rows() const;
  void reset();

 private:
  friend std::unique_ptr<Group> make_counted_group(std::unique_ptr<Group> inner, Traffic& traffic);
  friend class CountedGroup;
  struct Count {
    std::int64_t calls = 0, payload = 0;
    double least_sent = 0;
  };
  using Counts = std::array<Count, kOperations>;
  // Shared with the groups that count here, which may outlive this table.
  std::map<std::string, std::shared_ptr<Counts>, std::less<>> groups_;
};

// `inner`, counted in `traffic`. A call counts once it is issued; one that throws does not. A group
// of one rank moves nothing and is returned as it is.
std::unique_ptr<Group> make_counted_group(std::unique_ptr<Group> inner, Traffic& traffic);

}  // namespace pg::comm

// Moves tokens between the ranks of an ep group: each holds an equal run of the experts and tokens
// of its own. Counts go first, then the rows, in one exchange each way (Lepikhin et al. 2021).
//
// Rows that leave are sorted by expert; rows that arrive are put in order by expert, then by the
// rank they came from: so one product serves an expert. How many arrive is known only once the
// counts are there; dry runs assume a load instead.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "comm/group.h"
#include "model/arena.h"
#include "model/config.h"
#include "model/kernels/kernels.h"
#include "model/sharding.h"

namespace pg::model {

// Pairs (token, expert) of a micro-batch: what a rank sends, and what its experts receive.
struct ExpertLoad {
  std::int64_t sent = 0, received = 0;
};
// With every expert asked for equally; and the most there can be on one rank, when all tokens of
// all ep ranks want its experts. `tokens` of `sequences` on this rank, cp * tokens / sequences of
// each whole sequence.
ExpertLoad balanced_load(const MoeConfig& moe, const Sharding& sharding, std::int64_t sequences,
                         std::int64_t tokens);
ExpertLoad largest_load(const MoeConfig& moe, const Sharding& sharding, std::int64_t sequences,
                        std::int64_t tokens);
// Tokens of a whole sequence of `seq` that an expert takes: of expert choice exactly, else at most;
// without a capacity factor all.
std::int64_t expert_capacity(const MoeConfig& moe, std::int64_t seq);

// How the rows of one micro-batch and layer travel.
struct ExpertRoutes {
  std::vector<std::int64_t> begin;     // rows of local expert e: [begin[e], begin[e+1])
  std::vector<std::int64_t> received;  // [ep * local experts], by source rank, then expert
  std::vector<std::size_t> sent_rows, received_rows;  // [ep]
  std::int64_t sent = 0;                              // in all

  std::int64_t arrived() const { return begin.back(); }
};

class ExpertParallel {
 public:
  ExpertParallel(const Sharding& sharding, std::int64_t experts, comm::Group& group,
                 std::optional<ExpertLoad> assumed = {})
      : size_(sharding.ep), experts_(experts / sharding.ep), group_(group), assumed_(assumed) {}

  int size() const { return size_; }
  std::int64_t local_experts() const { return experts_; }

  // counts[E]: pairs of this rank for each expert of the model. Collective.
  ExpertRoutes routes(std::span<const std::int64_t> counts) const;

  // to[arrived,C] in the order of `begin`, from[sent,C]. Collective. Only for more than one ep
  // rank: with one nothing moves, and both orders are the same.
  void to_experts(Kernels& kernels, Arena& scratch, TensorView to, TensorView from,
                  const ExpertRoutes& routes) const;
  // And back: to[sent,C] from from[arrived,C].
  void to_tokens(Kernels& kernels, Arena& scratch, TensorView to, TensorView from,
                 const ExpertRoutes& routes) const;

 private:
  template <class Move>  // move(row in arrival order, row by expert, rows)
  void for_parts(const ExpertRoutes& routes, Move move) const;
  int size_;
  std::int64_t experts_;  // of this rank
  comm::Group& group_;
  std::optional<ExpertLoad> assumed_;
};

}  // namespace pg::model

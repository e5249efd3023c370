// How the model is cut over the ranks: plain numbers that say which part is this rank's, and the
// groups that its parts communicate over. Layers, parameters, the optimizer and the pipeline read
// the same two structs; dry runs fill them without any MPI.
#pragma once

#include <memory>

#include "comm/dry_group.h"
#include "comm/group.h"
#include "model/sequence_parts.h"

namespace pg::model {

// Sizes are at least 1; an index is below its size.
struct Sharding {
  int tp = 1, tp_rank = 0;
  bool sequence = false;  // the residual stream, norms and dropout are cut over tp by rows
  int pp = 1, stage = 0;
  int chunks = 1;           // model chunks of each pipeline stage
  int ep = 1, ep_rank = 0;  // experts, in equal runs
  int cp = 1, cp_rank = 0;  // parts of each sequence
  ContextMethod context = ContextMethod::kRing;
  int replicas = 1, replica = 0;                // of the dense parameters: dp*ep*cp
  int expert_replicas = 1, expert_replica = 0;  // of an expert: dp*cp
  int zero = 0;  // 0 none, 1 optimizer state, 2 and gradients, 3 and parameters

  bool operator==(const Sharding&) const = default;
};

// KV heads fewer than tp are held by several ranks: how many, consecutive in tp.
inline int kv_copies(int tp, std::int64_t kv_heads) {
  return kv_heads >= tp ? 1 : tp / static_cast<int>(kv_heads);
}

// Groups of more than one rank communicate; those of one cost nothing. Live ones are owned by the
// process grid and outlive everything here.
struct Groups {
  std::shared_ptr<comm::Group> tensor;           // tp
  std::shared_ptr<comm::Group> kv_copies;        // the tp ranks that hold the same KV heads
  std::shared_ptr<comm::Group> replicas;         // dense parameters' copies, over which ZeRO shards
  std::shared_ptr<comm::Group> expert_replicas;  // the same for experts
  std::shared_ptr<comm::Group> experts;          // ep: ranks with different experts
  std::shared_ptr<comm::Group> context;          // cp
  std::shared_ptr<comm::Group> pipeline;         // pp
  std::shared_ptr<comm::Group> ends;             // first and last stage: copies of a tied embedding
};

// Groups of these sizes that move nothing.
inline Groups dry_groups(const Sharding& s, std::int64_t kv_heads) {
  const auto make = [](const char* name, int size, int rank) {
    return std::shared_ptr<comm::Group>(comm::make_dry_group(name, size, rank));
  };
  const int copies = kv_copies(s.tp, kv_heads);
  const bool at_end = s.pp > 1 && (s.stage == 0 || s.stage == s.pp - 1);
  return {make("tp", s.tp, s.tp_rank),
          make("kv copies", copies, s.tp_rank % copies),
          make("dp*ep*cp", s.replicas, s.replica),
          make("dp*cp", s.expert_replicas, s.expert_replica),
          make("ep", s.ep, s.ep_rank),
          make("cp", s.cp, s.cp_rank),
          make("pp", s.pp, s.stage),
          make("pp ends", at_end ? 2 : 1, at_end && s.stage > 0 ? 1 : 0)};
}

}  // namespace pg::model

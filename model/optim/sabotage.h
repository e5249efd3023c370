// What the negative controls of the tests break on purpose, to prove that they would notice. No
// deck reaches it.
#pragma once

#include <string_view>

namespace pg::model {

struct Sabotage {
  // Sums of gradients (GradReducer).
  bool drop_replica_sum = false;      // of every place
  bool drop_one_bucket = false;       // of the first block's place only
  bool drop_stream_sum = false;       // norms over tp
  bool drop_kv_copy = false;          // KV heads that several ranks hold
  bool drop_tied_sum = false;         // a tied embedding's two stages
  bool sum_experts_over_all = false;  // experts over the replicas of the dense parameters
  // Of one step: what this rank's backward leaves as the first element of its part of this
  // gradient, before any sum (empty: nothing), and what its loss is multiplied by.
  std::string_view poisoned_gradient = {};
  double poison = 0;
  double loss_factor = 1;
  // Parts of sequences (ContextParallel).
  bool drop_statistics_sum = false;  // routers know their own part of a sequence only
  bool break_zigzag = false;         // the two chunks of other ranks are taken for each other
  // Weights on their way back (WeightGatherer).
  bool drop_publish = false;      // ZeRO 1, 2: updated pieces stay where they are
  bool keep_stale_slots = false;  // ZeRO 3: slots are believed to hold the new weights
  bool keep_stale_packs = false;  // ZeRO 3: products use what they packed of a slot's last tenant
};

}  // namespace pg::model

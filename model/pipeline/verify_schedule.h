// Proves the lists of all stages of a pipeline schedule together, without running them: everything
// is done once and in an order that its inputs allow, sends meet their receives in order, and
// nothing deadlocks even when every send blocks. It counts the micro-batches that each stage holds.
// It takes lists, not a schedule's name, so that tests can hand it broken ones.
#pragma once

#include <string>
#include <vector>

#include "model/pipeline/schedule.h"

namespace pg::model {

enum class Pass { kTraining, kForwardOnly };

// kBlocking: a send lasts until its receive is reached (the hardest case, and make_schedule's
// promise). kPosted: it never waits, as early_sends needs.
enum class Sends { kBlocking, kPosted };

// A micro-batch is live at a chunk from its RecvActivation, or on the first virtual stage from its
// forward, until its backward has ended; forward only, until its activation is sent (on the last
// virtual stage: until its forward has ended).
struct ScheduleReport {
  std::string error;                          // the first thing that is wrong; empty: nothing
  std::vector<std::vector<int>> chunk_peaks;  // [stage][chunk] most live at once; empty on an error
  std::vector<int> stage_peaks;  // [stage] most live at once over its chunks; empty on an error
};

// `lists`: one per stage. Of `shape`, the kind plays no part. Training also checks that backwards
// of a chunk come in increasing order of micro-batch.
ScheduleReport verify_schedule(const ScheduleShape& shape,
                               const std::vector<std::vector<Action>>& lists,
                               Pass pass = Pass::kTraining, Sends sends = Sends::kBlocking);

// [chunk] the most micro-batches live at once, from one stage's list alone: how many activation
// arenas the chunk needs. Also for forward-only lists.
std::vector<int> live_slots(const std::vector<Action>& list, int chunks);

// The published bound on a stage's live micro-batches over all its chunks, m micro-batches in p
// stages of v chunks: gpipe m (Huang et al. 2019); 1f1b min(m, p-s) and interleaved
// min(v m, 2 (p-1-s) + (v-1) p + 1) (Narayanan et al. 2021, and Megatron-LM's warm-up count).
int peak_live_bound(const ScheduleShape& shape, int stage);

}  // namespace pg::model

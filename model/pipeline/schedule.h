// Pipeline schedules as data: a pure function from (kind, stages, chunks, micro-batches) to each
// stage's list of actions. It knows no MPI and no tensor; the executor runs a list strictly in
// order, verify_schedule.h proves the lists of all stages together and simulate.h times them.
//
// Stage s of p holds `chunks` model chunks. Chunk c of stage s is virtual stage v = c * p + s,
// which feeds v + 1: the next stage, or from the last stage the next chunk of the first. The first
// virtual stage receives no activation, the last sends none, and one stage alone has no messages.
#pragma once

#include <compare>
#include <optional>
#include <string>
#include <vector>

namespace pg::model {

// GPipe (Huang et al. 2019): all forwards, then all backwards. 1F1B: PipeDream-flush, and
// interleaved 1F1B with several chunks a stage (both Narayanan et al. 2021, Megatron-LM).
enum class ScheduleKind { kGPipe, k1F1B, kInterleaved };

enum class ActionKind {
  kForward,
  kBackward,
  kSendActivation,
  kRecvActivation,
  kSendGradient,
  kRecvGradient
};

// `chunk` is this stage's model chunk: for a send the one that made the tensor, for a receive the
// one that will use it.
struct Action {
  ActionKind kind = ActionKind::kForward;
  int chunk = 0;
  int micro = 0;  // micro-batch
  auto operator<=>(const Action&) const = default;
};

struct ScheduleShape {
  ScheduleKind kind = ScheduleKind::k1F1B;
  int stages = 1;
  int chunks = 1;         // model chunks a stage
  int micro_batches = 1;  // of one step, as each stage sees them
  bool operator==(const ScheduleShape&) const = default;
};

// One tensor on its way between two stages, the same value for the send and for its receive.
struct Message {
  int from = 0;  // stages
  int to = 0;
  bool gradient = false;  // of an activation; else the activation
  int sender = 0;         // the virtual stage that made it
  int micro = 0;
  auto operator<=>(const Message&) const = default;
};

// What is wrong with `shape`, with the legal values; empty when it can be scheduled.
std::string schedule_problem(const ScheduleShape& shape);

// The lists of all stages, for a shape without a schedule_problem (asserted). They keep:
// - Each virtual stage runs each micro-batch forward once and backward once, its backwards in
//   increasing order of micro-batch, so that all schedules sum gradients in one order.
// - All lists are parts of one total order of everything, in which a message is one event, and its
//   send and its receive stand at that place. So nothing can deadlock, even when each send blocks
//   until its receive is reached; and between two stages, messages are sent in the order in which
//   they are received, as NCCL needs, which has no tags. Messages next to each other in a list may
//   be posted together.
// - A send may be posted earlier, as soon as its tensor is made: that keeps the order of the
//   messages between two stages (early_sends). Waiting for it to complete is free of deadlock at
//   its place in the list and anywhere after it, not before.
// - Only messages stand between a receive and the forward or backward that uses it: an activation
//   is held no longer than it must, and a stage holds the fewest micro-batches its order of
//   forwards and backwards allows (the bounds are at peak_live_bound in verify_schedule.h).
std::vector<std::vector<Action>> make_schedules(const ScheduleShape& shape);

// The list of one stage, 0 <= stage < stages.
std::vector<Action> make_schedule(const ScheduleShape& shape, int stage);

// Forward only, for validation: any number of chunks and micro-batches under any kind (chunks > 1
// needs two stages). The same guarantees, without the backwards and their messages.
std::vector<std::vector<Action>> make_forward_schedules(const ScheduleShape& shape);
std::vector<Action> make_forward_schedule(const ScheduleShape& shape, int stage);

// One stage's list for an executor whose sends do not block: each send directly behind the forward
// or backward that made its tensor. All stages together then reach the published bubble whatever a
// backward costs over a forward; the blocking order of interleaved only when both cost the same.
std::vector<Action> early_sends(const std::vector<Action>& list);

// How many forwards `stage` runs before its steady state, in which a forward and a backward take
// turns: gpipe all; 1f1b min(m, p-1-s); interleaved min(v m, 2 (p-1-s) + (v-1) p), with p stages,
// v chunks and m micro-batches.
int warm_up_forwards(const ScheduleShape& shape, int stage);

// The message that `action` of `stage` sends or receives; nothing for a forward or a backward.
std::optional<Message> message_of(const Action& action, int stage, int stages);

bool is_send(ActionKind kind);

// "gpipe", "1f1b", "interleaved", as decks spell them.
const char* schedule_name(ScheduleKind kind);

// For messages: "forward of chunk 1, micro-batch 3".
std::string text(const Action& action);

}  // namespace pg::model

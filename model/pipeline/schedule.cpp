#include "model/pipeline/schedule.h"

#include <algorithm>
#include <set>
#include <tuple>

#include "comm/error.h"

namespace pg::model {

namespace {

struct Work {
  int chunk = 0;
  int micro = 0;
};

// The order in which a stage's chunks see the micro-batches: groups of `stages` micro-batches,
// which pass one chunk after another (Megatron-LM). With one chunk this is 0, 1, 2, ... A last
// group that is not full occurs only in forward schedules.
std::vector<Work> work_order(const ScheduleShape& shape, bool backward) {
  std::vector<Work> order;
  for (int first = 0; first < shape.micro_batches; first += shape.stages) {
    const int end = std::min(first + shape.stages, shape.micro_batches);
    for (int i = 0; i < shape.chunks; ++i) {
      const int chunk = backward ? shape.chunks - 1 - i : i;
      for (int micro = first; micro < end; ++micro) order.push_back({chunk, micro});
    }
  }
  return order;
}

// The forwards and backwards of one stage, without messages: warm-up, steady state of one forward
// and one backward in turn, cool-down.
std::vector<Action> compute_list(const ScheduleShape& shape, int stage) {
  const auto forwards = work_order(shape, /*backward=*/false);
  const auto backwards = work_order(shape, /*backward=*/true);
  const auto warm_up = static_cast<std::size_t>(warm_up_forwards(shape, stage));

  std::vector<Action> list;
  const auto forward = [&](std::size_t i) {
    list.push_back({ActionKind::kForward, forwards[i].chunk, forwards[i].micro});
  };
  const auto backward = [&](std::size_t i) {
    list.push_back({ActionKind::kBackward, backwards[i].chunk, backwards[i].micro});
  };
  for (std::size_t i = 0; i < warm_up; ++i) forward(i);
  for (std::size_t i = warm_up; i < forwards.size(); ++i) {
    forward(i);
    backward(i - warm_up);
  }
  for (std::size_t i = forwards.size() - warm_up; i < backwards.size(); ++i) backward(i);
  return list;
}

// When each forward and each backward would start if each took one slot and messages took none.
class SlotTable {
 public:
  SlotTable(const ScheduleShape& shape, const std::vector<std::vector<Action>>& computes)
      : stages_(shape.stages),
        micro_batches_(shape.micro_batches),
        virtual_stages_(shape.stages * shape.chunks),
        forward_(size(), kUnknown),
        backward_(size(), kUnknown) {
    std::vector<std::size_t> next(computes.size());
    std::vector<int> free_at(computes.size());
    std::size_t left = 0;
    for (const auto& list : computes) left += list.size();
    while (left > 0) {
      const auto before = left;
      for (std::size_t s = 0; s < computes.size(); ++s) {
        while (next[s] < computes[s].size()) {
          const auto& action = computes[s][next[s]];
          const int input = input_ready(action, static_cast<int>(s));
          if (input == kUnknown) break;
          const int slot = std::max(free_at[s], input);
          auto& starts = action.kind == ActionKind::kForward ? forward_ : backward_;
          starts[index(virtual_stage(action, static_cast<int>(s)), action.micro)] = slot;
          free_at[s] = slot + 1;
          ++next[s];
          --left;
        }
      }
      PG_ASSERT(left < before, "{} of {} stages, {} chunks, {} micro-batches is stuck",
                schedule_name(shape.kind), shape.stages, shape.chunks, shape.micro_batches);
    }
  }

  int virtual_stages() const { return virtual_stages_; }
  int virtual_stage(const Action& action, int stage) const {
    return action.chunk * stages_ + stage;
  }
  int start(ActionKind kind, int v, int micro) const {
    return (kind == ActionKind::kForward ? forward_ : backward_)[index(v, micro)];
  }

 private:
  static constexpr int kUnknown = -1;

  std::size_t size() const { return index(virtual_stages_, 0); }
  std::size_t index(int v, int micro) const {
    const auto row = static_cast<std::size_t>(v) * static_cast<std::size_t>(micro_batches_);
    return row + static_cast<std::size_t>(micro);
  }
  // The first slot in which what `action` needs from another virtual stage is there.
  int input_ready(const Action& action, int stage) const {
    const int v = virtual_stage(action, stage);
    const bool forward = action.kind == ActionKind::kForward;
    const int from = forward ? v - 1 : v + 1;
    if (from < 0 || from == virtual_stages_) return 0;
    const int made = start(action.kind, from, action.micro);
    return made == kUnknown ? kUnknown : made + 1;
  }

  int stages_;
  int micro_batches_;
  int virtual_stages_;
  std::vector<int> forward_;
  std::vector<int> backward_;
};

// An action with its place in the total order. A message belongs to the slot in which its tensor is
// used, before that slot's forwards and backwards: at its receiver nothing but messages comes
// between, at its sender only work of earlier slots does. Within a slot activations go first (both
// ends of the exchange of steady 1F1B must agree on one of the two), and each kind so that a
// stage's send comes before its receive: activations from the last stage on, gradients from the
// first.
struct Placed {
  int slot = 0;
  bool compute = false;
  bool gradient = false;
  int turn = 0;
  Action action;
  auto key() const { return std::tie(slot, compute, gradient, turn); }
};

std::vector<Action> with_messages(const SlotTable& slots, const std::vector<Action>& computes,
                                  int stage, int stages) {
  std::vector<Placed> placed;
  for (const auto& action : computes) {
    const int v = slots.virtual_stage(action, stage);
    const bool backward = action.kind == ActionKind::kBackward;
    const int start = slots.start(action.kind, v, action.micro);
    placed.push_back({start, true, backward, 0, action});

    const int step = backward ? -1 : 1;  // to the virtual stage that uses the result
    const auto message = [&](ActionKind kind, int sender) {
      const int from = sender % stages;
      placed.push_back({slots.start(action.kind, sender + step, action.micro),
                        false,
                        backward,
                        backward ? from : -from,
                        {kind, action.chunk, action.micro}});
    };
    if (v - step >= 0 && v - step < slots.virtual_stages()) {
      message(backward ? ActionKind::kRecvGradient : ActionKind::kRecvActivation, v - step);
    }
    if (v + step >= 0 && v + step < slots.virtual_stages()) {
      message(backward ? ActionKind::kSendGradient : ActionKind::kSendActivation, v);
    }
  }
  // No two keys of a stage are equal: in one slot a stage starts one action and so receives one
  // message, and sends at most one of each kind, to the one stage that can use it.
  std::sort(placed.begin(), placed.end(),
            [](const Placed& a, const Placed& b) { return a.key() < b.key(); });
  std::vector<Action> list;
  list.reserve(placed.size());
  for (const auto& p : placed) list.push_back(p.action);
  return list;
}

// The forwards and backwards of all stages, from which each stage's messages follow.
class Computes {
 public:
  Computes(const ScheduleShape& shape, std::vector<std::vector<Action>> lists)
      : lists_(std::move(lists)), slots_(shape, lists_) {}

  std::vector<Action> of_stage(int stage) const {
    const auto stages = static_cast<int>(lists_.size());
    PG_ASSERT(stage >= 0 && stage < stages, "stage {} of {}", stage, stages);
    return with_messages(slots_, lists_[static_cast<std::size_t>(stage)], stage, stages);
  }
  std::vector<std::vector<Action>> of_all() const {
    std::vector<std::vector<Action>> all;
    for (int stage = 0; stage < static_cast<int>(lists_.size()); ++stage) {
      all.push_back(of_stage(stage));
    }
    return all;
  }

 private:
  std::vector<std::vector<Action>> lists_;
  SlotTable slots_;
};

std::string forward_problem(const ScheduleShape& shape) {
  if (shape.stages < 1 || shape.chunks < 1 || shape.micro_batches < 1) {
    return fmt::format("{} stages, {} chunks and {} micro-batches: each must be at least 1",
                       shape.stages, shape.chunks, shape.micro_batches);
  }
  if (shape.chunks > 1 && shape.stages == 1) {
    return fmt::format("{} chunks a stage need at least 2 stages; with 1 stage, chunks = 1",
                       shape.chunks);
  }
  return {};
}

}  // namespace

std::string schedule_problem(const ScheduleShape& shape) {
  if (auto problem = forward_problem(shape); !problem.empty()) return problem;
  const char* name = schedule_name(shape.kind);
  if (shape.kind != ScheduleKind::kInterleaved) {
    if (shape.chunks == 1) return {};
    return fmt::format("schedule \"{}\" has chunks = 1, not {}; \"interleaved\" has more", name,
                       shape.chunks);
  }
  if (shape.stages < 2) {
    return fmt::format("schedule \"{}\" needs at least 2 stages; with 1, \"1f1b\" or \"gpipe\"",
                       name);
  }
  if (shape.chunks < 2) {
    return fmt::format("schedule \"{}\" needs chunks of at least 2; with 1 it is \"1f1b\"", name);
  }
  if (shape.micro_batches % shape.stages != 0) {
    const int below = shape.micro_batches / shape.stages * shape.stages;
    const int above = below + shape.stages;
    const auto near = below > 0 ? fmt::format("{} or {}", below, above) : fmt::format("{}", above);
    return fmt::format(
        "schedule \"{}\" needs micro-batches that are a multiple of the {} stages, such as {}; "
        "{} are not",
        name, shape.stages, near, shape.micro_batches);
  }
  return {};
}

int warm_up_forwards(const ScheduleShape& shape, int stage) {
  const int total = shape.chunks * shape.micro_batches;
  const int after = shape.stages - 1 - stage;  // stages behind this one
  switch (shape.kind) {
    case ScheduleKind::kGPipe:
      return total;
    case ScheduleKind::k1F1B:
      return std::min(total, after);
    case ScheduleKind::kInterleaved:
      return std::min(total, 2 * after + (shape.chunks - 1) * shape.stages);
  }
  return 0;
}

namespace {

Computes training_computes(const ScheduleShape& shape) {
  const auto problem = schedule_problem(shape);
  PG_ASSERT(problem.empty(), "{}", problem);
  std::vector<std::vector<Action>> lists;
  for (int stage = 0; stage < shape.stages; ++stage) lists.push_back(compute_list(shape, stage));
  return {shape, std::move(lists)};
}

Computes forward_computes(const ScheduleShape& shape) {
  const auto problem = forward_problem(shape);
  PG_ASSERT(problem.empty(), "{}", problem);
  std::vector<Action> forwards;
  for (const auto& work : work_order(shape, /*backward=*/false)) {
    forwards.push_back({ActionKind::kForward, work.chunk, work.micro});
  }
  return {shape, std::vector(static_cast<std::size_t>(shape.stages), forwards)};
}

}  // namespace

std::vector<std::vector<Action>> make_schedules(const ScheduleShape& shape) {
  return training_computes(shape).of_all();
}

std::vector<Action> make_schedule(const ScheduleShape& shape, int stage) {
  return training_computes(shape).of_stage(stage);
}

std::vector<std::vector<Action>> make_forward_schedules(const ScheduleShape& shape) {
  return forward_computes(shape).of_all();
}

std::vector<Action> make_forward_schedule(const ScheduleShape& shape, int stage) {
  return forward_computes(shape).of_stage(stage);
}

std::vector<Action> early_sends(const std::vector<Action>& list) {
  std::vector<Action> early;
  early.reserve(list.size());
  const std::set<Action> all(list.begin(), list.end());
  for (const auto& action : list) {
    if (is_send(action.kind)) continue;
    early.push_back(action);
    const bool forward = action.kind == ActionKind::kForward;
    if (!forward && action.kind != ActionKind::kBackward) continue;
    const Action send{forward ? ActionKind::kSendActivation : ActionKind::kSendGradient,
                      action.chunk, action.micro};
    if (all.contains(send)) early.push_back(send);
  }
  return early;
}

std::optional<Message> message_of(const Action& action, int stage, int stages) {
  if (action.kind == ActionKind::kForward || action.kind == ActionKind::kBackward) return {};
  const bool gradient =
      action.kind == ActionKind::kSendGradient || action.kind == ActionKind::kRecvGradient;
  const int step = gradient ? -1 : 1;
  const int v = action.chunk * stages + stage;
  const int sender = is_send(action.kind) ? v : v - step;
  // The remainder of a virtual stage that does not exist (-1) is no stage either.
  return Message{sender % stages, (sender + step) % stages, gradient, sender, action.micro};
}

bool is_send(ActionKind kind) {
  return kind == ActionKind::kSendActivation || kind == ActionKind::kSendGradient;
}

const char* schedule_name(ScheduleKind kind) {
  switch (kind) {
    case ScheduleKind::kGPipe:
      return "gpipe";
    case ScheduleKind::k1F1B:
      return "1f1b";
    case ScheduleKind::kInterleaved:
      return "interleaved";
  }
  return "";
}

std::string text(const Action& action) {
  const auto name = [&] {
    switch (action.kind) {
      case ActionKind::kForward:
        return "forward";
      case ActionKind::kBackward:
        return "backward";
      case ActionKind::kSendActivation:
        return "sending of the activation";
      case ActionKind::kRecvActivation:
        return "receiving of the activation";
      case ActionKind::kSendGradient:
        return "sending of the gradient";
      case ActionKind::kRecvGradient:
        return "receiving of the gradient";
    }
    return "";
  }();
  return fmt::format("{} of chunk {}, micro-batch {}", name, action.chunk, action.micro);
}

}  // namespace pg::model

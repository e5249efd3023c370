#include "model/pipeline/verify_schedule.h"

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "comm/error.h"

namespace pg::model {

namespace {

using Lists = std::vector<std::vector<Action>>;

constexpr std::array kKinds = {ActionKind::kForward,        ActionKind::kBackward,
                               ActionKind::kSendActivation, ActionKind::kRecvActivation,
                               ActionKind::kSendGradient,   ActionKind::kRecvGradient};

// Whether a virtual stage has actions of this kind at all.
bool has(ActionKind kind, bool first, bool last, Pass pass) {
  const bool training = pass == Pass::kTraining;
  switch (kind) {
    case ActionKind::kForward:
      return true;
    case ActionKind::kBackward:
      return training;
    case ActionKind::kSendActivation:
      return !last;
    case ActionKind::kRecvActivation:
      return !first;
    case ActionKind::kSendGradient:
      return training && !first;
    case ActionKind::kRecvGradient:
      return training && !last;
  }
  return false;
}

// Where each action stands in one stage's list.
class Places {
 public:
  explicit Places(const ScheduleShape& shape)
      : shape_(shape),
        places_(kKinds.size() * static_cast<std::size_t>(shape.chunks * shape.micro_batches),
                kNowhere) {}

  // False when `action` already has a place.
  bool add(const Action& action, int place) {
    auto& slot = places_[index(action)];
    return std::exchange(slot, place) == kNowhere;
  }
  bool contains(const Action& action) const { return places_[index(action)] != kNowhere; }
  // True also when one of the two is not there.
  bool in_order(const Action& a, const Action& b) const {
    return !contains(a) || !contains(b) || places_[index(a)] < places_[index(b)];
  }

 private:
  static constexpr int kNowhere = -1;
  std::size_t index(const Action& a) const {
    const int row = static_cast<int>(a.kind) * shape_.chunks + a.chunk;
    return static_cast<std::size_t>(row) * static_cast<std::size_t>(shape_.micro_batches) +
           static_cast<std::size_t>(a.micro);
  }
  const ScheduleShape& shape_;
  std::vector<int> places_;
};

// Each action that must be there once, none else, and each after what it needs of this stage.
std::string stage_problem(const ScheduleShape& shape, const std::vector<Action>& list, int stage,
                          Pass pass) {
  Places places(shape);
  const int last_virtual = shape.stages * shape.chunks - 1;
  const auto expected = [&](const Action& action) {
    const int v = action.chunk * shape.stages + stage;
    return has(action.kind, v == 0, v == last_virtual, pass);
  };
  for (std::size_t i = 0; i < list.size(); ++i) {
    const auto& action = list[i];
    if (action.chunk < 0 || action.chunk >= shape.chunks || action.micro < 0 ||
        action.micro >= shape.micro_batches || !expected(action)) {
      return fmt::format("stage {}: no {} belongs here", stage, text(action));
    }
    if (!places.add(action, static_cast<int>(i))) {
      return fmt::format("stage {}: {} comes twice", stage, text(action));
    }
  }
  constexpr std::array<std::pair<ActionKind, ActionKind>, 5> kNeeds = {{
      {ActionKind::kRecvActivation, ActionKind::kForward},
      {ActionKind::kForward, ActionKind::kSendActivation},
      {ActionKind::kForward, ActionKind::kBackward},
      {ActionKind::kRecvGradient, ActionKind::kBackward},
      {ActionKind::kBackward, ActionKind::kSendGradient},
  }};
  for (int chunk = 0; chunk < shape.chunks; ++chunk) {
    for (int micro = 0; micro < shape.micro_batches; ++micro) {
      for (const auto kind : kKinds) {
        const Action action{kind, chunk, micro};
        if (expected(action) && !places.contains(action)) {
          return fmt::format("stage {}: {} is missing", stage, text(action));
        }
      }
      for (const auto& [first, second] : kNeeds) {
        if (!places.in_order({first, chunk, micro}, {second, chunk, micro})) {
          return fmt::format("stage {}: {} comes before its {}", stage,
                             text({second, chunk, micro}), text({first, chunk, micro}));
        }
      }
      const Action backward{ActionKind::kBackward, chunk, micro};
      if (micro > 0 && !places.in_order({ActionKind::kBackward, chunk, micro - 1}, backward)) {
        return fmt::format("stage {}: {} comes before that of micro-batch {}", stage,
                           text(backward), micro - 1);
      }
    }
  }
  return {};
}

std::string describe(const Message& message) {
  return fmt::format("the {} of virtual stage {}, micro-batch {}",
                     message.gradient ? "gradient" : "activation", message.sender, message.micro);
}

// The messages from one stage to another must be received in the order in which they are sent.
std::string pair_problem(const ScheduleShape& shape, const Lists& lists) {
  std::map<std::pair<int, int>, std::vector<Message>> sent;
  std::map<std::pair<int, int>, std::vector<Message>> received;
  for (int stage = 0; stage < shape.stages; ++stage) {
    for (const auto& action : lists[static_cast<std::size_t>(stage)]) {
      const auto message = message_of(action, stage, shape.stages);
      if (!message) continue;
      auto& side = is_send(action.kind) ? sent : received;
      side[{message->from, message->to}].push_back(*message);
    }
  }
  // What a virtual stage sends its neighbour receives, so the two sides have the same messages.
  for (const auto& [pair, out] : sent) {
    const auto& in = received[pair];
    const auto [a, b] = std::mismatch(out.begin(), out.end(), in.begin(), in.end());
    if (a == out.end() && b == in.end()) continue;
    return fmt::format("from stage {} to stage {}: message {} is sent as {} and received as {}",
                       pair.first, pair.second, a - out.begin(),
                       a == out.end() ? "nothing" : describe(*a),
                       b == in.end() ? "nothing" : describe(*b));
  }
  return {};
}

// Plays the lists; receives block, and sends too unless they are only posted.
std::string deadlock(const ScheduleShape& shape, const Lists& lists, Sends sends) {
  std::vector<std::size_t> next(lists.size());
  std::set<Message> posted;
  const auto head = [&](int stage) -> const Action* {
    const auto s = static_cast<std::size_t>(stage);
    return next[s] < lists[s].size() ? &lists[s][next[s]] : nullptr;
  };
  // False: the stage must wait. A message that blocks takes both its ends a step on.
  const auto step = [&](const Action& action, int stage) {
    if (const auto message = message_of(action, stage, shape.stages)) {
      if (sends == Sends::kPosted) {
        if (!is_send(action.kind)) return posted.contains(*message);
        posted.insert(*message);
        return true;
      }
      const int peer = is_send(action.kind) ? message->to : message->from;
      const auto* other = head(peer);
      if (!other || message_of(*other, peer, shape.stages) != message) return false;
      ++next[static_cast<std::size_t>(peer)];
    }
    return true;
  };
  bool moved = true;
  while (moved) {
    moved = false;
    for (int stage = 0; stage < shape.stages; ++stage) {
      for (auto* action = head(stage); action && step(*action, stage); action = head(stage)) {
        ++next[static_cast<std::size_t>(stage)];
        moved = true;
      }
    }
  }
  std::string stuck;
  for (int stage = 0; stage < shape.stages; ++stage) {
    if (const auto* action = head(stage)) {
      stuck +=
          fmt::format("{}stage {} waits at {}", stuck.empty() ? "" : "; ", stage, text(*action));
    }
  }
  return stuck.empty() ? stuck : "deadlock: " + stuck;
}

struct LivePeaks {
  std::vector<int> chunks;
  int stage = 0;
};

// Live: from the first action of a (chunk, micro-batch) to its last, its gradient's way out apart.
LivePeaks live_peaks(const std::vector<Action>& list, int chunks) {
  struct Span {
    std::size_t first, last;
  };
  std::map<std::pair<int, int>, Span> spans;
  for (std::size_t i = 0; i < list.size(); ++i) {
    if (list[i].kind == ActionKind::kSendGradient) continue;
    const auto [span, is_new] = spans.try_emplace({list[i].chunk, list[i].micro}, Span{i, i});
    span->second.last = i;
  }
  LivePeaks peaks{std::vector<int>(static_cast<std::size_t>(chunks)), 0};
  std::vector<int> live(static_cast<std::size_t>(chunks));
  int stage = 0;
  for (std::size_t i = 0; i < list.size(); ++i) {
    const auto span = spans.find({list[i].chunk, list[i].micro});
    if (span == spans.end()) continue;
    PG_ASSERT(list[i].chunk >= 0 && list[i].chunk < chunks, "chunk {} of {}", list[i].chunk,
              chunks);
    const auto chunk = static_cast<std::size_t>(list[i].chunk);
    if (span->second.first == i) {
      peaks.chunks[chunk] = std::max(peaks.chunks[chunk], ++live[chunk]);
      peaks.stage = std::max(peaks.stage, ++stage);
    }
    if (span->second.last == i) {
      --live[chunk];
      --stage;
    }
  }
  return peaks;
}

}  // namespace

ScheduleReport verify_schedule(const ScheduleShape& shape, const Lists& lists, Pass pass,
                               Sends sends) {
  PG_ASSERT(shape.chunks >= 1 && shape.stages >= (shape.chunks > 1 ? 2 : 1) &&
                shape.micro_batches >= 1 && lists.size() == static_cast<std::size_t>(shape.stages),
            "{} lists, {} stages, {} chunks, {} micro-batches", lists.size(), shape.stages,
            shape.chunks, shape.micro_batches);
  ScheduleReport report;
  for (int stage = 0; stage < shape.stages && report.error.empty(); ++stage) {
    report.error = stage_problem(shape, lists[static_cast<std::size_t>(stage)], stage, pass);
  }
  if (report.error.empty()) report.error = pair_problem(shape, lists);
  if (report.error.empty()) report.error = deadlock(shape, lists, sends);
  if (!report.error.empty()) return report;
  for (const auto& list : lists) {
    auto peaks = live_peaks(list, shape.chunks);
    report.chunk_peaks.push_back(std::move(peaks.chunks));
    report.stage_peaks.push_back(peaks.stage);
  }
  return report;
}

std::vector<int> live_slots(const std::vector<Action>& list, int chunks) {
  return live_peaks(list, chunks).chunks;
}

int peak_live_bound(const ScheduleShape& shape, int stage) {
  const int p = shape.stages;
  const int m = shape.micro_batches;
  const int v = shape.chunks;
  switch (shape.kind) {
    case ScheduleKind::kGPipe:
      return m;
    case ScheduleKind::k1F1B:
      return std::min(m, p - stage);
    case ScheduleKind::kInterleaved:
      return std::min(v * m, 2 * (p - 1 - stage) + (v - 1) * p + 1);
  }
  return 0;
}

}  // namespace pg::model

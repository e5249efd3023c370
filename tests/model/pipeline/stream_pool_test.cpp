// The executor's buffers on the way between stages: played with every send a rendezvous, nothing
// waits for ever, and no stage runs out of buffers.
#include "model/pipeline/stream_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <set>

namespace pg::model {
namespace {

// As StreamPool chooses: of the closed buffers the one closed longest ago, whose send must be
// complete.
class PlayedPool {
 public:
  explicit PlayedPool(int buffers) : buffers_(static_cast<std::size_t>(buffers)) {}

  enum class Opened { kYes, kMustWait, kNoBuffer };
  Opened open(const std::set<Message>& complete) {
    Buffer* best = nullptr;
    for (auto& b : buffers_) {
      if (!b.is_open && (best == nullptr || b.closed < best->closed)) best = &b;
    }
    if (best == nullptr) return Opened::kNoBuffer;
    if (best->sending && !complete.count(*best->sending)) return Opened::kMustWait;
    best->is_open = true;
    best->sending.reset();
    order_.push_back(best);
    return Opened::kYes;
  }
  void close(std::optional<Message> message) {  // the one opened first
    auto* b = order_.front();
    order_.erase(order_.begin());
    b->is_open = false;
    b->sending = message;
    b->closed = ++clock_;
  }

 private:
  struct Buffer {
    bool is_open = false;
    std::optional<Message> sending;
    long closed = 0;
  };
  std::vector<Buffer> buffers_;
  std::vector<Buffer*> order_;
  long clock_ = 0;
};

struct Stage {
  std::vector<Action> list;
  std::size_t next = 0;
  PlayedPool activations{0}, gradients{0};
};

// Empty when all lists end.
std::string play(const ScheduleShape& shape, const std::vector<std::vector<Action>>& lists,
                 int fewer) {
  std::vector<Stage> stages;
  for (int s = 0; s < shape.stages; ++s) {
    Sharding sharding;
    sharding.pp = shape.stages;
    sharding.stage = s;
    sharding.chunks = shape.chunks;
    const auto& list = lists[static_cast<std::size_t>(s)];
    const auto need = streams_needed(list, sharding);
    stages.push_back({early_sends(list), 0, PlayedPool(std::max(0, need.activations - fewer)),
                      PlayedPool(std::max(0, need.gradients - fewer))});
  }
  std::set<Message> posted, complete;
  using Opened = PlayedPool::Opened;
  for (bool moved = true; moved;) {
    moved = false;
    for (int s = 0; s < shape.stages; ++s) {
      auto& stage = stages[static_cast<std::size_t>(s)];
      while (stage.next < stage.list.size()) {
        const auto& action = stage.list[stage.next];
        const bool first = s == 0 && action.chunk == 0;
        const bool last = s == shape.stages - 1 && action.chunk == shape.chunks - 1;
        const auto message = message_of(action, s, shape.stages);
        auto opened = Opened::kYes;
        switch (action.kind) {
          case ActionKind::kForward:
            if (!last) opened = stage.activations.open(complete);
            break;
          case ActionKind::kRecvGradient:
            if (!posted.count(*message)) opened = Opened::kMustWait;
            if (opened == Opened::kYes) opened = stage.gradients.open(complete);
            break;
          case ActionKind::kRecvActivation:
            if (!posted.count(*message)) opened = Opened::kMustWait;
            break;
          case ActionKind::kBackward:
            if (last && !first) opened = stage.gradients.open(complete);
            break;
          default:
            break;
        }
        if (opened == Opened::kNoBuffer) return "no buffer for " + text(action);
        if (opened == Opened::kMustWait) break;
        switch (action.kind) {
          case ActionKind::kSendActivation:
            posted.insert(*message);
            stage.activations.close(*message);
            break;
          case ActionKind::kSendGradient:
            posted.insert(*message);
            stage.gradients.close(*message);
            break;
          case ActionKind::kBackward:
            if (first && !last) stage.gradients.close({});
            break;
          case ActionKind::kRecvActivation:
          case ActionKind::kRecvGradient:
            complete.insert(*message);
            break;
          default:
            break;
        }
        ++stage.next;
        moved = true;
      }
    }
  }
  for (const auto& stage : stages) {
    if (stage.next < stage.list.size()) return "stuck before " + text(stage.list[stage.next]);
  }
  return {};
}

std::vector<ScheduleShape> shapes() {
  std::vector<ScheduleShape> all;
  for (const auto kind : {ScheduleKind::kGPipe, ScheduleKind::k1F1B, ScheduleKind::kInterleaved}) {
    for (int p = 1; p <= 8; ++p) {
      for (int chunks = 1; chunks <= 4; ++chunks) {
        for (const int m : {1, 2, 3, p, p + 1, 2 * p, 4 * p}) {
          const ScheduleShape shape{kind, p, chunks, m};
          if (schedule_problem(shape).empty()) all.push_back(shape);
        }
      }
    }
  }
  return all;
}

TEST(StreamPool, rendezvous_sends_never_leave_a_stage_without_a_buffer) {
  ASSERT_GT(shapes().size(), 150U);
  for (const auto& shape : shapes()) {
    EXPECT_EQ(play(shape, make_schedules(shape), 0), "")
        << schedule_name(shape.kind) << " p " << shape.stages << " chunks " << shape.chunks << " m "
        << shape.micro_batches;
  }
}

// Validation runs in the buffers and slots that training has.
TEST(StreamPool, validation_needs_no_more_than_training) {
  for (const auto& shape : shapes()) {
    for (const int count : {1, 2, shape.micro_batches}) {
      auto forward = shape;
      forward.micro_batches = count;
      for (int s = 0; s < shape.stages; ++s) {
        Sharding sharding;
        sharding.pp = shape.stages;
        sharding.stage = s;
        sharding.chunks = shape.chunks;
        const auto training = streams_needed(make_schedule(shape, s), sharding);
        const auto validation = streams_needed(make_forward_schedule(forward, s), sharding);
        EXPECT_LE(validation.activations, training.activations)
            << schedule_name(shape.kind) << " p " << shape.stages << " stage " << s;
        EXPECT_EQ(validation.gradients, 0);
      }
    }
  }
}

TEST(StreamPoolControl, too_few_buffers_are_found) {
  int found = 0;
  for (const auto& shape : shapes()) {
    if (shape.stages > 1) found += play(shape, make_schedules(shape), 2).empty() ? 0 : 1;
  }
  EXPECT_GT(found, 100);
}

}  // namespace
}  // namespace pg::model

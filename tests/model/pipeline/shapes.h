// The shapes that the pipeline tests go through, and short ways to write schedules down.
#pragma once

#include <string>
#include <vector>

#include "model/pipeline/schedule.h"

namespace pg::model {

// All legal shapes of 1 to 8 stages, 1 to 4 chunks, and micro-batches from 1 to several rounds.
inline std::vector<ScheduleShape> legal_shapes() {
  std::vector<ScheduleShape> shapes;
  for (const auto kind : {ScheduleKind::kGPipe, ScheduleKind::k1F1B, ScheduleKind::kInterleaved}) {
    for (int stages = 1; stages <= 8; ++stages) {
      for (int chunks = 1; chunks <= 4; ++chunks) {
        for (const int micro_batches : {1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 14, 16, 20, 24}) {
          const ScheduleShape shape{kind, stages, chunks, micro_batches};
          if (schedule_problem(shape).empty()) shapes.push_back(shape);
        }
      }
    }
  }
  return shapes;
}

// The lists for an executor whose sends do not block.
inline std::vector<std::vector<Action>> with_early_sends(std::vector<std::vector<Action>> lists) {
  for (auto& list : lists) list = early_sends(list);
  return lists;
}

inline std::string text(const ScheduleShape& shape) {
  return std::string(schedule_name(shape.kind)) + " p" + std::to_string(shape.stages) + " v" +
         std::to_string(shape.chunks) + " m" + std::to_string(shape.micro_batches);
}

// "F0 a0> B0": forward, backward, and messages of activations (a) and gradients (g), > sent and <
// received; with more than one chunk the chunk follows after a dot.
inline std::string text(const std::vector<Action>& list, bool chunks = false) {
  std::string all;
  for (const auto& action : list) {
    const auto kind = action.kind;
    const bool compute = kind == ActionKind::kForward || kind == ActionKind::kBackward;
    const bool gradient = kind == ActionKind::kSendGradient || kind == ActionKind::kRecvGradient;
    if (!all.empty()) all += ' ';
    all += compute ? (kind == ActionKind::kForward ? 'F' : 'B') : (gradient ? 'g' : 'a');
    all += std::to_string(action.micro);
    if (chunks) all += "." + std::to_string(action.chunk);
    if (!compute) all += is_send(kind) ? '>' : '<';
  }
  return all;
}

}  // namespace pg::model

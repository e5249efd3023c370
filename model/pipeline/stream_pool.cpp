#include "model/pipeline/stream_pool.h"

#include <algorithm>

namespace pg::model {

StreamsNeeded streams_needed(const std::vector<Action>& list, const Sharding& sharding) {
  StreamsNeeded peak;
  int activations = 0, gradients = 0;
  const auto last = [&](int chunk) {
    return sharding.stage == sharding.pp - 1 && chunk == sharding.chunks - 1;
  };
  const auto first = [&](int chunk) { return sharding.stage == 0 && chunk == 0; };
  for (const auto& action : list) {
    switch (action.kind) {
      case ActionKind::kForward:
        if (!last(action.chunk)) peak.activations = std::max(peak.activations, ++activations + 1);
        break;
      case ActionKind::kSendActivation:
        --activations;
        break;
      case ActionKind::kRecvGradient:
        peak.gradients = std::max(peak.gradients, ++gradients + 1);
        break;
      case ActionKind::kBackward:
        if (first(action.chunk) && !last(action.chunk)) --gradients;
        if (last(action.chunk) && !first(action.chunk)) {
          peak.gradients = std::max(peak.gradients, ++gradients + 1);
        }
        break;
      case ActionKind::kSendGradient:
        --gradients;
        break;
      case ActionKind::kRecvActivation:
        break;
    }
  }
  return peak;
}

}  // namespace pg::model

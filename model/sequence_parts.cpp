#include "model/sequence_parts.h"

#include "comm/error.h"

namespace pg::model {

const char* context_method_name(ContextMethod method) {
  switch (method) {
    case ContextMethod::kRing:
      return "ring";
    case ContextMethod::kUlysses:
      return "ulysses";
    case ContextMethod::kAllGather:
      return "allgather";
  }
  return "?";
}

std::vector<SequenceRun> sequence_runs(ContextMethod method, int cp, int rank, std::int64_t seq) {
  PG_ASSERT(cp >= 1 && rank >= 0 && rank < cp, "rank {} of {}", rank, cp);
  if (cp == 1) return {{0, seq, 0}};
  if (method == ContextMethod::kUlysses) {
    PG_ASSERT(seq % cp == 0, "{} positions over {} ranks", seq, cp);
    const auto length = seq / cp;
    return {{rank * length, length, 0}};
  }
  PG_ASSERT(seq % (2 * cp) == 0, "{} positions over {} ranks", seq, cp);
  const auto half = seq / (2 * cp);
  return {{rank * half, half, 0}, {(2 * cp - 1 - rank) * half, half, half}};
}

}  // namespace pg::model

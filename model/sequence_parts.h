// Which positions of a sequence each context-parallel rank holds: pure arithmetic. The loader, the
// attention layers and the routers read the same runs.
//
// Causal attention gives later positions more to do. `ring` and `allgather` cut a sequence into 2
// cp chunks and give rank r the r-th and the r-th from the end (zigzag: Llama 3, 2024), so that all
// do the same; `ulysses` attends to whole sequences and needs one run a rank.
#pragma once

#include <cstdint>
#include <vector>

namespace pg::model {

enum class ContextMethod {
  kRing,       // keys and values are passed around (Liu et al. 2023)
  kUlysses,    // from parts of the sequence to parts of the heads and back (Jacobs et al. 2023)
  kAllGather,  // keys and values of the whole sequence on every rank (Llama 3, 2024)
};

const char* context_method_name(ContextMethod method);  // as decks write it

// Positions [begin, begin + length) of a sequence, at rows [row, row + length) of the rank's part.
struct SequenceRun {
  std::int64_t begin = 0, length = 0, row = 0;
  std::int64_t end() const { return begin + length; }
  bool operator==(const SequenceRun&) const = default;
};

// The runs of rank `rank` in ascending order, together seq / cp positions. Ring and allgather need
// seq % (2 cp) = 0, ulysses seq % cp = 0.
std::vector<SequenceRun> sequence_runs(ContextMethod method, int cp, int rank, std::int64_t seq);

}  // namespace pg::model

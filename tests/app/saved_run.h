// A tiny run in two halves on two grids, with a checkpoint between: what the tests of resuming on
// another grid share. All functions are collective over MPI_COMM_WORLD.
#pragma once

#include "tests/parity/matrix.h"

namespace pg::testing {

inline constexpr std::int64_t kStepsBefore = 3;  // of the checkpoint
// And behind it. Rounding errors of k losses are compared in bf16: their root mean square has a
// relative spread of 1 / sqrt(2 k), the quotient of two of 1 / sqrt(k), and a bound of 1.5 on it
// needs that well below one half.
constexpr std::int64_t steps_after(DType type) {
  return type == DType::kBF16 ? 20 : 5;
}

void wait_for_all();
// The first ranks of the world as one communicator; empty on the others.
comm::Communicator first_ranks(int ranks);

// What is zeroed on one rank right after the load: its part of the first tensor whose name begins
// with `prefix`.
struct Damage {
  enum class What { kNothing, kWeights, kFirstMoment, kSecondMoment } what = What::kNothing;
  int rank = 0;
  const char* prefix = "";
};

// One half. Ranks outside its grid get an empty one.
struct Half {
  std::map<std::string, std::vector<double>> state;  // harness logical_state, at the checkpoint
  std::vector<double> losses;                        // of the steps behind it
  std::filesystem::path entry;
};

// Trains kStepsBefore steps, or loads `from` instead; saves below `folder`, which is emptied;
// trains steps_after the checkpoint.
Half run_half(const app::Deck& deck, int ranks, const std::filesystem::path& folder,
              const std::filesystem::path& from = {}, const Damage& damage = {});

// Short ways to write a grid down.
MatrixCase on(Style style, int dp, int tp, int pp, int zero);
MatrixCase interleaved(MatrixCase on);
MatrixCase gpipe(MatrixCase on);
MatrixCase sp(MatrixCase on);
MatrixCase recomputed(MatrixCase on, model::Recompute mode, std::int64_t layers = 0);

}  // namespace pg::testing

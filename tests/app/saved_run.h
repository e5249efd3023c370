// A tiny run in two halves on two grids, with a checkpoint between: what the tests of resuming on
// another grid share. All functions are collective over MPI_COMM_WORLD.
#pragma once

#include "tests/parity/axes.h"

namespace pg::testing {

inline constexpr std::int64_t kStepsBefore = 3;  // of the checkpoint
// And behind it. Rounding errors of k losses are compared in bf16: their root mean square has a
// relative spread of 1 / sqrt(2 k), the quotient of two of 1 / sqrt(k), and a bound of 1.5 on it
// needs that well below one half.
constexpr std::int64_t steps_after(DType type) {
  return type == DType::kBF16 ? 20 : 5;
}

bool root();
void wait_for_all();
// The first ranks of the world as one communicator; empty on the others.
comm::Communicator first_ranks(int ranks);

// What is zeroed on one rank right after the load: its part of the first tensor whose name begins
// with `prefix`; or the first block's router biases.
struct Damage {
  enum class What {
    kNothing,
    kWeights,
    kFirstMoment,
    kSecondMoment,
    kRouterBias
  } what = What::kNothing;
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

// A run that is saved on one grid and goes on on another.
struct Move {
  const char* name;
  DType type;
  MatrixCase from, to;
};
// Its halves, in folders of this program.
Half save_on(const MatrixCase& from, const std::filesystem::path& tokens, DType type);
Half load_on(const MatrixCase& to, const std::filesystem::path& tokens, DType type,
             const Damage& damage = {});
// Both halves; rank 0, which is on every grid, expects that the load left every tensor its bits,
// that the second grid saves the same file, and losses within `loss_bound`, relative. The new
// grid's losses.
std::vector<double> expect_same_run(const Move& move, const std::filesystem::path& tokens,
                                    double loss_bound);

// The first tensor that is not the same in every element; the file's bytes tell signs of zeros.
std::string difference(const Half& a, const Half& b);
double worst_loss(const Half& half, const Half& reference);

// Short ways to write a grid down.
MatrixCase on(Style style, int dp, int tp, int pp, int zero);
MatrixCase interleaved(MatrixCase on);
MatrixCase gpipe(MatrixCase on);
MatrixCase sp(MatrixCase on);
MatrixCase recomputed(MatrixCase on, model::Recompute mode, std::int64_t layers = 0);

}  // namespace pg::testing

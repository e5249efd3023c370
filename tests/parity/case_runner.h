// Runs cases of the matrix against one rank and says how far apart they were: what the programs of
// the matrix share.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "matrix.h"

namespace pg::testing {

// Derived in parity_test.cpp.
inline constexpr ParityBounds kFp64{1e-9, 1e-6, 1e-9, 1e-9};
inline constexpr ParityBounds kFp32{1e-5, 1e-3, 2e-4};

bool root();

class CaseRunner {
 public:
  // Token files named after `name`, made now. Collective over MPI_COMM_WORLD, as all that follows.
  explicit CaseRunner(const std::string& name, std::int64_t steps = 10);

  // Where the grids compute from now on, "cpu" or "cuda"; references are the CPU's.
  void set_device(const std::string& device) { device_ = device; }
  std::int64_t steps() const { return steps_; }
  // One document, or many of one to ten tokens where the case masks them.
  const std::filesystem::path& tokens(const MatrixCase& c) const;
  app::Deck deck(const MatrixCase& c, DType type = DType::kF64) const;
  // One rank's trace of the case's model, made once.
  const Trace& reference(const MatrixCase& c, DType type = DType::kF64);
  ParityResult compare(const MatrixCase& c, const model::Sabotage& sabotage = {});

  // Expects fp64 parity of each; prints their number, seconds and the worst deviations, and every
  // case's with PG_MATRIX_VERBOSE in the environment.
  void expect_parity(const std::vector<MatrixCase>& cases);
  // The same in fp32, of losses and of gradients above a floor.
  void expect_parity_in_fp32(const std::vector<MatrixCase>& cases);
  // bf16's own rounding is far above any reassociation; so errors are compared: the grid's distance
  // from fp64 is at most 1.5 times one rank's. The errors of one run's losses go together, as its
  // weights drift, so a run is hardly more than one sample of the losses' error: root mean squares
  // over 12 seeds, whose quotient spreads by about 1 / sqrt(12) = 0.3 at the most. (A gradient has
  // thousands of elements.)
  void expect_as_close_in_bf16(const std::vector<MatrixCase>& cases);

 private:
  std::int64_t steps_;
  std::string device_ = "cpu";
  std::filesystem::path tokens_, documents_;
  std::map<std::string, Trace> references_;
};

// Expects fp64 parity of one case, with what is off in the message.
void expect_within(const ParityResult& result, const std::string& name);

// A case whose model no list has: its deck is changed, and its reference made for it alone.
struct Edge {
  const char* name;
  MatrixCase on;
  std::function<void(app::Deck&)> change;
};
void expect_parity_at(const std::vector<Edge>& edges, const CaseRunner& runner);

// A sum that a grid adds, or an order it keeps, broken on purpose.
struct Control {
  const char* name;
  MatrixCase on;
  model::Sabotage sabotage;
};
// Expects parity without the sabotage and deviations of 1000 times the bounds with it.
void expect_found(const std::vector<Control>& controls, CaseRunner& runner);

}  // namespace pg::testing

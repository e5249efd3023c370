// What `verify` compares and prints: deviations of the grid from one rank, by layer and by step,
// beside the bound. Pure arithmetic and formatting; rank 0 alone has the values.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "app/deck.h"
#include "app/verify_cut.h"
#include "comm/grid_shape.h"
#include "model/param_table.h"

namespace pg::app {

// The bound on every relative deviation, of fp64 runs. A grid only reassociates sums: a gradient is
// a sum of n <= 1e7 products and terms and moves by about sqrt(n) eps < 1e-12 (random walk, eps =
// 2^-53). AdamW divides by the root of the second moment, which makes noise of size lr * noise /
// eps_adam of the noise in near-zero gradients, and later steps build on it: 1e-9 leaves three
// digits for that, and is far below what any wrong or missing term does.
inline constexpr double kVerifyBound = 1e-9;
// Of the largest parameter's gradient norm. A gradient below is cancellation (that of a key bias is
// 0 in exact arithmetic): its deviation is relative to this floor.
inline constexpr double kGradientFloor = 1e-6;

struct LayerDeviation {
  std::string layer;      // "embedding", "block 3", "final norm, head"
  double norm = 0;        // Frobenius, of the gradient of all its parameters, on one rank
  double deviation = 0;   // relative Frobenius |grid - one| / |one|, all its parameters together
  double worst = 0;       // the same of one parameter
  std::string parameter;  // which
};

struct StepDeviation {
  double loss = 0, loss_of_one = 0;  // nats per token
  double deviation = 0;              // relative
  double norm_deviation = 0;         // of the gradient norm that clipping uses, relative
};

// |grid - one| / max(|one|, floor), Frobenius; infinite when the difference is not finite.
double relative_deviation(std::span<const double> grid, std::span<const double> one, double floor);
double frobenius(std::span<const double> x);

// Gathers the parameters of each layer, in the order of the network.
class LayerDeviations {
 public:
  // `largest`: the norm of the largest parameter's gradient on one rank.
  LayerDeviations(const model::ModelConfig& config, double largest);
  // Both hold the whole logical gradient of `spec`.
  void add(const model::ParamSpec& spec, std::span<const double> grid, std::span<const double> one);
  std::vector<LayerDeviation> layers() const;

 private:
  std::size_t layer_of(std::int64_t place) const;

  std::int64_t blocks_;
  double floor_;
  std::vector<LayerDeviation> layers_;
  std::vector<double> difference_squares_, squares_;
};

struct VerifyResult {
  std::vector<LayerDeviation> layers;  // gradients of the first step
  std::vector<StepDeviation> steps;

  // What is over the bound and by how much, the worst layer named; empty when nothing is.
  std::string problem() const;
};

// What is about to be compared.
std::string verify_header(const Deck& asked, const VerifyDeck& run, const comm::GridShape& grid);
// The two tables, and a last line when everything is within the bound.
std::string verify_tables(const VerifyResult& result);

}  // namespace pg::app

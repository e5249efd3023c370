#include "app/verify_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "app/console.h"
#include "comm/error.h"
#include "model/flops.h"

namespace pg::app {

namespace {

// Minutes on a core, in fp64: from here on the header says what makes a step shorter.
constexpr double kLongStep = 1e12;

double squares(std::span<const double> x) {
  double sum = 0;
  for (const double value : x) sum += value * value;
  return sum;
}

double difference_squares(std::span<const double> a, std::span<const double> b) {
  PG_ASSERT(a.size() == b.size(), "{} elements on the grid, {} on one rank", a.size(), b.size());
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
  return sum;
}

double ratio(double difference, double of, double floor) {
  if (difference == 0) return 0;
  if (!std::isfinite(difference)) return INFINITY;
  return difference / std::max(of, floor);
}

bool within(double deviation) {
  return deviation <= kVerifyBound;
}

bool within(const LayerDeviation& d) {
  return within(d.deviation) && within(d.worst);
}

bool within(const StepDeviation& d) {
  return within(d.deviation) && within(d.norm_deviation);
}

double largest(const LayerDeviation& d) {
  return std::max(d.deviation, d.worst);
}

const LayerDeviation& worst_layer(const VerifyResult& result) {
  return *std::max_element(result.layers.begin(), result.layers.end(),
                           [](auto& a, auto& b) { return largest(a) < largest(b); });
}

std::string row(const char* label, const std::string& text) {
  return fmt::format("  {:<12} {}\n", label, text);
}

std::string flops_text(double flops) {
  return flops < 1e12 ? fmt::format("{:.3g} GFLOP", flops / 1e9)
                      : fmt::format("{:.3g} TFLOP", flops / 1e12);
}

std::string recompute_text(const RecomputeSection& r) {
  const char* mode = r.mode == model::Recompute::kSelective ? "selective" : "full";
  return r.layers == 0 ? std::string(mode)
                       : fmt::format("{}, in the first {} layers", mode, r.layers);
}

}  // namespace

double frobenius(std::span<const double> x) {
  return std::sqrt(squares(x));
}

double relative_deviation(std::span<const double> grid, std::span<const double> one, double floor) {
  return ratio(std::sqrt(difference_squares(grid, one)), frobenius(one), floor);
}

LayerDeviations::LayerDeviations(const model::ModelConfig& config, double largest)
    : blocks_(config.layers), floor_(kGradientFloor * largest) {
  const auto layers = static_cast<std::size_t>(blocks_ + 2);
  layers_.resize(layers);
  squares_.resize(layers);
  difference_squares_.resize(layers);
  // A tied table's gradient has the head's part in it.
  layers_.front().layer = config.tie_embeddings ? "embedding, head" : "embedding";
  for (std::int64_t i = 0; i < blocks_; ++i) {
    layers_[static_cast<std::size_t>(i + 1)].layer = fmt::format("block {}", i);
  }
  layers_.back().layer = config.tie_embeddings ? "final norm" : "final norm, head";
}

std::size_t LayerDeviations::layer_of(std::int64_t place) const {
  // The table's places: tokens, the blocks, the head; behind them learned positions, and the
  // experts of each block.
  if (place <= blocks_ + 1) return static_cast<std::size_t>(place);
  return static_cast<std::size_t>(std::max<std::int64_t>(place - (blocks_ + 2), 0));
}

void LayerDeviations::add(const model::ParamSpec& spec, std::span<const double> grid,
                          std::span<const double> one) {
  const auto at = layer_of(spec.place);
  auto& layer = layers_[at];
  squares_[at] += squares(one);
  difference_squares_[at] += difference_squares(grid, one);
  layer.norm = std::sqrt(squares_[at]);
  layer.deviation = ratio(std::sqrt(difference_squares_[at]), layer.norm, floor_);
  const auto deviation = relative_deviation(grid, one, floor_);
  if (layer.parameter.empty() || deviation > layer.worst) {
    layer.worst = deviation;
    layer.parameter = spec.name;
  }
}

std::vector<LayerDeviation> LayerDeviations::layers() const {
  return layers_;
}

std::string VerifyResult::problem() const {
  const auto& layer = worst_layer(*this);
  if (!within(layer)) {
    return fmt::format(
        "the gradient of {} deviates by {:.1e} from one rank's, of {} by {:.1e}; the bound is "
        "{:.0e}",
        layer.layer, layer.deviation, layer.parameter, layer.worst, kVerifyBound);
  }
  for (std::size_t i = 0; i < steps.size(); ++i) {
    if (within(steps[i])) continue;
    return fmt::format(
        "the loss of step {} deviates by {:.1e} from one rank's, the gradient norm by {:.1e}; the "
        "bound is {:.0e}",
        i + 1, steps[i].deviation, steps[i].norm_deviation, kVerifyBound);
  }
  return "";
}

std::string verify_header(const Deck& asked, const VerifyDeck& run, const comm::GridShape& grid) {
  const auto& d = run.deck;
  const auto size = [](std::int64_t bytes) { return bytes_text(static_cast<double>(bytes)); };
  auto text = fmt::format("pentagrid verify: {}\n", d.run.name);
  text += row("grid", grid_text(d, grid));
  if (d.grid.pp > 1) text += row("pipeline", pipeline_text(d));
  if (d.model.moe.experts > 0) text += row("experts", experts_text(d.model));
  if (d.recompute.mode != model::Recompute::kNone) {
    text += row("recompute", recompute_text(d.recompute));
  }
  text += row("against",
              "rank 0 alone: the same deck and fresh weights, a grid of 1, nothing recomputed");
  const auto precision = dtype_name(asked.run.precision);
  text += row("precision", asked.run.precision == DType::kF64
                               ? std::string("fp64")
                               : fmt::format("fp64 on both sides; the deck's own {} is not what is "
                                             "compared",
                                             precision));
  for (const auto& cut : run.cuts) text += row("cut", cut);
  const auto tokens = d.train.global_batch * d.train.seq;
  const double flops =
      model::model_flops_per_token(d.model, d.train.seq) * static_cast<double>(tokens);
  text += row("step",
              fmt::format("{} layers, {} sequences of {} tokens: {} for rank 0 alone",
                          d.model.layers, d.train.global_batch, d.train.seq, flops_text(flops)));
  if (flops > kLongStep) {
    text += row("hint", "model.layers=N or train.seq=N after the deck makes this shorter");
  }
  text += row("memory", fmt::format("{} on one host, where {} may be used", size(run.needed),
                                    size(run.usable)));
  return text;
}

std::string verify_tables(const VerifyResult& result) {
  std::size_t wide = 0;
  for (const auto& d : result.layers) wide = std::max(wide, d.parameter.size());
  auto text = fmt::format("\n{:<18}{:>10}{:>11}{:>9}   {:<{}}{:>11}\n", "gradient of", "norm",
                          "deviation", "bound", "worst parameter", wide, "deviation");
  for (const auto& d : result.layers) {
    text += fmt::format("{:<18}{:>10.3e}{:>11.1e}{:>9.0e}   {:<{}}{:>11.1e}{}\n", d.layer, d.norm,
                        d.deviation, kVerifyBound, d.parameter, wide, d.worst,
                        within(d) ? "" : "  OVER");
  }
  text += fmt::format("\n{:<6}{:>20}{:>20}{:>11}{:>15}{:>9}\n", "step", "loss on the grid",
                      "on one rank", "deviation", "gradient norm", "bound");
  double worst_loss = 0;
  for (std::size_t i = 0; i < result.steps.size(); ++i) {
    const auto& d = result.steps[i];
    text += fmt::format("{:<6}{:>20.15g}{:>20.15g}{:>11.1e}{:>15.1e}{:>9.0e}{}\n", i + 1, d.loss,
                        d.loss_of_one, d.deviation, d.norm_deviation, kVerifyBound,
                        within(d) ? "" : "  OVER");
    worst_loss = std::max({worst_loss, d.deviation, d.norm_deviation});
  }
  if (result.problem().empty()) {
    const auto& worst = worst_layer(result);
    text += fmt::format(
        "\nthe grid computes what one rank does: gradients to {:.1e} (worst: {}), losses and norms "
        "to {:.1e}; bound {:.0e}\n",
        largest(worst), worst.layer, worst_loss, kVerifyBound);
  }
  return text;
}

}  // namespace pg::app

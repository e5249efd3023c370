#include "app/check.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "app/console.h"
#include "app/memory_plan.h"
#include "app/parallel_plan.h"
#include "app/ranks_in_use.h"
#include "model/pipeline/simulate.h"

namespace pg::app {
namespace {

std::string byte_line(const char* what, std::int64_t bytes, const char* note = "") {
  constexpr double kMiB = 1 << 20;
  return fmt::format("#   {:<14}{:>22}  {:>12.1f} MiB{}\n", what, count_text(bytes),
                     static_cast<double>(bytes) / kMiB, note);
}

// The layers of each stage, and how long the stages would wait for each other if a block took the
// time of its FLOP and a backward that of two forwards, without messages.
std::string stages_text(const Deck& deck, const comm::GridShape& grid) {
  const int stages = grid.size(comm::Axis::kPP);
  const auto options = pipeline_options(deck, grid);
  const model::ScheduleShape shape{options.schedule, stages, static_cast<int>(deck.pipeline.chunks),
                                   options.micro_batches};
  const auto costs = model::layer_costs(deck.model, deck.train.seq);
  const auto parts = model::split_layers(deck.model.layers, stages, shape.chunks, costs);
  model::PipelineCosts times;
  std::string layers;
  for (const auto& part : parts) {
    const double work = model::part_cost(part, costs);
    times.forward.push_back(work / 3.0);
    times.backward.push_back(work / 1.5);
    layers += fmt::format("{}{}", layers.empty() ? "" : " ", part.layers);
  }
  std::vector<std::vector<model::Action>> lists;
  for (const auto& list : model::make_schedules(shape)) lists.push_back(model::early_sends(list));
  return fmt::format(
      "# stages  {} layers; {}: {:.1f} % of the time idle, {:.1f} % if all stages were equal\n",
      layers, model::schedule_name(shape.kind),
      100.0 * model::simulate(shape, lists, times).idle_share(),
      100.0 * model::ideal_idle_share(shape));
}

}  // namespace

std::string check_report(const Deck& deck, int ranks) {
  const int in_use = ranks_in_use(deck, ranks);
  const auto grid = grid_of(deck, in_use);
  const auto stages = plan_stages(deck, grid);
  const auto largest = largest_stage(stages);
  const auto& plan = stages[largest];
  const auto& train = deck.train;
  const auto batch_ranks = grid.size(comm::kBatch);
  std::string out = deck.resolved;
  out += fmt::format("\n# grid    {} = {} ranks\n", axes_text(deck, grid), in_use);
  if (in_use < ranks) {
    out += fmt::format("# idle    {} of {} ranks: no larger dp fits global_batch and ranks\n",
                       ranks - in_use, ranks);
  }
  out += fmt::format("# model   {}\n", parameters_text(deck.model, plan.parameters));
  if (deck.model.moe.experts > 0) out += fmt::format("# experts {}\n", experts_text(deck.model));
  out += fmt::format(
      "# batch   {} sequences = {} ranks x {} micro-batches x {}; {} tokens a step\n",
      train.global_batch, batch_ranks, train.global_batch / (batch_ranks * train.micro_batch),
      train.micro_batch, count_text(train.global_batch * train.seq));
  if (stages.size() > 1) out += stages_text(deck, grid);
  out += fmt::format("# bytes{} per rank", deck.run.device == "cuda" ? " of GPU memory" : "");
  out += stages.size() == 1 ? std::string("\n")
                            : fmt::format(", pipeline stage {} of {}, which needs the most\n",
                                          largest, stages.size());
  out += byte_line("weights", plan.weights);
  out += byte_line("gradients", plan.gradients);
  out += byte_line("master weights", plan.master);
  out += byte_line("moments", plan.moments);
  if (plan.slots > 0) out += byte_line("places in use", plan.slots);
  out += byte_line("activations", plan.activations);
  out += byte_line("packed copies", plan.packed);
  if (plan.communication > 0) out += byte_line("communication", plan.communication);
  if (plan.workspace > 0) out += byte_line("workspaces", plan.workspace);
  if (plan.saving > 0) out += byte_line("async save", plan.saving);
  if (plan.activations_most == plan.activations) return out + byte_line("total", plan.total);
  out += byte_line("total", plan.total, "  if all experts are asked for alike");
  out += byte_line("at the most", plan.total_most(), "  if all tokens ask for one rank's experts");
  return out;
}

std::vector<std::string> missing_files(const Deck& deck) {
  std::vector<std::string> out;
  const auto look = [&](const char* key, const std::string& path) {
    std::error_code ignored;
    if (path.empty() || std::filesystem::exists(path, ignored)) return;
    out.push_back(
        fmt::format("{}: {} does not exist yet; `pentagrid prepare` makes it", key, path));
  };
  look("data.train", deck.data.train);
  look("data.valid", deck.data.valid);
  return out;
}

int least_ranks(const Deck& deck) {
  const auto& grid = deck.grid;
  const auto dp = std::max<std::int64_t>(grid.dp, 1);
  return static_cast<int>(dp * grid.tp * grid.pp * grid.ep * grid.cp);
}

}  // namespace pg::app

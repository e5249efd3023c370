#include "app/console.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <map>

#include "app/expert_checks.h"
#include "model/flops.h"

namespace pg::app {

namespace {

// One "label   text" row of the banner.
std::string row(const std::string& label, const std::string& text) {
  return fmt::format("  {:<12} {}\n", label, text);
}

std::string hosts_text(std::vector<std::string> hosts) {
  const auto ranks = hosts.size();
  std::sort(hosts.begin(), hosts.end());
  std::string text = fmt::format("{} rank{} on", ranks, ranks == 1 ? "" : "s");
  for (std::size_t i = 0; i < ranks;) {
    const auto next = static_cast<std::size_t>(
        std::upper_bound(hosts.begin(), hosts.end(), hosts[i]) - hosts.begin());
    text += fmt::format("{} {} ({})", i == 0 ? "" : ",", hosts[i], next - i);
    i = next;
  }
  return text;
}

struct RankGpu {
  std::string ordinal, name, driver;

  explicit RankGpu(const std::string& line) {
    const auto first = line.find('|'), last = line.rfind('|');
    ordinal = line.substr(0, first);
    name = line.substr(first + 1, last - first - 1);
    driver = line.substr(last + 1);
  }
};

// What there is, and on which GPU of its host each rank is: of a few hosts.
std::string gpus_rows(const Banner& b) {
  constexpr std::size_t kHosts = 4;
  std::map<std::string, int> kinds;
  std::map<std::string, std::string> places;  // by host
  for (std::size_t rank = 0; rank < b.gpus.size(); ++rank) {
    const RankGpu gpu(b.gpus[rank]);
    ++kinds[fmt::format("{} (driver for CUDA {})", gpu.name, gpu.driver)];
    auto& there = places[b.hosts[rank]];
    there += fmt::format("{}rank {} on GPU {}", there.empty() ? "" : ", ", rank, gpu.ordinal);
  }
  std::string all;
  for (const auto& [kind, ranks] : kinds) {
    all +=
        fmt::format("{}{}: {} rank{}", all.empty() ? "" : ", ", kind, ranks, ranks == 1 ? "" : "s");
  }
  auto text = row("gpus", all);
  std::size_t shown = 0;
  for (const auto& [host, there] : places) {
    if (shown++ == kHosts) {
      text += row("", fmt::format("and {} more hosts", places.size() - kHosts));
      break;
    }
    text += row("", fmt::format("{}: {}", host, there));
  }
  if (!b.transport.empty()) text += row("messages", b.transport);
  if (!b.attention.empty()) text += row("attention", b.attention);
  return text;
}

std::string model_text(const model::ModelConfig& m) {
  const auto ffn = has_dense_blocks(m) ? fmt::format("ffn {}, ", m.ffn) : std::string();
  return fmt::format("{} layers, hidden {}, {} heads ({} kv) of {}, {}vocab {}; {}, {}, {}{}",
                     m.layers, m.hidden, m.heads, m.kv_heads, m.head_dim, ffn, m.vocab,
                     m.norm == model::NormKind::kRmsNorm ? "rmsnorm" : "layernorm",
                     m.activation == model::Activation::kSwiGlu ? "swiglu" : "gelu",
                     m.position == model::PositionKind::kRope ? "rope" : "learned positions",
                     m.tie_embeddings ? ", tied" : "");
}

}  // namespace

std::string gpu_line(const comm::GpuInfo& gpu) {
  return fmt::format("{}|{}|{}", gpu.ordinal, gpu.name, gpu.driver);
}

std::string bytes_text(double bytes) {
  constexpr std::array kUnits{"B", "KiB", "MiB", "GiB", "TiB"};
  std::size_t unit = 0;
  while (bytes >= 1024.0 && unit + 1 < kUnits.size()) {
    bytes /= 1024.0;
    ++unit;
  }
  return fmt::format("{:.{}f} {}", bytes, unit == 0 ? 0 : 1, kUnits[unit]);
}

std::string count_text(std::int64_t count) {
  auto digits = std::to_string(count);
  for (auto at = static_cast<std::int64_t>(digits.size()) - 3; at > (count < 0 ? 1 : 0); at -= 3) {
    digits.insert(static_cast<std::size_t>(at), ",");
  }
  return digits;
}

std::string axes_text(const Deck& deck, const comm::GridShape& grid) {
  if (deck.grid.cp == 1) return grid.text();
  return fmt::format("{} ({})", grid.text(), model::context_method_name(deck.context.method));
}

std::string grid_text(const Deck& deck, const comm::GridShape& grid) {
  const bool sequence = deck.grid.sequence_parallel && deck.grid.tp > 1;
  return fmt::format("{}, zero {}{}", axes_text(deck, grid), deck.grid.zero,
                     sequence ? ", sequence parallel" : "");
}

std::string experts_text(const model::ModelConfig& model) {
  const auto& moe = model.moe;
  if (moe.experts == 0) return "";
  auto text = fmt::format("{} experts of {}, ", moe.experts, moe.ffn);
  switch (moe.router) {
    case model::RouterKind::kTopK:
      text += fmt::format("top {} a token{}", moe.top_k, moe.renormalize ? ", renormalized" : "");
      break;
    case model::RouterKind::kSwitch:
      text += "switch to 1 a token";
      break;
    case model::RouterKind::kExpertChoice:
      text += fmt::format("expert choice, {} a token on average", moe.top_k);
      break;
  }
  if (moe.shared_experts > 0) text += fmt::format(", {} shared", moe.shared_experts);
  if (moe.capacity_factor > 0) text += fmt::format(", capacity factor {}", moe.capacity_factor);
  if (moe.every == 1) return text + "; every block";
  return text + fmt::format("; 1 block in {}", moe.every);
}

std::string parameters_text(const model::ModelConfig& model, std::int64_t parameters) {
  const auto all = count_text(parameters) + " parameters";
  if (model.moe.experts == 0) return all;
  return fmt::format("{}, {} of them active a token", all,
                     count_text(model::active_parameters(model)));
}

std::string pipeline_text(const Deck& deck) {
  return fmt::format("{}, {} chunk{} a stage", model::schedule_name(deck.pipeline.schedule),
                     deck.pipeline.chunks, deck.pipeline.chunks == 1 ? "" : "s");
}

std::string banner_text(const Banner& b) {
  const auto& d = b.deck;
  const auto stages = plan_stages(d, b.grid);
  const auto& memory = stages[largest_stage(stages)];
  const auto size = [](std::int64_t bytes) { return bytes_text(static_cast<double>(bytes)); };
  const auto step_tokens = d.train.global_batch * d.train.seq;
  const auto round = b.grid.size(comm::kBatch) * d.train.micro_batch;

  std::string text = fmt::format("pentagrid: {}\n", d.run.name);
  text += row("grid", grid_text(d, b.grid));
  if (d.grid.pp > 1) text += row("pipeline", pipeline_text(d));
  text += row("hosts", fmt::format("{}, {} thread{} each", hosts_text(b.hosts), b.threads,
                                   b.threads == 1 ? "" : "s"));
  if (!b.gpus.empty()) text += gpus_rows(b);
  if (!b.no_gpu.empty()) text += row("gpus", "none: " + b.no_gpu);
  if (!b.idle.empty()) {
    text += row("idle", fmt::format("{} of {} ranks: {}", b.idle.size(),
                                    b.idle.size() + b.hosts.size(), fmt::join(b.idle, ", ")));
  }
  if (!b.tensor_ranks_share_host) {
    text += row("warning", "a tp group spans hosts: its messages cross the network in every layer");
  }
  text += row("model", model_text(d.model));
  if (d.model.moe.experts > 0) text += row("experts", experts_text(d.model));
  text += row("", fmt::format("{}, {}", parameters_text(d.model, memory.parameters),
                              dtype_name(d.run.precision)));
  text += row("memory",
              fmt::format("{} a rank{}: weights {}, gradients {}, master {}, moments {},",
                          size(memory.total), stages.size() > 1 ? " of the largest stage" : "",
                          size(memory.weights), size(memory.gradients), size(memory.master),
                          size(memory.moments)));
  text +=
      row("", fmt::format("places in use {}, activations {}, packed copies {}, communication {}{}",
                          size(memory.slots), size(memory.activations), size(memory.packed),
                          size(memory.communication),
                          memory.workspace > 0 ? ", workspaces " + size(memory.workspace)
                          : memory.saving > 0  ? ", async save " + size(memory.saving)
                                               : ""));
  if (memory.activations_most > memory.activations) {
    text += row("", fmt::format("{} when all tokens ask for the experts of one rank",
                                size(memory.total_most())));
  }
  text += row("data", fmt::format("{}: {} tokens, {} samples of {}{}", d.data.train,
                                  count_text(b.train_tokens), count_text(b.samples), d.train.seq,
                                  d.data.mask_documents ? ", documents masked" : ""));
  text += row("step", fmt::format("{} sequences = {} tokens, micro-batches of {} x {} a rank",
                                  d.train.global_batch, count_text(step_tokens),
                                  d.train.micro_batch, d.train.global_batch / round));
  if (b.matmul_flops > 0) {
    text +=
        row("products", fmt::format("{:.1f} GFLOP/s measured on all ranks: mfu is relative to it",
                                    b.matmul_flops * 1e-9));
  }
  text += row("output", d.run.output);
  if (!b.resumed_from.empty()) {
    text += row("resumed", fmt::format("step {} from {}", b.resumed_step, b.resumed_from));
  }
  return text;
}

std::string step_text(const StepLine& line) {
  const auto& r = line.result;
  const auto width = std::to_string(line.steps).size();
  const auto mfu = line.mfu > 0 ? fmt::format("{:5.1f} %", 100.0 * line.mfu) : "      -";
  const auto rate = static_cast<double>(r.tokens) / std::max(r.seconds, 1e-12);
  return fmt::format(
      "step {:>{}}/{} | loss {:8.5f} | lr {:.2e} | norm {:8.4f} | {:7.1f} ms | {:>9} tok/s | mfu "
      "{} "
      "| {}",
      r.step, width, line.steps, r.loss, r.lr, r.grad_norm, 1e3 * r.seconds,
      count_text(static_cast<std::int64_t>(rate)), mfu,
      bytes_text(static_cast<double>(line.peak_bytes)));
}

}  // namespace pg::app

// What pipeline schedules cost when stages are as unequal as a real split makes them: forward and
// backward of every virtual stage are timed on one rank, the stream's transfer between two, and
// model/pipeline/simulate.h plays the schedules with these times. A small model, once with a large
// vocabulary, so that the head counts.
//
//   mpirun -n 2 build/tests/bench_pipeline > tests/bench/PIPELINE.md
//
// Rank 0 computes alone; rank 1 is there for the transfers. The lists are those that the executor
// runs (early_sends).
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <ctime>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "comm/mpi_session.h"
#include "comm/random.h"
#include "model/model_chunk.h"
#include "model/pipeline/pipeline.h"
#include "model/pipeline/simulate.h"

namespace {

using namespace pg;
using Clock = std::chrono::steady_clock;

constexpr int kStages = 4;
constexpr std::int64_t kSequences = 2, kSeq = 256;
constexpr int kRounds = 15;
// One whose head is as dear as two blocks, and one where it hardly counts.
constexpr std::int64_t kVocabularies[] = {8192, 512};

model::ModelConfig bench_model(std::int64_t vocab) {
  model::ModelConfig c;
  c.layers = 12;
  c.hidden = 256;
  c.heads = c.kv_heads = 4;
  c.head_dim = 64;
  c.ffn = 1024;
  c.vocab = vocab;
  c.max_seq = kSeq;
  c.norm = model::NormKind::kLayerNorm;
  c.activation = model::Activation::kGelu;
  c.position = model::PositionKind::kLearned;
  c.bias = true;
  return c;
}

double median(std::vector<double> x) {
  std::sort(x.begin(), x.end());
  return x[x.size() / 2];
}

// Of this thread, which computes alone: what else the machine does hardly counts.
template <class Work>
double processor_seconds(Work work) {
  const auto now = [] {
    timespec t{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
  };
  const double begin = now();
  work();
  return now() - begin;
}

// Token ids, positions and targets of one micro-batch of made-up text.
struct Batch {
  std::vector<std::int32_t> tokens, positions, targets;
  std::vector<std::int64_t> samples;

  explicit Batch(std::int64_t vocab) {
    const auto key = comm::random_key(1, "bench/pipeline");
    for (std::int64_t i = 0; i < kSequences * kSeq; ++i) {
      const auto bits = comm::random_bits(key, 0, static_cast<std::uint64_t>(i));
      const auto ids = static_cast<std::uint64_t>(vocab);
      tokens.push_back(static_cast<std::int32_t>(bits % ids));
      targets.push_back(static_cast<std::int32_t>(bits / ids % ids));
      positions.push_back(static_cast<std::int32_t>(i % kSeq));
    }
    for (std::int64_t b = 0; b < kSequences; ++b) samples.push_back(b);
  }
  model::MicroBatch view() {
    const auto ids = [](std::vector<std::int32_t>& x) {
      return model::TensorView(x.data(), DType::kI32, {static_cast<std::int64_t>(x.size())});
    };
    return {kSequences, kSeq, ids(tokens), ids(positions), ids(targets), samples};
  }
};

// One virtual stage with parameters and memory of its own, as the stage's rank would hold it.
class VirtualStage {
 public:
  VirtualStage(const model::ModelConfig& config, int virtual_stages, int index,
               const model::StagePart& part, model::Kernels& kernels, Batch& batch)
      : config_(config),
        kernels_(kernels),
        batch_(batch.view()),
        cut_(cut(virtual_stages, index)),
        group_(comm::make_self_group("tp")),
        tensor_(cut_, *group_),
        params_(model::ParamLayout(config, cut_, {part}), DType::kBF16),
        chunk_(config, params_.layout(), part, {}),
        bytes_(model::activation_bytes(config, params_.layout(), DType::kBF16,
                                       {.recompute = {}, .sequences = kSequences, .seq = kSeq})),
        keep_(static_cast<std::size_t>(bytes_.slot[0])),
        scratch_(static_cast<std::size_t>(bytes_.scratch)),
        again_(static_cast<std::size_t>(bytes_.recompute)),
        streams_(3 * stream_bytes(), model::Buffer::Kind::kReal) {
    params_.initialise(/*seed=*/1);
    for (int i = 0; i < 2; ++i) {  // the stream in, and the gradient of the stream out
      const auto key = comm::random_key(static_cast<std::uint64_t>(i), "bench/stream");
      auto* x = stream(i).data<bf16>();
      for (std::int64_t e = 0; e < stream(i).elements(); ++e) {
        x[e] = bf16(static_cast<float>(comm::random_normal(key, static_cast<std::uint64_t>(e))));
      }
    }
  }

  struct Times {
    std::vector<double> forward, backward;
  };
  // One micro-batch; the gradients go on adding up.
  void run(Times& times) {
    keep_.release(0);
    const model::LayerContext ctx{kernels_, keep_,   scratch_, config_,
                                  params_,  tensor_, batch_,   /*seed=*/1};
    model::ModelChunk::Saved saved;
    times.forward.push_back(processor_seconds([&] {
      chunk_.forward(ctx, again_, saved, stream(0), stream(2),
                     1.0 / static_cast<double>(kSequences * kSeq), use_);
    }));
    const auto dr = chunk_.head() ? saved.dr : stream(2);
    if (!chunk_.head()) kernels_.copy(dr, stream(1));
    times.backward.push_back(
        processor_seconds([&] { chunk_.backward(ctx, again_, saved, dr, use_); }));
  }

 private:
  static model::Sharding cut(int virtual_stages, int index) {
    model::Sharding s;
    s.pp = virtual_stages;  // a stage of its own: only its part of the model is allocated
    s.stage = index;
    return s;
  }
  std::size_t stream_bytes() const {
    return static_cast<std::size_t>(kSequences * kSeq * config_.hidden) * sizeof(bf16);
  }
  model::TensorView stream(int i) const {
    return {streams_.at(static_cast<std::size_t>(i) * stream_bytes()),
            DType::kBF16,
            {kSequences * kSeq, config_.hidden}};
  }

  model::ModelConfig config_;
  model::Kernels& kernels_;
  model::MicroBatch batch_;
  model::Sharding cut_;
  std::unique_ptr<comm::Group> group_;
  model::TensorParallel tensor_;
  model::ParamStore params_;
  model::ModelChunk chunk_;
  model::ActivationBytes bytes_;
  model::Arena keep_, scratch_, again_;
  model::Buffer streams_;
  model::PlaceUse use_;
};

struct Split {
  std::string name;
  int chunks = 1;
  std::vector<model::StagePart> parts;
  model::PipelineCosts costs = {};
};

std::vector<Split> splits_of(const model::ModelConfig& config) {
  const auto costs = model::layer_costs(config, kSeq);
  std::vector<Split> splits;
  for (int chunks = 1; chunks <= 3; ++chunks) {
    splits.push_back({fmt::format("{} chunk{} a stage", chunks, chunks == 1 ? "" : "s"), chunks,
                      model::split_layers(config.layers, kStages, chunks, costs)});
  }
  return splits;
}

// Rounds over all virtual stages of all splits, so that all see the same machine; medians.
void measure(std::vector<Split>& splits, const model::ModelConfig& config,
             model::Kernels& kernels) {
  Batch batch(config.vocab);
  std::vector<std::vector<std::unique_ptr<VirtualStage>>> stages(splits.size());
  std::vector<std::vector<VirtualStage::Times>> times(splits.size());
  for (std::size_t i = 0; i < splits.size(); ++i) {
    const auto& parts = splits[i].parts;
    times[i].resize(parts.size());
    for (std::size_t v = 0; v < parts.size(); ++v) {
      stages[i].push_back(std::make_unique<VirtualStage>(
          config, static_cast<int>(parts.size()), static_cast<int>(v), parts[v], kernels, batch));
      VirtualStage::Times first;  // makes the products' code, packs weights, touches the pages
      stages[i].back()->run(first);
    }
  }
  for (int round = 0; round < kRounds; ++round) {
    for (std::size_t i = 0; i < splits.size(); ++i) {
      for (std::size_t v = 0; v < stages[i].size(); ++v) stages[i][v]->run(times[i][v]);
    }
  }
  for (std::size_t i = 0; i < splits.size(); ++i) {
    for (const auto& t : times[i]) {
      splits[i].costs.forward.push_back(median(t.forward));
      splits[i].costs.backward.push_back(median(t.backward));
    }
  }
}

// Half of a round trip of the stream between two ranks of this host.
double measure_transfer(comm::Group& world, std::size_t elements) {
  std::vector<bf16> stream(elements);
  const comm::BufferView view{stream.data(), elements, DType::kBF16};
  const int other = 1 - world.rank();
  std::vector<double> times;
  for (int i = 0; i < 200; ++i) {
    const auto begin = Clock::now();
    if (world.rank() == 0) world.send(view, other, 0).wait();
    world.recv(view, other, 0).wait();
    if (world.rank() == 1) world.send(view, other, 0).wait();
    times.push_back(0.5 * std::chrono::duration<double>(Clock::now() - begin).count());
  }
  return median(times);
}

double sum(const std::vector<double>& x) {
  double all = 0.0;
  for (const double value : x) all += value;
  return all;
}

void print_split(const Split& split) {
  fmt::print(
      "\n{}:\n\n| virtual stage | layers | forward, ms | backward, ms |\n|---|---|---|---|\n",
      split.name);
  for (std::size_t v = 0; v < split.parts.size(); ++v) {
    const auto& part = split.parts[v];
    fmt::print("| {} | {}{}{} | {:.2f} | {:.2f} |\n", v, part.embeds ? "embeddings, " : "",
               part.layers, part.head ? ", head" : "", 1e3 * split.costs.forward[v],
               1e3 * split.costs.backward[v]);
  }
}

void print_row(const model::ScheduleShape& shape, const Split& split, double transfer,
               double& baseline) {
  std::vector<std::vector<model::Action>> lists;
  for (const auto& list : model::make_schedules(shape)) lists.push_back(model::early_sends(list));
  auto costs = split.costs;
  const auto free = model::simulate(shape, lists, costs);
  costs.transfer = transfer;
  const auto timing = model::simulate(shape, lists, costs);
  // With ever more micro-batches the busiest stage never waits, and the others wait for it.
  const auto busiest = *std::max_element(timing.busy.begin(), timing.busy.end());
  const double unequal = 1.0 - sum(timing.busy) / (kStages * busiest);
  if (shape.kind == model::ScheduleKind::k1F1B) baseline = timing.makespan;
  fmt::print("| {} | {} | {} | {:.1f} % | {:.1f} % | {:.1f} % | {:.1f} % | {:.1f} | {} |\n",
             model::schedule_name(shape.kind), split.name, shape.micro_batches,
             100.0 * model::ideal_idle_share(shape), 100.0 * unequal, 100.0 * free.idle_share(),
             100.0 * timing.idle_share(), 1e3 * timing.makespan,
             baseline > 0.0 ? fmt::format("{:.3f}", timing.makespan / baseline) : "");
}

std::string processor() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  }
  return "an unnamed processor";
}

// The head's cost in blocks, and what runs take it for when they split the layers.
void print_head(const model::ModelConfig& config, const Split& split) {
  const auto both = [&](std::size_t v) { return split.costs.forward[v] + split.costs.backward[v]; };
  const auto& parts = split.parts;
  const auto last = parts.size() - 1;
  const double block = both(1) / static_cast<double>(parts[1].layers);
  const double head = both(last) / block - static_cast<double>(parts[last].layers);
  const auto counted = model::layer_costs(config, kSeq);
  fmt::print("\nThe head takes {:.2f} blocks' time; layer_costs counts {:.2f}.\n", head,
             counted.head / counted.block);
}

void print_table(const std::vector<Split>& splits, double transfer) {
  fmt::print(
      "\n| schedule | split | micro-batches | formula | unequal | simulated | with transfers | "
      "makespan, ms | of 1f1b's |\n|---|---|---|---|---|---|---|---|---|\n");
  using model::ScheduleKind;
  for (const int m : {8, 32}) {
    double baseline = 0.0;
    print_row({ScheduleKind::k1F1B, kStages, 1, m}, splits[0], transfer, baseline);
    print_row({ScheduleKind::kGPipe, kStages, 1, m}, splits[0], transfer, baseline);
    for (std::size_t i = 1; i < splits.size(); ++i) {
      print_row({ScheduleKind::kInterleaved, kStages, splits[i].chunks, m}, splits[i], transfer,
                baseline);
    }
  }
}

void report(double transfer) {
  const auto kernels = model::make_cpu_kernels(1);
  const auto first = bench_model(kVocabularies[0]);
  fmt::print(
      "# Pipeline schedules with measured stages\n\n"
      "{} layers, hidden {}, bf16, micro-batches of {} x {} tokens, {} pipeline stages, one "
      "thread\n"
      "a stage; medians of {} rounds of processor time on {} cores of {}.\n"
      "A stream of {} KiB takes {:.0f} us between two ranks of the host.\n\n"
      "Made by `mpirun -n 2 build/tests/bench_pipeline`. Times of one virtual stage are measured\n"
      "with its weights packed; the schedules are played by model/pipeline/simulate, as the\n"
      "executor runs them (early_sends), not run on {} ranks. Idle shares of all stages' time:\n\n"
      "- formula: (p-1) / (v m + p-1), for equal stages and free messages;\n"
      "- unequal: what remains with ever more micro-batches, since all wait for the busiest "
      "stage;\n"
      "- simulated: measured stages, without and with the transfer's time; makespan with it.\n\n"
      "The head's backward belongs to its forward (its logits are never kept), so the last\n"
      "stage's forward may be the dearer one.\n",
      first.layers, first.hidden, kSequences, kSeq, kStages, kRounds,
      std::thread::hardware_concurrency(), processor(), kSequences * kSeq * first.hidden * 2 / 1024,
      1e6 * transfer, kStages);
  for (const auto vocab : kVocabularies) {
    const auto config = bench_model(vocab);
    auto splits = splits_of(config);
    measure(splits, config, *kernels);
    fmt::print("\n## Vocabulary of {}\n", vocab);
    print_head(config, splits[0]);
    print_table(splits, transfer);
    for (const auto& split : splits) print_split(split);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const comm::MpiSession mpi(argc, argv);
  const auto world = comm::make_mpi_group(comm::Communicator::world(), "bench");
  if (world->size() != 2) {
    fmt::print(stderr, "bench_pipeline: needs 2 ranks, not {}\n", world->size());
    return 2;
  }
  const auto stream = kSequences * kSeq * bench_model(kVocabularies[0]).hidden;
  const double transfer = measure_transfer(*world, static_cast<std::size_t>(stream));
  if (world->rank() == 0) report(transfer);
  world->barrier();
  return 0;
}

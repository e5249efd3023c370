// The speed of training on one GPU beside the rate of a large product, in one process.
//
//   build/tests/bench_gpu_training [--steps N] [--out FILE] [--tiny] CASE
//   build/tests/bench_gpu_training --list | --floors
//
// A case is one of the decks in inputs/, with the largest micro-batch that fits, or as many of its
// layers as fit: planned, and when the GPU refuses, less. One case a process, since a peak is a
// maximum over its life. Tokens are made up, as frequent as words are; a step is one micro-batch
// and an update. Exits 1 when a workspace grew after the first step.
#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <optional>

#include "app/console.h"
#include "app/matmul_rate.h"
#include "app/memory_plan.h"
#include "app/parallel_plan.h"
#include "app/schema.h"
#include "app/trainer.h"
#include "bench/gpu_bench.h"
#include "bench/operands.h"
#include "comm/gpu.h"
#include "comm/mpi_session.h"
#include "io/token_file.h"
#include "model/flops.h"

namespace {

using namespace pg;
using Clock = std::chrono::steady_clock;

struct Case {
  const char *name, *title, *deck;
  std::int64_t seq, most_sequences;
  const char* recompute;
  const char* planned_with;  // the recomputation that decides how many layers there are
  bool fewer_layers;         // what gives way when memory is short: layers, or sequences
};
constexpr Case kCases[] = {
    {"gpt2_124m", "GPT-2 124M", "gpt2_124m.toml", 1024, 64, "none", "none", false},
    {"gpt2_1.5b", "GPT-2 1.5B", "gpt2_1.5b.toml", 1024, 32, "none", "none", false},
    {"llama3_8b_selective", "Llama 3 8B", "llama3_8b.toml", 8192, 1, "selective", "selective",
     true},
    {"llama3_8b_full", "Llama 3 8B", "llama3_8b.toml", 8192, 1, "full", "selective", true},
};

struct Size {
  std::int64_t layers = 0, sequences = 0;
};

class Decks {
 public:
  Decks(const Case& c, bool tiny, const std::string& tokens) : case_(c), tiny_(tiny) {
    tokens_ = tokens.empty() ? "none.h5" : tokens;
    // Where a built program was carried to, its sources may lie elsewhere: the current folder.
    const auto here = std::filesystem::path("inputs") / c.deck;
    path_ = std::filesystem::exists(here) ? here.string()
                                          : std::string(PG_SOURCE_DIR) + "/inputs/" + c.deck;
    whole_ = read({0, 1}, c.recompute).model.layers;
  }

  app::Deck of(Size size) const { return read(size, case_.recompute); }
  std::int64_t most_sequences() const { return tiny_ ? 2 : case_.most_sequences; }

  // From the largest that is planned to fit on down. Nineteen twentieths of the memory: the rest is
  // for CUDA, its libraries and what products are timed in.
  std::vector<Size> fitting(std::int64_t memory) const {
    std::vector<Size> sizes;
    if (case_.fewer_layers) {
      for (auto layers = whole_; layers >= 1; --layers) sizes.push_back({layers, most_sequences()});
    } else {
      for (auto n = most_sequences(); n >= 1; n /= 2) sizes.push_back({whole_, n});
    }
    std::erase_if(sizes, [&](Size size) {
      return plan(read(size, case_.planned_with)).total > memory / 20 * 19;
    });
    return sizes;
  }

  static app::MemoryPlan plan(const app::Deck& deck) {
    return app::plan_memory(deck, app::grid_of(deck, 1), {});
  }

 private:
  app::Deck read(Size size, const char* recompute) const {
    std::vector<std::string> words{"data.train=" + tokens_,
                                   "run.device=cuda",
                                   "run.precision=bf16",
                                   "grid.zero=0",
                                   fmt::format("recompute.mode={}", recompute),
                                   fmt::format("train.seq={}", tiny_ ? 32 : case_.seq),
                                   fmt::format("train.global_batch={}", size.sequences),
                                   fmt::format("train.micro_batch={}", size.sequences)};
    if (size.layers > 0) words.push_back(fmt::format("model.layers={}", size.layers));
    if (tiny_) {
      const bool grouped = std::string(case_.deck).starts_with("llama");
      words.insert(words.end(), {"model.hidden=64", "model.heads=4", "model.head_dim=16",
                                 fmt::format("model.kv_heads={}", grouped ? 2 : 4), "model.ffn=96",
                                 "model.vocab=211", "model.max_seq=32"});
      if (size.layers == 0) words.push_back("model.layers=2");
    }
    auto deck = app::read_deck(nullptr, path_, words, app::Purpose::kTrain, 1);
    deck.data.valid.clear();
    return deck;
  }

  const Case& case_;
  bool tiny_;
  std::string tokens_, path_;
  std::int64_t whole_ = 0;
};

// A file of ids as frequent as words are.
class MadeUpTokens {
 public:
  MadeUpTokens(std::int64_t tokens, std::int64_t vocab)
      : path_(std::filesystem::temp_directory_path() /
              fmt::format("pentagrid_bench_{}.h5", getpid())) {
    io::TokenFileWriter writer(path_, vocab, "bytes", "made up for a benchmark");
    writer.add_document(bench::word_ids(tokens, vocab));
    writer.finish();
  }
  MadeUpTokens(const MadeUpTokens&) = delete;
  MadeUpTokens& operator=(const MadeUpTokens&) = delete;
  ~MadeUpTokens() {
    std::error_code ignored;
    std::filesystem::remove(path_, ignored);
  }
  std::string path() const { return path_.string(); }

 private:
  std::filesystem::path path_;
};

struct Measured {
  std::vector<double> seconds;  // of each step after the warm-up
  std::int64_t peak = 0, grown = 0;
  double loss = 0;
};

Measured train(const app::Deck& deck, comm::Gpu& gpu, std::int64_t steps) {
  constexpr int kWarmUp = 3;
  const auto before = comm::gpu_allocated_bytes(), earlier_peak = comm::gpu_peak_bytes();
  const auto world = comm::Communicator::self();
  comm::ProcessGrid grid(world, app::grid_of(deck, 1), &gpu);
  app::Trainer trainer(deck, grid);
  trainer.step();  // chooses the products' algorithms, makes workspaces
  const auto after_first = comm::gpu_allocated_bytes();
  for (int i = 1; i < kWarmUp; ++i) trainer.step();
  gpu.synchronize();

  // From return to return: a step returns once its loss is known, while its update still runs.
  Measured m;
  auto last = Clock::now();
  for (std::int64_t i = 0; i < steps; ++i) {
    m.loss = trainer.step().loss;
    if (i + 1 == steps) gpu.synchronize();
    const auto now = Clock::now();
    m.seconds.push_back(std::chrono::duration<double>(now - last).count());
    last = now;
  }
  m.grown = comm::gpu_allocated_bytes() - after_first;
  // An earlier try that was refused may have come further.
  const auto peak = comm::gpu_peak_bytes();
  m.peak = (peak > earlier_peak ? peak : comm::gpu_allocated_bytes()) - before;
  return m;
}

double product_rate(comm::Gpu& gpu) {
  const auto kernels = model::make_cuda_kernels(gpu);
  return app::measure_matmul_rate(*kernels, DType::kBF16);
}

int run_case(const Case& c, const bench::Arguments& arguments) {
  if (const auto missing = comm::gpu_missing(); !missing.empty()) {
    throw fail(ExitCode::kDeck, "no GPU: {}", missing);
  }
  comm::Gpu gpu(0);
  const auto vocab = Decks(c, arguments.tiny, {}).of({0, 1}).model.vocab;
  const MadeUpTokens tokens(arguments.tiny ? 5'000 : 2'000'000, vocab);
  const Decks decks(c, arguments.tiny, tokens.path());

  const double rate_before = product_rate(gpu);
  constexpr std::size_t kTries = 4;
  auto sizes = decks.fitting(gpu.info().bytes);
  if (sizes.empty()) throw fail(ExitCode::kDeck, "{} does not fit on {}", c.name, gpu.info().name);
  if (sizes.size() > kTries) sizes.resize(kTries);
  std::optional<Measured> measured;
  Size size;
  for (std::size_t i = 0; i < sizes.size() && !measured; ++i) {
    size = sizes[i];
    try {
      measured = train(decks.of(size), gpu, arguments.steps);
    } catch (const Error& error) {
      const bool memory = std::string(error.what()).find("out of GPU memory") != std::string::npos;
      if (!memory || i + 1 == sizes.size()) throw;
      fmt::print(stderr, "{}: {} layers, {} sequences: {}\n", c.name, size.layers, size.sequences,
                 error.what());
    }
  }
  const double rate = std::max(rate_before, product_rate(gpu));

  const auto deck = decks.of(size);
  const auto plan = Decks::plan(deck);
  const auto& m = *measured;
  const double step = bench::median(m.seconds);
  const auto tokens_a_step = static_cast<double>(size.sequences * deck.train.seq);
  const double flops = model::model_flops_per_token(deck.model, deck.train.seq) * tokens_a_step;
  fmt::print(
      "{:<20} {:<10} {} layers, {} x {}, recompute {}: {:.0f} tokens/s, {:.1f} TFLOP/s, "
      "{:.1f} % of the product's {:.1f}, {:.1f} % of {:.0f}; step {:.1f} ms ({:.1f} to "
      "{:.1f}), peak {} of {} planned, grown by {} after the first step, loss {:.3f}\n",
      c.name, "pentagrid", size.layers, size.sequences, deck.train.seq, c.recompute,
      tokens_a_step / step, flops / step * 1e-12, 100 * flops / step / rate, rate * 1e-12,
      100 * flops / step / bench::kCards[0].flops, bench::kCards[0].flops * 1e-12, step * 1e3,
      bench::least(m.seconds) * 1e3, bench::most(m.seconds) * 1e3,
      app::bytes_text(static_cast<double>(m.peak)),
      app::bytes_text(static_cast<double>(plan.total)), m.grown, m.loss);
  const auto& model = deck.model;
  bench::JsonLine()
      .text("bench", "training")
      .text("program", "pentagrid")
      .text("case", c.name)
      .text("title", c.title)
      .text("gpu", gpu.info().name)
      .text("family", model.norm == model::NormKind::kRmsNorm ? "llama" : "gpt2")
      .count("layers", size.layers)
      .count("hidden", model.hidden)
      .count("heads", model.heads)
      .count("kv_heads", model.kv_heads)
      .count("head_dim", model.head_dim)
      .count("ffn", model.ffn)
      .count("vocab", model.vocab)
      .number("rope_theta", model.rope_theta)
      .count("parameters", plan.parameters)
      .count("micro_batch", size.sequences)
      .count("seq", deck.train.seq)
      .text("recompute", c.recompute)
      .number("tokens_per_s", tokens_a_step / step)
      .number("step_s", step)
      .number("step_least_s", bench::least(m.seconds))
      .number("step_most_s", bench::most(m.seconds))
      .count("steps", arguments.steps)
      .number("flops_a_token", flops / tokens_a_step)
      .number("model_flops", flops / step)
      .number("product_flops", rate)
      .count("peak_bytes", m.peak)
      .count("planned_bytes", plan.total)
      .count("grown_bytes", m.grown)
      .number("loss", m.loss)
      .append_to(arguments.out);
  return m.grown == 0 ? 0 : 1;
}

// What a step takes at the least by the data sheets: its arithmetic, and then AdamW's 30 bytes a
// parameter, since no weight may change before the norm of all gradients is known.
void print_floors(bool tiny) {
  fmt::print(
      "| case | card | layers | batch | parameters | model FLOP | FLOP, ms | update, GB | update, "
      "ms "
      "| step at least, ms | tokens/s at most |\n|---|---|---|---|---|---|---|---|---|---|---|\n");
  for (const auto& c : kCases) {
    const Decks decks(c, tiny, {});
    for (const auto& card : bench::kCards) {
      const auto sizes = decks.fitting(card.memory);
      if (sizes.empty()) continue;
      const auto deck = decks.of(sizes[0]);
      const auto tokens = static_cast<double>(deck.train.global_batch * deck.train.seq);
      const auto parameters = static_cast<double>(Decks::plan(deck).parameters);
      const double flops = model::model_flops_per_token(deck.model, deck.train.seq) * tokens;
      const double bytes = 30 * parameters;
      const double products = flops / card.flops, update = bytes / card.bytes;
      fmt::print(
          "| {}, recompute {} | {} | {} | {} x {} | {:.2f}e9 | {:.1f}e12 | {:.1f} | {:.1f} | "
          "{:.1f} | {:.1f} | {} |\n",
          c.title, c.recompute, card.name, deck.model.layers, deck.train.global_batch,
          deck.train.seq, parameters * 1e-9, flops * 1e-12, products * 1e3, bytes * 1e-9,
          update * 1e3, (products + update) * 1e3,
          app::count_text(static_cast<std::int64_t>(tokens / (products + update))));
    }
  }
}

int run(int argc, char** argv) {
  const auto arguments = bench::read_arguments(argc, argv);
  if (arguments.floors) {
    print_floors(arguments.tiny);
    return 0;
  }
  if (arguments.list) {
    for (const auto& c : kCases) fmt::print("{}\n", c.name);
    return 0;
  }
  if (arguments.names.size() != 1) throw fail(ExitCode::kDeck, "one case (--list shows them)");
  for (const auto& c : kCases) {
    if (arguments.names[0] == c.name) return run_case(c, arguments);
  }
  throw fail(ExitCode::kDeck, "{} is no case (--list shows them)", arguments.names[0]);
}

}  // namespace

int main(int argc, char** argv) {
  const comm::MpiSession mpi(argc, argv);
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    fmt::print(stderr, "bench_gpu_training: {}\n", error.what());
    comm::abort_job(1);
  }
}

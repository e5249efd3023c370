// The speed of training beside the speed of the machine, in one run: the rate of oneDNN's bf16
// product (1024 x 3072 x 768) and of GPT-2 124M at 4 sequences of 256, and the bytes used beside
// those planned.
//
//   build/tests/bench_training [steps]
//
// Product and steps take turns, so that both see the same machine: shared ones change by the
// minute. The ratio uses medians; "6N" counts six FLOP a parameter and token and no attention.
#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstdlib>
#include <thread>
#include <vector>

#include "app/console.h"
#include "app/matmul_rate.h"
#include "app/memory_plan.h"
#include "app/schema.h"
#include "app/trainer.h"
#include "comm/mpi_session.h"
#include "harness/tiny_run.h"
#include "model/flops.h"

namespace {

constexpr double kFloor = 0.43;  // of the product's rate; raised as the program gets faster

double median(std::vector<double> x) {
  std::sort(x.begin(), x.end());
  return x.size() % 2 == 1 ? x[x.size() / 2] : 0.5 * (x[x.size() / 2 - 1] + x[x.size() / 2]);
}

std::int64_t peak_rss() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::int64_t>(usage.ru_maxrss) * 1024;
}

}  // namespace

int main(int argc, char** argv) {
  using namespace pg;
  const comm::MpiSession mpi(argc, argv);
  const std::int64_t steps = argc > 1 ? std::atol(argv[1]) : 8;

  const auto world = comm::Communicator::self();
  const auto tokens = testing::make_tokens(world, "bench", 200'000, 50257, 1);
  auto deck = app::read_deck(nullptr, std::string(PG_SOURCE_DIR) + "/inputs/gpt2_124m.toml",
                             {"data.train=" + tokens.string(), "train.steps=1000", "train.seq=256",
                              "train.global_batch=4", "train.micro_batch=4", "run.precision=bf16"},
                             app::Purpose::kTrain, 1);
  if (deck.run.threads == 0) deck.run.threads = std::thread::hardware_concurrency();
  deck.data.valid.clear();

  const auto before = peak_rss();
  comm::ProcessGrid grid(world, app::grid_of(deck, 1));
  app::Trainer trainer(deck, grid);
  const auto plan = app::plan_memory(deck, grid.shape(), grid.coord());
  trainer.step();  // touches every page, makes every product's code

  std::vector<double> product, seconds;
  for (std::int64_t i = 0; i < steps; ++i) {
    product.push_back(app::measure_matmul_rate(trainer.kernels(), deck.run.precision));
    seconds.push_back(trainer.step().seconds);
  }
  const double step_tokens = static_cast<double>(deck.train.global_batch * deck.train.seq);
  const double rate = median(product);
  const double step = median(seconds);
  const double six_n = 6.0 * static_cast<double>(plan.parameters) * step_tokens / step;
  const double model =
      model::model_flops_per_token(deck.model, deck.train.seq) * step_tokens / step;

  fmt::print("GPT-2 124M, bf16, {} x {} tokens a step, {} threads, {} steps\n",
             deck.train.global_batch, deck.train.seq, deck.run.threads, steps);
  fmt::print("  {:<34} {:9.1f} GFLOP/s  (min {:.1f}, max {:.1f})\n", "product 1024 x 3072 x 768",
             rate * 1e-9, *std::min_element(product.begin(), product.end()) * 1e-9,
             *std::max_element(product.begin(), product.end()) * 1e-9);
  fmt::print("  {:<34} {:9.1f} ms       (min {:.1f}, max {:.1f})\n", "step", step * 1e3,
             *std::min_element(seconds.begin(), seconds.end()) * 1e3,
             *std::max_element(seconds.begin(), seconds.end()) * 1e3);
  fmt::print("  {:<34} {:9.0f} tokens/s\n", "training", step_tokens / step);
  fmt::print("  {:<34} {:9.1f} GFLOP/s\n", "training, 6N", six_n * 1e-9);
  fmt::print("  {:<34} {:9.3f}          floor {:.2f}\n", "training / product, 6N", six_n / rate,
             kFloor);
  fmt::print("  {:<34} {:9.3f}\n", "training / product, model FLOP", model / rate);
  fmt::print("  {:<34} {:>13}   planned {}\n", "arena high water",
             app::bytes_text(static_cast<double>(trainer.arena_high_water())),
             app::bytes_text(static_cast<double>(plan.activations)));
  const auto process = static_cast<double>(peak_rss() - before);
  fmt::print("  {:<34} {:>13}   planned {}, ratio {:.3f}\n", "process peak over its start",
             app::bytes_text(process), app::bytes_text(static_cast<double>(plan.total)),
             process / static_cast<double>(plan.total));
  return six_n / rate >= kFloor ? 0 : 1;
}

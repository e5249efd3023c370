// One training step on one long sequence, cut over the ranks of this launch: bytes and seconds of
// each rank, for tests/bench/long_table.sh.
//
//   mpirun -n CP build/tests/bench_long [section.key=value ...]
//
// One layer, hidden 64, 4 heads, vocabulary of bytes; context.method and train.seq as given. Prints
// one line of words, of the rank with the most of each:
//   METHOD CP SEQ ARENA PLANNED PEAK_RSS SECONDS LOSS GRAD_NORM
// Exits 1 when a rank's arenas do not hold what was planned, or when T x T bytes would fit into
// what they hold.
#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "app/memory_plan.h"
#include "app/schema.h"
#include "app/trainer.h"
#include "comm/mpi_session.h"
#include "harness/tiny_run.h"

namespace {

using namespace pg;

std::int64_t peak_rss() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::int64_t>(usage.ru_maxrss) * 1024;
}

int run(int argc, char** argv) {
  const auto world = comm::Communicator::world();
  const auto group = comm::make_mpi_group(world, "bench");
  std::vector<std::string> overrides{
      "model.layers=1",      "model.hidden=64",      "model.heads=4",   "model.kv_heads=4",
      "model.head_dim=16",   "model.ffn=256",        "model.vocab=256", "train.steps=10",
      "train.micro_batch=1", "train.global_batch=1", "run.threads=1",   "run.precision=fp32",
      "schedule.warmup=0",   "context.method=ring",  "train.seq=16384"};
  for (int i = 1; i < argc; ++i) {  // a key may be given once
    const std::string word = argv[i];
    const auto key = word.substr(0, word.find('=') + 1);
    std::erase_if(overrides, [&](const auto& own) { return own.starts_with(key); });
    overrides.push_back(word);
  }
  std::int64_t seq = 0;
  std::string method;
  for (const auto& word : overrides) {
    if (word.starts_with("train.seq=")) seq = std::stoll(word.substr(10));
    if (word.starts_with("context.method=")) method = word.substr(15);
  }
  // A stream of one sample: the same on every grid.
  const auto tokens = testing::make_tokens(world, "long" + std::to_string(seq), seq + 1, 256, 1);
  overrides.push_back("data.train=" + tokens.string());
  overrides.push_back("model.max_seq=" + std::to_string(seq));
  overrides.push_back("grid.cp=" + std::to_string(world.size()));
  auto deck = app::read_deck(nullptr, std::string(PG_SOURCE_DIR) + "/inputs/quickstart.toml",
                             overrides, app::Purpose::kTrain, world.size());
  deck.data.valid.clear();

  comm::ProcessGrid grid(world, app::grid_of(deck, world.size()));
  const auto plan = app::plan_memory(deck, grid.shape(), grid.coord());
  app::Trainer trainer(deck, grid);
  const auto result = trainer.step();
  const auto most = [&](auto value) {
    return comm::all_reduce(*group, value, comm::ReduceOp::kMax);
  };
  const auto arena = most(trainer.arena_high_water()), planned = most(plan.activations);
  const auto rss = most(peak_rss());
  const auto seconds = most(result.seconds);
  if (group->rank() == 0) {
    fmt::print("{} {} {} {} {} {} {:.1f} {:.9f} {:.9f}\n", method, world.size(), seq, arena,
               planned, rss, seconds, result.loss, result.grad_norm);
  }
  return arena == planned && arena < seq * seq ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  const comm::MpiSession mpi(argc, argv);
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    fmt::print(stderr, "bench_long: {}\n", error.what());
    comm::abort_job(1);
  }
}

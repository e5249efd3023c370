// Bytes of one configuration of GPT-2 124M, on the ranks of this launch: what each term of the
// memory holds, beside a formula on paper (harness/memory_formula.h), and the process's peak beside
// the plan. A peak is a maximum over the process's life, so each configuration is a launch of its
// own; memory_table.sh makes them all.
//
//   mpirun -n 4 build/tests/bench_memory [--table] NAME [section.key=value ...]
//
// --table: one row of a Markdown table. Every rank measures itself; the numbers are those of the
// rank with the largest plan, the ratios the ones that are farthest from 1 on any rank. Exits 1
// when a bound of the program's first lines is exceeded.
#include <fmt/format.h>
#include <sys/resource.h>

#include <array>
#include <cmath>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "app/console.h"
#include "app/memory_plan.h"
#include "app/parallel_plan.h"
#include "app/schema.h"
#include "app/trainer.h"
#include "comm/mpi_session.h"
#include "harness/memory_formula.h"
#include "harness/tiny_run.h"

namespace {

using namespace pg;

constexpr double kArenaBound = 0.02;    // what we allocate, from the formula
constexpr double kProcessBound = 0.10;  // the process's growth, from the plan

std::int64_t peak_rss() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::int64_t>(usage.ru_maxrss) * 1024;
}

// Resident bytes now, by kind: where a difference from the plan lies.
struct Resident {
  std::int64_t anonymous = 0, shared = 0, files = 0;
};

Resident resident() {
  Resident r;
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    std::istringstream words(line);
    std::string key;
    std::int64_t kib = 0;
    words >> key >> kib;
    if (key == "RssAnon:") r.anonymous = kib * 1024;
    if (key == "RssShmem:") r.shared = kib * 1024;
    if (key == "RssFile:") r.files = kib * 1024;
  }
  return r;
}

enum Term {
  kWeights,
  kGradients,
  kMaster,
  kMoments,
  kSlots,
  kActivations,
  kPacked,
  kCommunication,
  kTotal,
  kTerms
};
constexpr std::array kNames{"weights",     "gradients", "master",        "moments", "slots",
                            "activations", "packed",    "communication", "total"};

struct Report {
  std::array<std::int64_t, kTerms> plan{}, taken{};  // taken 0: not known by term
  std::array<double, kTerms> formula{};
  std::int64_t process = 0;
  Resident grown;

  double arenas() const {  // what we allocated, over the formula
    double sum = 0.0, exact = 0.0;
    for (int t = kWeights; t <= kActivations; ++t) {
      sum += static_cast<double>(taken[static_cast<std::size_t>(t)]);
      exact += formula[static_cast<std::size_t>(t)];
    }
    return sum / exact;
  }
  double activations() const {
    return static_cast<double>(taken[kActivations]) / formula[kActivations];
  }
  double of_plan() const {
    return static_cast<double>(process) / static_cast<double>(plan[kTotal]);
  }
};

Report measure(const app::Deck& deck, const comm::Communicator& world, std::int64_t steps) {
  comm::ProcessGrid grid(world, app::grid_of(deck, world.size()));
  Report r;
  const auto plan = app::plan_memory(deck, grid.shape(), grid.coord());
  r.plan = {plan.weights,     plan.gradients, plan.master,        plan.moments, plan.slots,
            plan.activations, plan.packed,    plan.communication, plan.total};
  const auto before = peak_rss();
  const auto first = resident();
  app::Trainer trainer(deck, grid);
  for (std::int64_t i = 0; i < steps; ++i) trainer.step();
  const auto last = resident();
  r.process = peak_rss() - before;
  r.grown = {last.anonymous - first.anonymous, last.shared - first.shared,
             last.files - first.files};

  const auto bytes = trainer.params().bytes();
  r.taken = {bytes.weights, bytes.gradients, bytes.master,
             bytes.moments, bytes.slots,     trainer.arena_high_water()};
  r.taken[kTotal] = bytes.total() + trainer.arena_high_water();
  const auto f = testing::memory_formula(deck, grid.shape(), trainer.params().layout());
  r.formula = {f.weights, f.gradients, f.master,
               f.moments, f.slots,     static_cast<double>(f.activations())};
  r.formula[kTotal] = f.parameters() + static_cast<double>(f.activations());
  return r;
}

double farther_from_one(double a, double b) {
  return std::abs(a - 1.0) >= std::abs(b - 1.0) ? a : b;
}

std::string mib(double bytes) {
  return fmt::format("{:.1f}", bytes / (1 << 20));
}

struct Ratios {
  double arenas = 1.0, activations = 1.0, process = 1.0;
};

std::string table_row(const std::string& name, const Report& r, const Ratios& worst) {
  std::string row = fmt::format("| {} |", name);
  for (std::size_t t = 0; t <= kActivations; ++t) {
    row += r.formula[t] == 0.0 && r.taken[t] == 0
               ? " |"
               : fmt::format(" {} / {} |", mib(static_cast<double>(r.taken[t])), mib(r.formula[t]));
  }
  row += fmt::format(
      " {:.4f} | {} | {} | {} | {} | {:.3f} |\n", worst.arenas,
      mib(static_cast<double>(r.plan[kPacked])), mib(static_cast<double>(r.plan[kCommunication])),
      mib(static_cast<double>(r.plan[kTotal])), mib(static_cast<double>(r.process)), worst.process);
  return row;
}

std::string listing(const std::string& name, const std::vector<Report>& all, const Ratios& worst) {
  std::string out = fmt::format("{}: MiB a rank\n", name);
  for (std::size_t rank = 0; rank < all.size(); ++rank) {
    const auto& r = all[rank];
    out += fmt::format("rank {}        {:>10} {:>10} {:>10}\n", rank, "taken", "formula", "plan");
    for (std::size_t t = 0; t < kTerms; ++t) {
      out += fmt::format("  {:<12} {:>10} {:>10} {:>10}\n", kNames[t],
                         mib(static_cast<double>(r.taken[t])), mib(r.formula[t]),
                         mib(static_cast<double>(r.plan[t])));
    }
    out += fmt::format(
        "  process grew by {} at its peak, {:.3f} of the plan; now anonymous {}, shared {}, files "
        "{}\n",
        mib(static_cast<double>(r.process)), r.of_plan(),
        mib(static_cast<double>(r.grown.anonymous)), mib(static_cast<double>(r.grown.shared)),
        mib(static_cast<double>(r.grown.files)));
  }
  out +=
      fmt::format("arenas / formula {:.4f}, activations / formula {:.4f}, process / plan {:.3f}\n",
                  worst.arenas, worst.activations, worst.process);
  return out;
}

std::vector<Report> gather(comm::Group& group, const Report& mine) {
  std::vector<Report> all(static_cast<std::size_t>(group.size()));
  static_assert(std::is_trivially_copyable_v<Report>);
  auto copy = mine;
  group
      .all_gather({&copy, sizeof copy, DType::kU8},
                  {all.data(), all.size() * sizeof copy, DType::kU8})
      .wait();
  return all;
}

int run(int argc, char** argv) {
  std::vector<std::string> words(argv + 1, argv + argc);
  const bool table = !words.empty() && words.front() == "--table";
  if (table) words.erase(words.begin());
  const auto name = words.empty() ? std::string("as it is") : words.front();
  if (!words.empty()) words.erase(words.begin());

  const auto world = comm::Communicator::world();
  const auto group = comm::make_mpi_group(world, "bench");
  const auto tokens = testing::make_tokens(world, "bench_memory", 20'000, 50257, 1);
  std::vector<std::string> overrides{"data.train=" + tokens.string(),
                                     "train.steps=1000",
                                     "train.seq=256",
                                     "train.global_batch=8",
                                     "train.micro_batch=2",
                                     "run.precision=bf16",
                                     "run.threads=1"};
  for (const auto& word : words) {  // a key may be given once
    const auto key = word.substr(0, word.find('=') + 1);
    std::erase_if(overrides, [&](const auto& own) { return own.starts_with(key); });
  }
  overrides.insert(overrides.end(), words.begin(), words.end());
  auto deck = app::read_deck(nullptr, std::string(PG_SOURCE_DIR) + "/inputs/gpt2_124m.toml",
                             overrides, app::Purpose::kTrain, world.size());
  deck.data.valid.clear();

  const auto all = gather(*group, measure(deck, world, /*steps=*/2));
  Ratios worst;
  std::size_t largest = 0;
  for (std::size_t rank = 0; rank < all.size(); ++rank) {
    worst.arenas = farther_from_one(all[rank].arenas(), worst.arenas);
    worst.activations = farther_from_one(all[rank].activations(), worst.activations);
    worst.process = farther_from_one(all[rank].of_plan(), worst.process);
    if (all[rank].plan[kTotal] > all[largest].plan[kTotal]) largest = rank;
  }
  if (group->rank() == 0) {
    fmt::print("{}", table ? table_row(name, all[largest], worst) : listing(name, all, worst));
  }
  return std::abs(worst.arenas - 1.0) <= kArenaBound &&
                 std::abs(worst.activations - 1.0) <= kArenaBound &&
                 std::abs(worst.process - 1.0) <= kProcessBound
             ? 0
             : 1;
}

}  // namespace

int main(int argc, char** argv) {
  const comm::MpiSession mpi(argc, argv);
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    fmt::print(stderr, "bench_memory: {}\n", error.what());
    comm::abort_job(1);
  }
}

#include "app/verify.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <map>
#include <sstream>
#include <vector>

#include "app/device.h"
#include "app/gather_tensor.h"
#include "app/host_memory.h"
#include "app/threads.h"
#include "app/trainer.h"
#include "app/verify_cut.h"
#include "app/verify_report.h"
#include "comm/agree.h"

namespace pg::app {

namespace {

using Clock = std::chrono::steady_clock;

// What the reference leaves behind, on rank 0.
struct Reference {
  std::vector<StepResult> steps;
  std::vector<std::vector<double>> gradients;  // of the first step, by parameter
};

class Verify {
 public:
  Verify(const Deck& deck, const comm::Communicator& world, const VerifyControls& controls)
      : asked_(deck),
        controls_(controls),
        gpu_(open_gpu(deck, world)),
        grid_(world, grid_of(deck, world.size()), gpu_.get()) {
    asked_.run.threads = threads_of(deck, grid_);
  }

  ExitCode run() {
    // 1. A deck that one rank can hold.
    const auto hosts = ask_hosts();
    try {
      run_ = cut_for_verify(asked_, grid_.shape(), hosts);
    } catch (const Error& error) {  // the same arithmetic on every rank: all of them come here
      throw Error(error.code(), error.what(), grid_.world().size());
    }
    steps_ = std::min(kVerifySteps, run_.deck.train.steps);
    say(verify_header(asked_, run_, grid_.shape()));
    // 2. The reference. The others wait, and have allocated nothing yet.
    comm::together(grid_.world(), [&] {
      if (grid_.root()) train_alone();
    });
    // 3. The grid, each of its gradients compared as soon as it is put together.
    train_on_grid();
    // 4. The verdict.
    say(root() ? verify_tables(result_) : "");
    const auto problem = comm::broadcast(grid_.world(), root() ? result_.problem() : "", 0);
    if (!problem.empty()) {
      throw Error(ExitCode::kNumerical, "verify: " + problem, grid_.world().size());
    }
    return ExitCode::kDone;
  }

 private:
  bool root() const { return grid_.root(); }
  void say(const std::string& text) const {
    if (!root()) return;
    if (controls_.say) return controls_.say(text);
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
  }

  // Every rank's host, known by its lowest rank since names may repeat, and what it can still give.
  std::vector<VerifyHost> ask_hosts() {
    std::int64_t available = controls_.available;
    comm::together(grid_.world(), [&] {
      if (available == 0) available = available_memory();
    });
    const auto node = comm::make_mpi_group(grid_.communicator().split_by_host(), "node");
    const auto lowest =
        comm::all_reduce(*node, std::int64_t{to_int(grid_.rank())}, comm::ReduceOp::kMin);
    const auto answers = comm::all_gather(grid_.world(), fmt::format("{} {}", lowest, available));

    const auto& shape = grid_.shape();
    std::map<std::int64_t, VerifyHost> hosts;
    for (int rank = 0; rank < shape.world(); ++rank) {
      std::istringstream answer(answers[static_cast<std::size_t>(rank)]);
      std::int64_t id = 0, bytes = 0;
      answer >> id >> bytes;
      const bool fresh = !hosts.count(id);
      auto& host = hosts[id];
      if (fresh) {
        host.ranks_of_stage.resize(static_cast<std::size_t>(shape.size(comm::Axis::kPP)));
        host.available = bytes;
      }
      const int stage = shape.coord(comm::WorldRank{rank})[comm::Axis::kPP];
      ++host.ranks_of_stage[static_cast<std::size_t>(stage)];
      host.has_rank_0 = host.has_rank_0 || rank == 0;
      host.available = std::min(host.available, bytes);
    }
    std::vector<VerifyHost> all;
    for (const auto& [id, host] : hosts) all.push_back(host);
    return all;
  }

  void say_time(const char* who, Clock::time_point begin) const {
    const std::chrono::duration<double> seconds = Clock::now() - begin;
    say(fmt::format("  {:<12} {} steps in {:.1f} s\n", who, steps_, seconds.count()));
  }

  void train_alone() {
    const auto begin = Clock::now();
    const auto deck = one_rank_deck(run_.deck);
    // On the CPU, wherever the grid computes.
    comm::ProcessGrid self(comm::Communicator::self(), grid_of(deck, 1));
    Trainer trainer(deck, self);
    for (std::int64_t i = 0; i < steps_; ++i) {
      one_.steps.push_back(trainer.step());
      if (i > 0) continue;
      for (const auto& record : trainer.params().gradient_records()) {
        one_.gradients.push_back(gather_tensor(self.world(), record));
      }
    }
    say_time("one rank", begin);
  }

  void train_on_grid() {
    const auto begin = Clock::now();
    Trainer trainer(run_.deck, grid_);
    trainer.set_sabotage(controls_.sabotage);
    for (std::int64_t i = 0; i < steps_; ++i) {
      const auto step = trainer.step();
      if (root()) compare(step, one_.steps[static_cast<std::size_t>(i)]);
      if (i == 0) compare_gradients(trainer);
    }
    say_time("the grid", begin);
  }

  void compare(const StepResult& grid, const StepResult& one) {
    const auto relative = [](double a, double b) {
      return relative_deviation({&a, 1}, {&b, 1}, 0);
    };
    result_.steps.push_back({grid.loss, one.loss, relative(grid.loss, one.loss),
                             relative(grid.grad_norm, one.grad_norm)});
  }

  void compare_gradients(Trainer& trainer) {
    double largest = 0;
    for (const auto& gradient : one_.gradients) largest = std::max(largest, frobenius(gradient));
    LayerDeviations layers(run_.deck.model, largest);
    const auto& table = trainer.params().table();
    const auto records = trainer.params().gradient_records();
    for (std::size_t id = 0; id < records.size(); ++id) {
      const auto gradient = gather_tensor(grid_.world(), records[id]);
      if (!root()) continue;
      layers.add(table[id], gradient, one_.gradients[id]);
      one_.gradients[id] = {};  // its memory: not needed again
    }
    if (root()) result_.layers = layers.layers();
  }

  Deck asked_;
  const VerifyControls& controls_;
  std::unique_ptr<comm::Gpu> gpu_;
  comm::ProcessGrid grid_;
  VerifyDeck run_;
  std::int64_t steps_ = 0;
  Reference one_;
  VerifyResult result_;  // on rank 0
};

}  // namespace

ExitCode run_verify(const Deck& deck, const comm::Communicator& world,
                    const VerifyControls& controls) {
  return Verify(deck, world, controls).run();
}

}  // namespace pg::app

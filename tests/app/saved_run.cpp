#include "tests/app/saved_run.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <fstream>

#include "io/checkpoint.h"

namespace pg::testing {

namespace fs = std::filesystem;

bool root() {
  return comm::Communicator::world().rank() == 0;
}

void wait_for_all() {
  comm::make_mpi_group(comm::Communicator::world(), "wait")->barrier();
}

comm::Communicator first_ranks(int ranks) {
  const auto world = comm::Communicator::world();
  return world.split(world.rank() < ranks ? 0 : -1, world.rank());
}

namespace {

void apply(const Damage& damage, comm::ProcessGrid& grid, app::Trainer& trainer) {
  using What = Damage::What;
  if (damage.what == What::kNothing || grid.world().rank() != damage.rank) return;
  auto& params = trainer.params();
  if (damage.what == What::kRouterBias) return trainer.kernels().fill_zero(params.router_bias(0));
  for (std::size_t id = 0; id < params.table().size(); ++id) {
    if (!params.table()[id].name.starts_with(damage.prefix)) continue;
    if (params.layout().kept(id).elements() == 0) continue;
    auto kept = params.kept_exact(id);
    if (damage.what == What::kFirstMoment) kept = params.kept_m(id);
    if (damage.what == What::kSecondMoment) kept = params.kept_v(id);
    trainer.kernels().fill_zero(kept);
    return;
  }
  FAIL() << "rank " << damage.rank << " holds nothing of " << damage.prefix;
}

}  // namespace

Half run_half(const app::Deck& deck, int ranks, const fs::path& folder, const fs::path& from,
              const Damage& damage) {
  wait_for_all();  // nobody looks at it any more
  if (comm::Communicator::world().rank() == 0) {
    fs::remove_all(folder);
    fs::create_directories(folder);
  }
  wait_for_all();
  Half half;
  if (const auto part = first_ranks(ranks)) {
    comm::ProcessGrid grid(part, app::grid_of(deck, ranks));
    app::Trainer trainer(deck, grid);
    if (from.empty()) {
      for (std::int64_t i = 0; i < kStepsBefore; ++i) trainer.step();
    } else {
      io::load_checkpoint(part, from, trainer.records());
      apply(damage, grid, trainer);
      trainer.loaded();
      trainer.set_progress(kStepsBefore, kStepsBefore * deck.train.global_batch);
    }
    half.state = logical_state(grid, trainer);
    io::CheckpointInfo info;
    info.step = trainer.completed();
    info.next_sample = trainer.next_sample();
    info.provenance = "{}";
    half.entry = io::save_checkpoint(part, folder, info, trainer.records_to_save());
    for (std::int64_t i = 0; i < steps_after(deck.run.precision); ++i)
      half.losses.push_back(trainer.step().loss);
  }
  wait_for_all();
  return half;
}

namespace {

std::string bytes_of(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  std::string bytes(std::istreambuf_iterator<char>(in), {});
  EXPECT_FALSE(bytes.empty()) << file;
  return bytes;
}

// Of its own for each test program, as its token file.
fs::path folder_of(const fs::path& tokens, const char* half) {
  return scratch_folder(tokens.stem()) / half;
}

}  // namespace

std::string difference(const Half& a, const Half& b) {
  if (a.state.size() != b.state.size()) return "another number of tensors";
  for (const auto& [name, values] : b.state) {
    const auto found = a.state.find(name);
    if (found == a.state.end() || found->second != values) return name;
  }
  return "";
}

double worst_loss(const Half& half, const Half& reference) {
  double worst = 0;
  for (std::size_t i = 0; i < reference.losses.size(); ++i) {
    const double d = std::abs(half.losses[i] - reference.losses[i]) / reference.losses[i];
    if (!(d <= worst)) worst = d;
  }
  return worst;
}

Half save_on(const MatrixCase& from, const fs::path& tokens, DType type) {
  return run_half(from.deck(tokens, type), from.ranks(), folder_of(tokens, "first"));
}

Half load_on(const MatrixCase& to, const fs::path& tokens, DType type, const Damage& damage) {
  return run_half(to.deck(tokens, type), to.ranks(), folder_of(tokens, "second"),
                  folder_of(tokens, "first") / io::checkpoint_name(kStepsBefore), damage);
}

std::vector<double> expect_same_run(const Move& move, const fs::path& tokens, double loss_bound) {
  SCOPED_TRACE(std::string(dtype_name(move.type)) + ": " + move.name);
  const auto first = save_on(move.from, tokens, move.type);
  const auto second = load_on(move.to, tokens, move.type);
  if (!root()) return {};
  EXPECT_EQ(difference(second, first), "");
  // Not EXPECT_EQ, which would print both files.
  EXPECT_TRUE(bytes_of(second.entry / "state.h5") == bytes_of(first.entry / "state.h5"));
  const double worst = worst_loss(second, first);
  EXPECT_LE(worst, loss_bound);
  fmt::print("    {:<4} {:<46} losses off by {:.1e}\n", dtype_name(move.type), move.name, worst);
  std::fflush(stdout);
  return second.losses;
}

MatrixCase on(Style style, int dp, int tp, int pp, int zero) {
  MatrixCase c;
  c.style = style;
  c.dp = dp;
  c.tp = tp;
  c.pp = pp;
  c.zero = zero;
  return c;
}

MatrixCase interleaved(MatrixCase on) {
  on.schedule = model::ScheduleKind::kInterleaved;
  on.chunks = 2;
  return on;
}

MatrixCase gpipe(MatrixCase on) {
  on.schedule = model::ScheduleKind::kGPipe;
  return on;
}

MatrixCase sp(MatrixCase on) {
  on.sequence_parallel = true;
  return on;
}

MatrixCase recomputed(MatrixCase on, model::Recompute mode, std::int64_t layers) {
  on.recompute = {mode, layers};
  return on;
}

}  // namespace pg::testing

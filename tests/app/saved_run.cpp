#include "tests/app/saved_run.h"

#include <gtest/gtest.h>

#include "io/checkpoint.h"

namespace pg::testing {

namespace fs = std::filesystem;

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
    half.entry = io::save_checkpoint(part, folder, info, trainer.records());
    for (std::int64_t i = 0; i < steps_after(deck.run.precision); ++i)
      half.losses.push_back(trainer.step().loss);
  }
  wait_for_all();
  return half;
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

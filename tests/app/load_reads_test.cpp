// What each rank of a grid reads of a checkpoint: on every axis what it holds, and between it what
// io/checkpoint_reads.h allows, in few reads. The expectation comes from a map of the file with a
// mark on every byte that a rank holds.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <map>

#include "../../io/checkpoint_state.h"  // not tests/io/
#include "io/checkpoint.h"
#include "io/checkpoint_reads.h"
#include "io/files.h"
#include "tests/app/saved_run.h"

namespace pg::testing {
namespace {

namespace fs = std::filesystem;
using model::ContextMethod;
using model::ScheduleKind;

fs::path tokens() {
  static const auto path = make_tokens(comm::Communicator::world(), "load_reads", 2401, 61, 3);
  return path;
}

// Bytes of the file that some slab of `tensors` covers, and in how many pieces they lie.
struct Marked {
  std::int64_t bytes = 0, pieces = 0;
};
Marked mark(std::int64_t file_bytes, const std::vector<comm::TensorRecord>& tensors,
            const std::vector<std::int64_t>& offsets) {
  std::vector<bool> marks(static_cast<std::size_t>(file_bytes), false);
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    const auto width = static_cast<std::int64_t>(dtype_size(tensors[t].dtype));
    for (const auto& slab : tensors[t].slabs) {
      const bool matrix = slab.extent.size() == 2;
      const auto rows = matrix ? slab.extent[0] : 1, first = matrix ? slab.offset[0] : 0;
      for (auto row = first; row < first + rows; ++row) {
        const auto at = offsets[t] + (row * tensors[t].shape.back() + slab.offset.back()) * width;
        for (auto b = at; b < at + slab.extent.back() * width; ++b) {
          marks.at(static_cast<std::size_t>(b)) = true;
        }
      }
    }
  }
  Marked marked;
  for (std::size_t b = 0; b < marks.size(); ++b) {
    marked.bytes += marks[b];
    marked.pieces += marks[b] && (b == 0 || !marks[b - 1]);
  }
  return marked;
}

struct Planned {
  std::int64_t bytes = 0, reads = 0;
};
Planned plan(const std::vector<comm::TensorRecord>& tensors,
             const std::vector<std::int64_t>& offsets, const io::ReadLimits& limits) {
  Planned planned;
  io::for_each_read(tensors, offsets, limits, [&](const io::Read& read) {
    planned.bytes += read.bytes();
    ++planned.reads;
  });
  return planned;
}

void check(const MatrixCase& grid_case, const fs::path& entry) {
  SCOPED_TRACE(grid_case.name());
  const auto part = first_ranks(grid_case.ranks());
  if (!part) return;
  comm::ProcessGrid grid(part,
                         app::grid_of(grid_case.deck(tokens(), DType::kF32), grid_case.ranks()));
  app::Trainer trainer(grid_case.deck(tokens(), DType::kF32), grid);
  const auto records = trainer.records();
  const auto path = entry / io::kStateName;
  std::map<std::string, std::int64_t> stored;
  for (const auto& found : io::locate_state(path)) stored[found.tensor.name] = found.offset;
  std::vector<std::int64_t> offsets;
  for (const auto& record : records) offsets.push_back(stored.at(record.name));

  const auto held = mark(io::regular_file_size(path, ExitCode::kBug), records, offsets);
  ASSERT_GT(held.bytes, 0);
  EXPECT_EQ(io::slab_bytes(records), held.bytes) << "something is held twice";

  // Without bridges: exactly what is held, each piece at once.
  const io::ReadLimits exact{.bridge_bytes = 0};
  EXPECT_EQ(plan(records, offsets, exact).bytes, held.bytes);
  EXPECT_EQ(plan(records, offsets, exact).reads, held.pieces);
  // With bridges of at most 64 bytes, since these tensors are small: a bridge makes one read of
  // two, so that the bytes of nobody are at most 64 for each read saved.
  const io::ReadLimits scaled{.bridge_bytes = 64};
  const auto bridged = plan(records, offsets, scaled);
  EXPECT_LE(bridged.reads, held.pieces);
  EXPECT_LE(bridged.bytes, held.bytes + 64 * (held.pieces - bridged.reads));
  EXPECT_LE(bridged.bytes, io::kBridgedShare * held.bytes);

  // And this is what a load does.
  const auto report = io::load_checkpoint(part, entry, records);
  const auto planned = plan(records, offsets, {});
  EXPECT_EQ(report.bytes, planned.bytes);
  EXPECT_EQ(report.reads, planned.reads);
  EXPECT_LE(report.bytes, io::kBridgedShare * held.bytes);
  if (root()) {
    fmt::print(
        "    {:<46} holds {:>7} bytes in {:>5} pieces; bridges of 64: {:>5.3f} times in "
        "{:>4} reads; of 4 KiB: {:>5.3f} in {:>4}\n",
        grid_case.name(), held.bytes, held.pieces,
        static_cast<double>(bridged.bytes) / static_cast<double>(held.bytes), bridged.reads,
        static_cast<double>(report.bytes) / static_cast<double>(held.bytes), report.reads);
    std::fflush(stdout);
  }
}

TEST(LoadReads, a_rank_reads_what_it_holds_on_every_axis) {
  const auto dense = of_style(Style::kLlama);
  const auto experts = of_style(Style::kLlama, Feed::kBalanced);
  const auto ring = ContextMethod::kRing;
  const std::vector<std::pair<MatrixCase, std::vector<MatrixCase>>> models = {
      {on(Style::kLlama, 1, 1, 1, 0),
       {on(Style::kLlama, 1, 1, 1, 0), on(Style::kLlama, 4, 1, 1, 0), on(Style::kLlama, 2, 1, 1, 1),
        on(Style::kLlama, 3, 1, 1, 2), on(Style::kLlama, 4, 1, 1, 3), on(Style::kLlama, 1, 2, 1, 0),
        on(Style::kLlama, 1, 4, 1, 0), on(Style::kLlama, 1, 8, 1, 0), on(Style::kLlama, 1, 1, 5, 0),
        interleaved(on(Style::kLlama, 2, 2, 2, 3))}},
      {dense, {with_context(dense, 4, ring), with_zero(with_context(dense, 2, ring), 2, 3)}},
      {experts,
       {with_experts(experts, 4), with_zero(with_experts(experts, 4), 2, 3),
        with_zero(with_tensor(with_context(with_experts(experts, 2), 2, ring), 2, true), 1, 1),
        with_stages(with_experts(experts, 2), 2, ScheduleKind::k1F1B)}}};
  for (const auto& [saved, grids] : models) {
    const auto entry = save_on(saved, tokens(), DType::kF32).entry;
    const auto shared = comm::broadcast(*comm::make_mpi_group(comm::Communicator::world(), "entry"),
                                        entry.string(), 0);
    for (const auto& grid : grids) check(grid, shared);
    wait_for_all();
  }
}

}  // namespace
}  // namespace pg::testing

// From slabs to reads, without files.
#include "io/checkpoint_reads.h"

#include "checkpoint_state.h"
#include "io/checkpoint_slabs.h"

namespace pg::io {
namespace {

using comm::Slab;
using comm::TensorRecord;

constexpr std::int64_t kKiB = 1024, kMiB = kKiB * 1024;

// Memory that nobody touches: the plan only counts with it.
char* const kNowhere = reinterpret_cast<char*>(std::uintptr_t{1} << 20);

TensorRecord tensor_of(std::vector<std::int64_t> shape, std::vector<std::int64_t> offset,
                       std::vector<std::int64_t> extent) {
  return {"t", DType::kF32, std::move(shape), {{std::move(offset), std::move(extent), kNowhere}}};
}

struct Count {
  std::int64_t reads = 0, bytes = 0, longest = 0, in_place = 0;
};

Count count(const std::vector<TensorRecord>& tensors, const std::vector<std::int64_t>& offsets,
            const ReadLimits& limits = {}) {
  Count count;
  for_each_read(tensors, offsets, limits, [&](const Read& read) {
    ++count.reads;
    count.bytes += read.bytes();
    count.longest = std::max(count.longest, read.bytes());
    count.in_place += read.in_place();
  });
  return count;
}

// Every cut, several tensors with and without bytes between them, several ranks and limits: each
// element arrives once, in order, within the limits, and no read has less than its share.
TEST(CheckpointReads, every_element_arrives_once_from_its_place) {
  auto plans = awkward_plans();
  for (int i = 0; i < 3; ++i) {
    plans.push_back({"long" + std::to_string(i), DType::kF32, {9, 41}, Cut::kColumns});
  }
  for (const int size : {1, 2, 3, 5}) {
    for (int rank = 0; rank < size; ++rank) {
      TestState state(plans, rank, size);
      auto& tensors = state.tensors();
      // The file: tensors that touch, and some with bytes of nobody before them.
      TestState whole(plans, 0, 1);
      whole.fill(1);
      std::string file;
      std::vector<std::int64_t> offsets;
      for (std::size_t t = 0; t < tensors.size(); ++t) {
        file.append(t % 3 * 5, '\xEE');
        offsets.push_back(std::ssize(file));
        for (const auto& slab : whole.tensors()[t].slabs) {
          file.append(static_cast<const char*>(slab.data),
                      static_cast<std::size_t>(slab_elements(slab)) * dtype_size(tensors[t].dtype));
        }
      }
      for (const auto& limits : {ReadLimits{}, ReadLimits{64, 0, 64}, ReadLimits{64, 16, 32},
                                 ReadLimits{1000, 1000, 1}, ReadLimits{7, 3, 7}}) {
        state.clear();
        std::int64_t moved = 0, last_begin = -1;
        for_each_read(tensors, offsets, limits, [&](const Read& read) {
          EXPECT_GT(read.begin, last_begin);
          last_begin = read.begin;
          EXPECT_LE(read.bytes(), limits.read_bytes);
          EXPECT_LE(read.end, std::ssize(file));
          std::int64_t wanted = 0, at = read.begin;
          for (const auto& run : read.runs) {
            EXPECT_GE(run.at, at);
            EXPECT_LE(run.at - at, limits.bridge_bytes);
            at = run.at + run.bytes;
            EXPECT_LE(at, read.end);
            std::memcpy(run.data, file.data() + run.at, static_cast<std::size_t>(run.bytes));
            wanted += run.bytes;
          }
          EXPECT_EQ(at, read.end);
          EXPECT_LE(read.bytes(), kBridgedShare * wanted);
          moved += wanted;
        });
        EXPECT_EQ(moved, slab_bytes(tensors));
        EXPECT_EQ(state.wrong(1), 0) << "rank " << rank << " of " << size;
      }
    }
  }
}

// Whole tensors one behind the other, as one rank or a replica holds them.
TEST(CheckpointReads, neighbours_share_a_read_up_to_its_limit) {
  std::vector<TensorRecord> tensors;
  std::vector<std::int64_t> offsets;
  for (int i = 0; i < 100; ++i) {
    tensors.push_back(tensor_of({64, 1024}, {0, 0}, {64, 1024}));  // 256 KiB each
    offsets.push_back(i * 256 * kKiB);
  }
  const auto all = count(tensors, offsets);
  EXPECT_EQ(all.bytes, 25 * kMiB);
  EXPECT_EQ(all.reads, 2);
  EXPECT_EQ(all.longest, 16 * kMiB);
}

TEST(CheckpointReads, a_long_run_is_read_in_place_in_pieces_of_the_limit) {
  const auto whole = count({tensor_of({50, kMiB}, {0, 0}, {50, kMiB})}, {4096});
  EXPECT_EQ(whole.bytes, 200 * kMiB);
  EXPECT_EQ(whole.reads, 13);
  EXPECT_EQ(whole.in_place, 13);
}

// A ZeRO shard: a part of each tensor. Nothing in between is read where it is long.
TEST(CheckpointReads, a_flat_share_reads_nothing_else) {
  std::vector<TensorRecord> tensors;
  std::vector<std::int64_t> offsets;
  for (int i = 0; i < 10; ++i) {
    tensors.push_back(tensor_of({1024, 1024}, {i % 4 * 256, 0}, {256, 1024}));
    offsets.push_back(i * 4 * kMiB);
  }
  const auto share = count(tensors, offsets);
  EXPECT_EQ(share.bytes, 10 * kMiB);
  // The end of the fourth tensor and the start of the fifth touch, and so on.
  EXPECT_EQ(share.reads, 8);
}

// Columns of 1, 1/2, 1/4 and 1/8: bridged while a quarter is wanted.
TEST(CheckpointReads, narrow_columns_are_bridged_where_a_quarter_is_wanted) {
  const std::int64_t rows = 16384, columns = 1024;  // 4 KiB a row
  const std::int64_t bytes = rows * columns * 4;
  for (const std::int64_t ranks : {1, 2, 4}) {
    const auto mine = count({tensor_of({rows, columns}, {0, 0}, {rows, columns / ranks})}, {0});
    // All but what lies behind the last row's part.
    EXPECT_EQ(mine.bytes / kMiB, (bytes - 1) / kMiB + (ranks == 1)) << ranks;
    EXPECT_LE(mine.bytes, kBridgedShare * bytes / ranks);
    EXPECT_EQ(mine.reads, 4) << ranks;
  }
  const auto eighth = count({tensor_of({rows, columns}, {0, 0}, {rows, columns / 8})}, {0});
  EXPECT_EQ(eighth.bytes, bytes / 8);
  EXPECT_EQ(eighth.reads, rows);
}

TEST(CheckpointReads, wide_gaps_are_not_bridged) {
  // Half of rows of 256 KiB: 128 KiB on, 128 KiB off. And a quarter of 16 KiB.
  const auto half = count({tensor_of({64, 65536}, {0, 32768}, {64, 32768})}, {0});
  EXPECT_EQ(half.bytes, 8 * kMiB);
  EXPECT_EQ(half.reads, 64);
  const auto quarter = count({tensor_of({64, 4096}, {0, 1024}, {64, 1024})}, {0});
  EXPECT_EQ(quarter.bytes, 256 * kKiB);
  EXPECT_EQ(quarter.reads, 64);
}

TEST(CheckpointReads, a_slab_outside_its_tensor_is_a_bug) {
  expect_contains(error_of(ExitCode::kBug,
                           [&] {
                             count({tensor_of({4, 3}, {3, 0}, {2, 3})}, {0});
                           }),
                  "axis 0");
}

}  // namespace
}  // namespace pg::io

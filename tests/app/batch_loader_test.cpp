// What each rank reads of a step: the slices of the whole that its runs name, with masked
// documents' boundaries where they truly are; against a plain walk over the stream.
#include "app/batch_loader.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "io/token_file.h"
#include "tests/io/token_test_files.h"

namespace pg::app {
namespace {

constexpr std::int64_t kSeq = 24, kVocab = 997;

// A stream of documents of these lengths, whose neighbouring tokens all differ.
struct Stream {
  std::vector<std::int64_t> starts;  // one more than documents
  std::vector<std::int32_t> tokens;

  explicit Stream(const std::vector<std::int64_t>& lengths) : starts{0} {
    for (const auto n : lengths) starts.push_back(starts.back() + n);
    for (std::int64_t i = 0; i < starts.back(); ++i) {
      tokens.push_back(static_cast<std::int32_t>((i * 37 + 11) % kVocab));
    }
  }
  bool starts_at(std::int64_t token) const {
    return std::find(starts.begin(), starts.end() - 1, token) != starts.end() - 1;
  }
  void write(const std::filesystem::path& path) const {
    io::TokenFileWriter writer(path, kVocab, "bytes", "made up for a test");
    for (std::size_t d = 0; d + 1 < starts.size(); ++d) {
      writer.add_document(
          std::span(tokens).subspan(static_cast<std::size_t>(starts[d]),
                                    static_cast<std::size_t>(starts[d + 1] - starts[d])));
    }
    writer.finish();
  }
};

// What position p of a sample is.
struct Expected {
  std::int32_t token, target, document_begin;
};

Expected expected(const Stream& stream, std::int64_t first, std::int64_t p, bool mask) {
  const auto at = [&](std::int64_t i) { return stream.tokens[static_cast<std::size_t>(i)]; };
  Expected e{at(first + p), at(first + p + 1), 0};
  if (!mask) return e;
  if (stream.starts_at(first + p + 1)) e.target = -1;
  for (auto q = p; q > 0; --q) {
    if (!stream.starts_at(first + q)) continue;
    e.document_begin = static_cast<std::int32_t>(q);
    break;
  }
  return e;
}

std::vector<std::int32_t> values(const model::TensorView& view) {
  const auto* data = view.data<std::int32_t>();
  return {data, data + view.elements()};
}

struct Grid {
  model::ContextMethod method;
  int cp, ranks;  // of the batch
  std::int64_t micro_batch;
};

constexpr Grid kGrids[] = {
    {model::ContextMethod::kRing, 1, 1, 1},      {model::ContextMethod::kRing, 1, 3, 2},
    {model::ContextMethod::kRing, 2, 1, 2},      {model::ContextMethod::kRing, 4, 2, 1},
    {model::ContextMethod::kAllGather, 3, 1, 3}, {model::ContextMethod::kUlysses, 2, 2, 2},
    {model::ContextMethod::kUlysses, 8, 1, 1},   {model::ContextMethod::kRing, 12, 1, 1},
};

// Every rank of a grid loads samples [first, first + count); each micro-batch is held against the
// stream, and the ranks' targets together against counted_tokens.
void expect_slices(const io::TokenFile& file, const Stream& stream, const Grid& grid, bool mask,
                   std::int64_t first, std::int64_t count) {
  const io::Sampler sampler(file.tokens(), kSeq, /*seed=*/5, /*shuffle=*/true);
  const auto part = kSeq / grid.cp;
  std::int64_t targets = 0, counted = 0;
  std::vector<int> drawn(static_cast<std::size_t>(count));
  for (int rank = 0; rank < grid.ranks; ++rank) {
    for (int cp_rank = 0; cp_rank < grid.cp; ++cp_rank) {
      const auto runs = model::sequence_runs(grid.method, grid.cp, cp_rank, kSeq);
      BatchLoader loader(file, sampler, {kSeq, grid.micro_batch, grid.ranks, rank, runs, mask});
      loader.load(first, count);
      counted = loader.counted_tokens(first, count);
      const auto at_once = grid.ranks * grid.micro_batch;
      ASSERT_EQ(loader.micro_batches(), (count + at_once - 1) / at_once);
      for (std::int64_t m = 0; m < loader.micro_batches(); ++m) {
        const auto batch = loader.micro(m);
        ASSERT_EQ(batch.sequences, grid.micro_batch);
        ASSERT_EQ(batch.seq, part);
        const auto tokens = values(batch.tokens), labels = values(batch.targets),
                   positions = values(batch.positions);
        ASSERT_EQ(std::ssize(tokens), grid.micro_batch * part);
        ASSERT_EQ(batch.document_begin.empty(), !mask);
        const auto begins = mask ? values(batch.document_begin) : std::vector<std::int32_t>();
        for (std::int64_t b = 0; b < grid.micro_batch; ++b) {
          const auto sample = batch.samples[static_cast<std::size_t>(b)];
          ASSERT_EQ(sample, first + m * at_once + rank * grid.micro_batch + b);
          const bool there = sample < first + count;
          if (there && cp_rank == 0) ++drawn[static_cast<std::size_t>(sample - first)];
          const auto begin = there ? sampler.first_token(sample) : 0;
          for (const auto& run : runs) {
            for (std::int64_t i = 0; i < run.length; ++i) {
              const auto at = static_cast<std::size_t>(b * part + run.row + i);
              const auto p = run.begin + i;
              EXPECT_EQ(positions[at], p);
              if (!there) {
                EXPECT_EQ(labels[at], -1) << "a sample that only fills up";
                continue;
              }
              const auto e = expected(stream, begin, p, mask);
              EXPECT_EQ(tokens[at], e.token);
              EXPECT_EQ(labels[at], e.target) << "sample at " << begin << ", position " << p;
              if (labels[at] >= 0) ++targets;
            }
          }
          // Of the whole sequence, on every rank of it.
          for (std::int64_t p = 0; mask && there && p < kSeq; ++p) {
            EXPECT_EQ(begins[static_cast<std::size_t>(b * kSeq + p)],
                      expected(stream, begin, p, mask).document_begin)
                << "sample at " << begin << ", position " << p;
          }
        }
      }
    }
  }
  EXPECT_EQ(targets, counted);
  EXPECT_EQ(drawn, std::vector<int>(drawn.size(), 1)) << "each sample is some rank's";
}

void expect_slices_on_all_grids(const Stream& stream) {
  const TemporaryFolder folder;
  stream.write(folder / "tokens.h5");
  const io::TokenFile file(folder / "tokens.h5");
  const auto samples = (file.tokens() - 1) / kSeq;
  for (const auto& grid : kGrids) {
    for (const bool mask : {false, true}) {
      SCOPED_TRACE(testing::Message() << "method " << static_cast<int>(grid.method) << " cp "
                                      << grid.cp << " ranks " << grid.ranks << " mask " << mask);
      // A whole epoch, and some of the next: with samples that only fill up.
      expect_slices(file, stream, grid, mask, 0, samples);
      expect_slices(file, stream, grid, mask, 1, samples + 2);
    }
  }
}

TEST(BatchLoader, ranks_hold_the_slices_of_the_whole) {
  // Samples begin at multiples of 24. Documents that begin exactly at a sample's first token (24,
  // 48), three of one token in a row, one over several samples, one of one token at a sample's last
  // position (143), and one that begins inside every chunk of a small cut.
  expect_slices_on_all_grids(Stream({24, 1, 1, 1, 21, 60, 35, 1, 6, 1, 5, 2, 3, 7, 25, 40, 8}));
}

TEST(BatchLoader, one_document_masks_nothing) {
  expect_slices_on_all_grids(Stream({5 * kSeq + 1}));
}

TEST(BatchLoader, documents_of_one_sequence_each_lose_one_target_a_sample) {
  const Stream stream({kSeq, kSeq, kSeq, 1});
  expect_slices_on_all_grids(stream);
  const TemporaryFolder folder;
  stream.write(folder / "tokens.h5");
  const io::TokenFile file(folder / "tokens.h5");
  const io::Sampler sampler(file.tokens(), kSeq, 5, true);
  const BatchLoader loader(
      file, sampler,
      {kSeq, 1, 1, 0, model::sequence_runs(model::ContextMethod::kRing, 1, 0, kSeq), true});
  EXPECT_EQ(loader.counted_tokens(0, 3), 3 * (kSeq - 1));
}

TEST(BatchLoader, documents_of_one_token_leave_no_target) {
  const Stream stream(std::vector<std::int64_t>(2 * kSeq + 1, 1));
  expect_slices_on_all_grids(stream);
  const TemporaryFolder folder;
  stream.write(folder / "tokens.h5");
  const io::TokenFile file(folder / "tokens.h5");
  const io::Sampler sampler(file.tokens(), kSeq, 5, true);
  const BatchLoader loader(
      file, sampler,
      {kSeq, 1, 1, 0, model::sequence_runs(model::ContextMethod::kRing, 1, 0, kSeq), true});
  EXPECT_EQ(loader.counted_tokens(0, 2), 0);
}

}  // namespace
}  // namespace pg::app

// With data.mask_documents a document of a packed sequence knows nothing of the others: when one is
// replaced, the losses of all others keep their bits, on every grid, with dense and with dropless
// token-choice models.
#include <gtest/gtest.h>

#include <cstdio>
#include <functional>
#include <vector>

#include "app/parallel_plan.h"
#include "harness/tiny_run.h"
#include "model/optim/zero.h"

namespace pg::testing {
namespace {

constexpr std::int64_t kSeq = 24, kVocab = 61;
// Of two sequences: some documents begin inside, one spans both, two have one token.
const std::vector<std::int64_t> kLengths{5, 1, 7, 8, 6, 1, 9, 13};

// The documents' tokens; `changed` has others (-1: none).
std::filesystem::path write_tokens(const std::string& name, std::int64_t changed) {
  const auto world = comm::make_mpi_group(comm::Communicator::world(), "documents");
  const auto path = scratch_folder("documents") / (name + ".h5");
  if (world->rank() == 0) {
    std::filesystem::remove(path);
    io::TokenFileWriter writer(path, kVocab, "bytes", "made up for a test");
    std::int64_t at = 0;
    for (std::size_t d = 0; d < kLengths.size(); ++d) {
      std::vector<std::int32_t> ids;
      for (std::int64_t i = 0; i < kLengths[d]; ++i, ++at) {
        const auto shift = static_cast<std::int64_t>(d) == changed ? 29 : 0;
        ids.push_back(static_cast<std::int32_t>((at * at * 7 + at * 3 + shift) % kVocab));
      }
      writer.add_document(ids);
    }
    writer.finish();
  }
  world->barrier();
  return path;
}

// A model on a live grid that computes losses only.
class Losses {
 public:
  Losses(app::Deck deck, const comm::Communicator& world)
      : grid_(world, app::grid_of(deck, world.size())),
        kernels_(model::make_cpu_kernels(1)),
        groups_(app::groups_of(deck, grid_)),
        params_(app::layout_of(deck, app::sharding_of(deck, grid_.shape(), grid_.coord())),
                deck.run.precision),
        weights_(params_, *kernels_, groups_),
        reducer_(params_, *kernels_, groups_),
        use_(weights_, reducer_),
        pipeline_(deck.model, app::pipeline_options(deck, grid_.shape()), params_, *kernels_,
                  groups_, deck.run.seed, use_),
        deck_(std::move(deck)) {
    params_.initialise(deck_.run.seed);
    weights_.publish();
  }

  // This rank's sum of each document's losses (document by where it begins in the stream).
  std::vector<double> by_document(const std::filesystem::path& path) {
    const io::TokenFile file(path);
    const auto& shape = grid_.shape();
    const auto cp = shape.size(comm::Axis::kCP);
    app::BatchShare share{
        kSeq,
        deck_.train.micro_batch,
        shape.size(comm::kBatch),
        shape.index_in(grid_.coord(), comm::kBatch),
        model::sequence_runs(deck_.context.method, cp, grid_.coord()[comm::Axis::kCP], kSeq),
        deck_.data.mask_documents};
    const auto runs = share.runs;
    const auto rank = share.rank;
    app::BatchLoader loader(file, io::Sampler(file.tokens(), kSeq, 1, /*shuffle=*/false),
                            std::move(share));
    loader.load(0, deck_.train.global_batch);
    const auto batch = loader.micro(0);
    auto* targets = batch.targets.data<std::int32_t>();
    const std::vector<std::int32_t> all(targets, targets + batch.tokens_count());

    std::vector<double> losses;
    std::int64_t begin = 0;
    for (const auto length : kLengths) {
      std::fill_n(targets, all.size(), -1);
      for (std::int64_t b = 0; b < batch.sequences; ++b) {
        for (const auto& run : runs) {
          for (std::int64_t i = 0; i < run.length; ++i) {
            const auto sample = rank * batch.sequences + b;
            const auto token = sample * kSeq + run.begin + i;
            const auto row = static_cast<std::size_t>(b * batch.seq + run.row + i);
            if (token >= begin && token + 1 < begin + length) targets[row] = all[row];
          }
        }
      }
      losses.push_back(pipeline_.loss([&](int) { return batch; }, 1));
      begin += length;
    }
    return losses;
  }

 private:
  comm::ProcessGrid grid_;
  std::unique_ptr<model::Kernels> kernels_;
  model::Groups groups_;
  model::ParamStore params_;
  model::WeightGatherer weights_;
  model::GradReducer reducer_;
  model::ZeroPlaceUse use_;
  model::Pipeline pipeline_;
  app::Deck deck_;
};

struct Case {
  const char* name;
  int ranks;
  std::function<void(app::Deck&)> change;
};

const auto kNothing = [](app::Deck&) {};
const auto kExperts = [](app::Deck& d) {
  d.model.moe.experts = 6;
  d.model.moe.ffn = 12;
  d.model.moe.shared_experts = 1;
};

std::vector<Case> grids() {
  using model::ContextMethod;
  return {
      {"one rank", 1, kNothing},
      {"cp2 ring", 2, [](auto& d) { d.grid.cp = 2; }},
      {"cp3 ring", 3, [](auto& d) { d.grid.cp = 3; }},
      {"cp4 ring", 4, [](auto& d) { d.grid.cp = 4; }},
      {"cp2 ulysses", 2,
       [](auto& d) {
         d.grid.cp = 2;
         d.context.method = ContextMethod::kUlysses;
       }},
      {"cp4 allgather", 4,
       [](auto& d) {
         d.grid.cp = 4;
         d.context.method = ContextMethod::kAllGather;
       }},
      {"tp2 cp2 ring, sequence parallel", 4,
       [](auto& d) {
         d.grid.tp = d.grid.cp = 2;
         d.grid.sequence_parallel = true;
       }},
      {"ep2", 2,
       [](auto& d) {
         d.grid.ep = 2;
         d.train.micro_batch = 1;
       }},
      {"ep2 cp2 ring", 4,
       [](auto& d) {
         d.grid.ep = d.grid.cp = 2;
         d.train.micro_batch = 1;
       }},
      {"window on cp2 ring", 2,
       [](auto& d) {
         d.grid.cp = 2;
         d.model.window = 4;
       }},
  };
}

// Which documents have other losses, on any rank, when document `changed` is another.
std::vector<bool> documents_that_change(const app::Deck& deck, int ranks, std::int64_t changed) {
  const auto before = write_tokens("before", -1);
  const auto after = write_tokens("after", changed);
  const auto world = comm::Communicator::world();
  const bool inside = world.rank() < ranks;
  const auto part = world.split(inside ? 0 : -1, world.rank());
  std::vector<double> differs(kLengths.size());
  if (inside) {
    Losses losses(deck, part);
    const auto a = losses.by_document(before), b = losses.by_document(after);
    for (std::size_t d = 0; d < a.size(); ++d) differs[d] = a[d] == b[d] ? 0.0 : 1.0;
  }
  const auto group = comm::make_mpi_group(world, "documents");
  group->all_reduce({differs.data(), differs.size(), DType::kF64}, comm::ReduceOp::kMax).wait();
  return {differs.begin(), differs.end()};
}

app::Deck document_deck(DType precision) {
  auto deck = llama_deck("", precision);
  deck.train.seq = deck.model.max_seq = kSeq;
  deck.train.global_batch = deck.train.micro_batch = 2;
  deck.data.mask_documents = true;
  return deck;
}

TEST(Documents, replacing_one_leaves_the_losses_of_all_others_bit_equal) {
  int compared = 0;
  for (const auto type : {DType::kF64, DType::kF32, DType::kBF16}) {
    for (const bool experts : {false, true}) {
      for (const auto& grid : grids()) {
        auto deck = document_deck(type);
        if (experts) kExperts(deck);
        grid.change(deck);
        if (deck.grid.ep > 1 && !experts) continue;
        // In the first sequence, across both, and in the second.
        for (const std::int64_t changed : {2, 4, 6}) {
          const auto differs = documents_that_change(deck, grid.ranks, changed);
          for (std::size_t d = 0; d < differs.size(); ++d) {
            EXPECT_EQ(differs[d], static_cast<std::int64_t>(d) == changed)
                << dtype_name(type) << (experts ? " experts" : " dense") << ", " << grid.name
                << ": document " << d << " when " << changed << " is another";
          }
          ++compared;
        }
      }
    }
  }
  if (comm::Communicator::world().rank() == 0) std::printf("    %d comparisons\n", compared);
}

// Without the mask the later documents of a sequence change too: the comparison can fail.
TEST(Documents, without_the_mask_later_ones_change) {
  for (const auto& grid : {grids()[0], grids()[1], grids()[4], grids()[5]}) {
    auto deck = document_deck(DType::kF64);
    grid.change(deck);
    deck.data.mask_documents = false;
    const auto differs = documents_that_change(deck, grid.ranks, 0);
    EXPECT_TRUE(differs[0]) << grid.name;
    EXPECT_TRUE(differs[2]) << grid.name;
  }
}

}  // namespace
}  // namespace pg::testing

#include "harness/tiny_run.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <span>

#include "app/device.h"
#include "app/gather_tensor.h"
#include "comm/random.h"

namespace pg::testing {

namespace fs = std::filesystem;

fs::path scratch_folder(const std::string& name) {
  const auto folder = fs::path(PG_BINARY_DIR) / "tests" / "scratch" / name;
  fs::create_directories(folder);
  return folder;
}

std::string no_folder(const comm::Communicator& world, const std::string& test,
                      const std::string& name) {
  const auto group = comm::make_mpi_group(world, "no_folder");
  const auto folder = scratch_folder(test) / (name + "_np" + std::to_string(group->size()));
  group->barrier();
  if (group->rank() == 0) fs::remove_all(folder);
  group->barrier();
  return folder.string();
}

namespace {

std::vector<std::int32_t> learnable_ids(std::int64_t tokens, std::int64_t vocab,
                                        std::int64_t seed) {
  const auto key = comm::random_key(static_cast<std::uint64_t>(seed), "test/tokens");
  std::vector<std::int32_t> ids;
  std::int64_t id = 0;
  for (std::int64_t i = 0; i < tokens; ++i) {
    const auto bits = comm::random_bits(key, 0, static_cast<std::uint64_t>(i));
    // Three in four follow a rule, one in four is anything.
    id = bits % 4 != 0 ? (id * 7 + 3) % vocab : static_cast<std::int64_t>(bits / 4) % vocab;
    ids.push_back(static_cast<std::int32_t>(id));
  }
  return ids;
}

// Rank 0 writes documents of next_length() tokens, the last one shorter; the others wait.
template <class NextLength>
fs::path write_tokens(const comm::Communicator& world, const std::string& name, std::int64_t vocab,
                      const std::vector<std::int32_t>& ids, NextLength next_length) {
  const auto group = comm::make_mpi_group(world, "make_tokens");
  const auto path = scratch_folder("tokens") / (name + ".h5");
  if (group->rank() == 0) {
    // It appears whole: other launches of the test may read the same bytes there meanwhile.
    io::TokenFileWriter writer(path, vocab, "bytes", "made up for a test");
    for (std::span<const std::int32_t> rest(ids); !rest.empty();) {
      const auto length = std::min(rest.size(), static_cast<std::size_t>(next_length()));
      writer.add_document(rest.first(length));
      rest = rest.subspan(length);
    }
    writer.finish();
  }
  group->barrier();
  return path;
}

}  // namespace

fs::path make_tokens(const comm::Communicator& world, const std::string& name, std::int64_t tokens,
                     std::int64_t vocab, std::int64_t seed) {
  return write_tokens(world, name, vocab, learnable_ids(tokens, vocab, seed),
                      [&] { return tokens; });
}

fs::path make_documents(const comm::Communicator& world, const std::string& name,
                        std::int64_t tokens, std::int64_t vocab, std::int64_t seed,
                        std::int64_t longest) {
  const auto key = comm::random_key(static_cast<std::uint64_t>(seed), "test/documents");
  std::uint64_t document = 0;
  return write_tokens(world, name, vocab, learnable_ids(tokens, vocab, seed), [&] {
    const auto bits = comm::random_bits(key, 0, document++);
    return bits % 4 == 0 ? 1 : 1 + static_cast<std::int64_t>(bits / 4) % longest;
  });
}

namespace {

app::Deck base_deck(const fs::path& tokens, DType precision) {
  app::Deck deck;
  deck.run.name = "tiny";
  deck.run.seed = 7;
  deck.run.device = "cpu";
  deck.run.precision = precision;
  deck.run.threads = 1;
  deck.data.train = tokens.string();
  deck.train.steps = 40;
  deck.train.seq = 12;
  deck.train.global_batch = 24;
  deck.run.device = "cpu";
  deck.train.micro_batch = 2;
  deck.train.eval_batches = 2;
  deck.optimizer.kind = "adamw";
  deck.optimizer.lr = 1e-2;
  deck.optimizer.beta1 = 0.9;
  deck.optimizer.beta2 = 0.95;
  deck.optimizer.eps = 1e-8;
  deck.optimizer.weight_decay = 0.1;
  deck.optimizer.clip = 1.0;
  deck.schedule.kind = app::LrKind::kCosine;
  deck.schedule.warmup = 4;
  deck.schedule.min_lr = 1e-3;
  deck.checkpoint.resume = "none";
  deck.log.every = 10;
  deck.model.layers = 2;
  deck.model.vocab = 61;
  deck.model.max_seq = 12;
  return deck;
}

}  // namespace

app::Deck llama_deck(const fs::path& tokens, DType precision) {
  auto deck = base_deck(tokens, precision);
  auto& m = deck.model;
  m.hidden = 30;
  m.heads = 6;
  m.kv_heads = 2;
  m.head_dim = 6;
  m.ffn = 44;
  m.norm = model::NormKind::kRmsNorm;
  m.activation = model::Activation::kSwiGlu;
  m.position = model::PositionKind::kRope;
  return deck;
}

app::Deck gpt2_deck(const fs::path& tokens, DType precision) {
  auto deck = base_deck(tokens, precision);
  auto& m = deck.model;
  m.hidden = 28;
  m.heads = 4;
  m.kv_heads = 4;
  m.head_dim = 7;
  m.ffn = 53;
  m.norm = model::NormKind::kLayerNorm;
  m.activation = model::Activation::kGelu;
  m.position = model::PositionKind::kLearned;
  m.bias = true;
  m.tie_embeddings = true;
  m.dropout = 0.1;
  return deck;
}

namespace {

std::map<std::string, std::vector<double>> gather(comm::ProcessGrid& grid,
                                                  const std::vector<comm::TensorRecord>& records) {
  std::map<std::string, std::vector<double>> all;
  for (const auto& record : records) {
    all[record.name] = app::gather_tensor(grid.world(), record);
  }
  return all;
}

}  // namespace

std::map<std::string, std::vector<double>> logical_state(comm::ProcessGrid& grid,
                                                         app::Trainer& trainer) {
  return gather(grid, trainer.records_to_save());
}

Trace train(const comm::Communicator& world, const app::Deck& deck, std::int64_t steps,
            const model::Sabotage& sabotage) {
  const auto gpu = app::open_gpu(deck, world);
  comm::ProcessGrid grid(world, app::grid_of(deck, world.size()), gpu.get());
  app::Trainer trainer(deck, grid);
  trainer.set_sabotage(sabotage);
  Trace trace;
  for (std::int64_t i = 0; i < steps; ++i) {
    const auto result = trainer.step();
    trace.losses.push_back(result.loss);
    trace.grad_norms.push_back(result.grad_norm);
    trace.aux_losses.push_back(result.aux_loss);
    trace.dropped.push_back(result.moe.dropped_share());
    if (i == 0) trace.first_gradients = gather(grid, trainer.params().gradient_records());
  }
  trace.state = logical_state(grid, trainer);
  return trace;
}

double norm(const std::vector<double>& x) {
  double squares = 0;
  for (const double value : x) squares += value * value;
  return std::sqrt(squares);
}

double deviation(const std::vector<double>& a, const std::vector<double>& b, double floor) {
  if (a.size() != b.size()) return INFINITY;
  std::vector<double> difference(a.size());
  for (std::size_t i = 0; i < a.size(); ++i) difference[i] = a[i] - b[i];
  return norm(difference) / std::max(norm(b), floor);
}

}  // namespace pg::testing

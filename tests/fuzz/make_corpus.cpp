// fuzz_make_corpus FOLDER: writes the seeds of the fuzz targets, FOLDER/TARGET/seed-*, with the
// program's own writers. Needed again when a format changes; files that are findings stay.
#include <sentencepiece_trainer.h>
#include <zlib.h>

#include <deque>
#include <fstream>
#include <iostream>
#include <numeric>
#include <unordered_map>

#include "app/schema.h"
#include "comm/mpi_session.h"
#include "io/checkpoint.h"
#include "io/files.h"
#include "io/raw_file.h"
#include "io/run_folder.h"
#include "io/token_file.h"
#include "io/tokenizer.h"

namespace pg {
namespace {

namespace fs = std::filesystem;

constexpr const char* kDeck = R"([model]
vocab = 256
layers = 2
hidden = 16
heads = 2
[data]
train = "train.h5"
[train]
steps = 4
seq = 8
global_batch = 8
micro_batch = 1
[optimizer]
lr = 1e-3
)";

constexpr const char* kLargeDeck = R"(# A deck of every kind of value.
[run]
name = "fuzz"
output = 'runs/fuzz'
threads = 1
[grid]
dp = 1
tp = 2
pp = 2
zero = 1
sequence_parallel = true
[pipeline]
schedule = "interleaved"
chunks = 2
[model]
vocab = 256
layers = 8
hidden = 32
heads = 4
kv_heads = 2
[moe]
experts = 4
top_k = 2
[data]
train = "train.h5"
text = ["a/*.txt", """b
"""]
[train]
steps = 1_000
seq = 0x10
global_batch = 8
micro_batch = 1
[optimizer]
lr = 3e-4
betas = [0.9, 0.95]
[checkpoint]
every = 10
hints = ["striping_factor=8"]
%%
train.steps=7
run.name=bare word
moe.experts=8
)";

void token_files(const fs::path& folder) {
  const struct {
    const char* name;
    std::int64_t vocab;
    std::int32_t documents;
  } cases[] = {{"seed-u8", 256, 2}, {"seed-u16", 1000, 5}, {"seed-u32", 70000, 3}};
  for (const auto& c : cases) {
    io::TokenFileWriter writer(folder / c.name, c.vocab, c.vocab == 256 ? "bytes" : "a model",
                               "a test");
    std::vector<std::int32_t> ids(10);
    for (std::int32_t d = 0; d < c.documents; ++d) {
      std::iota(ids.begin(), ids.end(), 3 * d);
      writer.add_document(ids);
    }
    writer.finish();
  }
  // A token past the vocabulary: found where it is read, not before.
  auto bytes = io::read_file(folder / "seed-u16", 1 << 16);
  const std::uint16_t begin[3] = {0, 1, 2}, past = 1000;
  const auto at = bytes.find(std::string_view(reinterpret_cast<const char*>(begin), sizeof begin));
  PG_ASSERT(at != bytes.npos, "where are the tokens?");
  bytes.replace(at + 4, 2, reinterpret_cast<const char*>(&past), 2);
  io::write_file(folder / "refused-past-vocabulary", bytes);
  io::write_file(folder / "refused-truncated", bytes.substr(0, bytes.size() - 1));
}

void states(const fs::path& folder, const fs::path& scratch) {
  const auto world = comm::Communicator::world();
  const DType dtypes[] = {DType::kF32, DType::kBF16, DType::kI64};
  // Links in the group's header, in one block of a heap, and in a heap of many blocks.
  for (const int count : {3, 12, 60}) {
    std::deque<std::vector<char>> memory;
    std::vector<comm::TensorRecord> tensors;
    for (int i = 0; i < count; ++i) {
      comm::TensorRecord tensor{.name = fmt::format("blocks.{}.weight", i),
                                .dtype = dtypes[i % 3],
                                .shape = {2, i % 2 + 1},
                                .slabs = {}};
      auto& data = memory.emplace_back(
          static_cast<std::size_t>(tensor.elements()) * dtype_size(tensor.dtype), 'x');
      tensor.slabs.push_back(
          {.offset = {0, 0}, .extent = tensor.shape, .data = data.data(), .owner = true});
      tensors.push_back(std::move(tensor));
    }
    const io::CheckpointInfo info{.step = 3,
                                  .next_sample = 24,
                                  .data_fingerprint = "00112233445566778899aabbccddeeff",
                                  .deck = kDeck,
                                  .provenance = R"({"version":"0.1.0","hosts":["n1","n2"]})"};
    const auto entry = io::save_checkpoint(world, scratch, info, tensors);
    const auto copy = fs::copy_options::overwrite_existing;
    fs::copy_file(entry / "state.h5", folder / "state" / fmt::format("seed-{}", count), copy);
    fs::copy_file(entry / "manifest.json", folder / "manifest" / "seed", copy);
    fs::copy_file(entry / "run.json", folder / "run_json" / "seed", copy);
    fs::remove_all(entry);
  }
}

void run_folder(const fs::path& folder) {
  io::RunFolder choices(folder / "choices");
  choices.write_choices({"matmul 1 2 3 -> 4\n", "", "\"quoted\" \xC3\xA9"});
  fs::rename(folder / "choices/choices.json", folder / "choices/seed");
  io::MetricsWriter metrics(folder / "metrics/seed", 0);
  for (int step = 1; step < 9; ++step) {
    metrics.write(fmt::format(R"({{"step": {}, "loss": {}, "note": {}}})", step,
                              io::json_number(5.5 / step), io::json_string("a\nb")));
    if (step > 3) metrics.write(fmt::format(R"({{"step": {}, "valid_cut": "x"}})", step));
    if (step > 5) metrics.write(fmt::format(R"({{"step": {}, "valid_loss": 5.5}})", step));
  }
}

std::string gzip(const std::string& text) {
  std::string out(4096, '\0');
  z_stream stream{};
  const int begun =
      deflateInit2(&stream, Z_BEST_COMPRESSION, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
  PG_ASSERT(begun == Z_OK, "deflateInit2 {}", begun);
  auto input = text;
  stream.next_in = reinterpret_cast<Bytef*>(input.data());
  stream.avail_in = static_cast<uInt>(input.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  const int status = deflate(&stream, Z_FINISH);
  PG_ASSERT(status == Z_STREAM_END, "deflate {}", status);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

// A model of another making, of each kind: with a normalization table, here of a few rules.
std::string foreign_model(const std::string& kind, const fs::path& rules) {
  class Words : public sentencepiece::SentenceIterator {
   public:
    bool done() const override { return left_ == 0; }
    void Next() override { --left_; }
    const std::string& value() const override { return line_; }
    sentencepiece::util::Status status() const override { return {}; }

   private:
    int left_ = 50;
    std::string line_ = "the cat sat on the mat with the hat";
  } words;
  io::write_file(rules, "41\t61\n42 43\t62 63\n1F600\t3A 29\n");
  const std::unordered_map<std::string, std::string> settings = {
      {"vocab_size", "60"}, {"model_type", kind},
      {"minloglevel", "3"}, {"normalization_rule_tsv", rules.string()},
      {"num_threads", "1"}, {"hard_vocab_limit", "false"}};
  std::string model;
  const auto status = sentencepiece::SentencePieceTrainer::Train(settings, &words, &model);
  PG_ASSERT(status.ok(), "{}", status.ToString());
  fs::remove(rules);
  return model;
}

void texts(const fs::path& folder) {
  const std::string text =
      "Lines of text,\nsome \xC3\xA9\xE2\x82\xAC\xF0\x9F\x8C\x8D,\n\n\nand bytes "
      "\xFF\xC3 that are not UTF-8\r\nwithout an end";
  io::write_file(folder / "text/seed-plain", text);
  io::write_file(folder / "text/seed-gzip", gzip(text));
  io::write_file(folder / "text/seed-two-members", gzip("one\n") + gzip("two\n"));
  std::string words;
  for (int i = 0; i < 200; ++i) words += fmt::format("the token {} of a text\n", i % 17);
  io::write_file(folder / "tokenizer/seed", io::train_tokenizer(words, 290));
  for (const auto* kind : {"bpe", "unigram", "word", "char"}) {
    io::write_file(folder / fmt::format("tokenizer/seed-{}", kind),
                   foreign_model(kind, folder / "rules.tsv"));
  }
}

void make(const fs::path& folder) {
  for (const auto* name : {"deck", "manifest", "run_json", "choices", "metrics", "token_file",
                           "state", "tokenizer", "text"}) {
    fs::create_directories(folder / name);
  }
  io::write_file(folder / "deck/seed-small", kDeck);
  io::write_file(folder / "deck/seed-large", kLargeDeck);
  io::write_file(folder / "deck/seed-resolved",
                 app::parse_deck(kDeck, "fuzz.toml", {}, app::Purpose::kTrain, 4).resolved);
  token_files(folder / "token_file");
  states(folder, folder / "scratch");
  fs::remove_all(folder / "scratch");
  run_folder(folder);
  texts(folder);
}

}  // namespace
}  // namespace pg

int main(int argc, char** argv) {
  const pg::comm::MpiSession mpi(argc, argv);
  if (argc != 2) {
    std::cerr << "usage: fuzz_make_corpus FOLDER\n";
    return 2;
  }
  try {
    pg::make(argv[1]);
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
}

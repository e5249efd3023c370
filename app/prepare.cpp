#include "app/prepare.h"

#include <chrono>
#include <filesystem>
#include <optional>

#include "app/prepare_encode.h"
#include "comm/error.h"
#include "io/progress.h"
#include "io/raw_file.h"
#include "io/text_source.h"
#include "io/token_file.h"
#include "io/tokenizer.h"
#include "io/xxh3.h"

namespace pg::app {

namespace fs = std::filesystem;

namespace {

constexpr std::size_t kSampleBytes = std::size_t{8} << 20;  // that a tokenizer is trained on

// "12.3 MB": decimal, as disks are sold and file managers count.
std::string bytes_text(std::int64_t bytes) {
  if (bytes < 10'000) return fmt::format("{} bytes", bytes);
  if (bytes < 1'000'000) return fmt::format("{:.1f} kB", static_cast<double>(bytes) * 1e-3);
  if (bytes < 1'000'000'000) return fmt::format("{:.1f} MB", static_cast<double>(bytes) * 1e-6);
  return fmt::format("{:.1f} GB", static_cast<double>(bytes) * 1e-9);
}

std::string counted(std::int64_t n, std::string_view unit) {
  auto digits = std::to_string(n);
  for (auto at = std::ssize(digits) - 3; at > 0; at -= 3) {
    digits.insert(static_cast<std::size_t>(at), 1, ',');
  }
  return fmt::format("{} {}{}", digits, unit, n == 1 ? "" : "s");
}

bool there(const std::string& path) {
  std::error_code error;
  return fs::exists(path, error) || error;
}

void line(std::string_view name, const std::string& value) {
  fmt::print("  {:<10} {}\n", name, value);
}

class Stopwatch {
 public:
  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

void check_keys(const Deck& deck) {
  const auto& data = deck.data;
  const auto need = [](bool good, std::string_view what) {
    if (!good) throw fail(ExitCode::kDeck, "{}", what);
  };
  need(!data.train.empty(), "data.train: prepare needs the name of the token file to make");
  need(!data.text.empty(), "data.text: prepare needs the text: files, folders or globs");
  need(!data.tokenizer.empty(), "data.tokenizer: prepare needs \"bytes\" or a .model file");
  need(data.valid != data.train, "data.valid: it is the same file as data.train");
  need(data.tokenizer != data.train && data.tokenizer != data.valid,
       "data.tokenizer: it is the same file as data.train or data.valid");
}

// What the text was, as the token files remember it: enough to tell another text, for people to
// read, and bounded.
std::string describe(const Deck& deck, const std::vector<io::TextFile>& files) {
  io::Xxh3 digest;
  std::int64_t bytes = 0;
  for (const auto& file : files) {
    digest.update(fmt::format("{} {}\n", file.path.string(), file.bytes));
    bytes += file.bytes;
  }
  std::string patterns;
  for (const auto& pattern : deck.data.text) patterns += (patterns.empty() ? "" : " ") + pattern;
  if (patterns.size() > 1000) patterns = patterns.substr(0, 1000) + " ...";
  return fmt::format("{}: {} files of {} bytes, names and sizes {}", patterns, files.size(), bytes,
                     digest.hex());
}

std::string source_of(const std::string& text, const Deck& deck, bool held_out) {
  if (deck.data.valid.empty()) return text + "; all of it";
  return text + (held_out ? "; every 64th part" : "; all but every 64th part");
}

// The file at `path`, if it was made from this text and fits the deck; nothing when there is none.
// Another one is an error: it may be somebody's only copy.
std::optional<io::TokenFile> existing(const std::string& path, const std::string& source,
                                      const Deck& deck) {
  if (!there(path)) return {};
  io::TokenFile file(path);
  const auto differs = [&](const std::string& what) {
    return fail(ExitCode::kData, "{}: it is there already, {}; remove it to prepare it anew", path,
                what);
  };
  if (file.source() != source) {
    throw differs(fmt::format("made from other text or another split ({} instead of {})",
                              file.source(), source));
  }
  const bool bytes = deck.data.tokenizer == "bytes";
  if (bytes != (file.tokenizer() == "bytes")) {
    throw differs(fmt::format("made with {}", bytes ? "a SentencePiece model" : "bytes as tokens"));
  }
  if (!bytes && there(deck.data.tokenizer) &&
      io::Tokenizer::load(deck.data.tokenizer).stored() != file.tokenizer()) {
    throw differs(fmt::format("made with another tokenizer than {}", deck.data.tokenizer));
  }
  return file;
}

void check_vocab(const Deck& deck, std::int64_t vocab) {
  if (vocab <= deck.model.vocab) return;
  throw fail(ExitCode::kDeck, "model.vocab: {} is less than the {} ids of the tokenizer {}",
             deck.model.vocab, vocab, deck.data.tokenizer);
}

std::string train(const Deck& deck, const std::vector<io::TextFile>& files) {
  const Stopwatch watch;
  io::TextSample sample(kSampleBytes);
  {
    io::Progress progress("sampling text", total_bytes(files));
    std::int64_t before = 0;
    std::string piece;
    for (const auto& file : files) {
      io::TextReader reader(file, true);
      while (reader.next(piece)) {
        sample.add(piece);
        progress.update(before + reader.disk_bytes());
      }
      before += file.bytes;
    }
  }
  const auto text = sample.text();
  std::string model;
  {
    io::Progress progress("training the tokenizer (some seconds)", 0);
    progress.update(0);
    model = io::train_tokenizer(text, deck.model.vocab);
  }
  io::write_file(deck.data.tokenizer, model);
  line("tokenizer", fmt::format("{}: trained on {} of the text in {:.1f} s", deck.data.tokenizer,
                                bytes_text(std::ssize(text)), watch.seconds()));
  return model;
}

io::Tokenizer obtain_tokenizer(const Deck& deck, const std::vector<io::TextFile>& files) {
  const auto& setting = deck.data.tokenizer;
  const bool have = setting == "bytes" || there(setting);
  auto tokenizer = have ? io::Tokenizer::load(setting) : io::Tokenizer(train(deck, files), setting);
  if (have) {
    line("tokenizer", tokenizer.is_bytes() ? "bytes" : fmt::format("{}: as it is there", setting));
  }
  check_vocab(deck, tokenizer.vocab());
  line("",
       fmt::format("{} of model.vocab = {}{}", counted(tokenizer.vocab(), "id"), deck.model.vocab,
                   tokenizer.lossless() ? "" : "; it does not give every text back unchanged"));
  return tokenizer;
}

void report(std::string_view name, const std::string& path, std::int64_t documents,
            std::int64_t tokens, std::int64_t bytes) {
  line(name, fmt::format("{}: {}, {}, {:.2f} bytes a token", path, counted(documents, "document"),
                         counted(tokens, "token"),
                         static_cast<double>(bytes) / static_cast<double>(tokens)));
}

bool reuse(const Deck& deck, const std::string& text) {
  const auto& data = deck.data;
  // Files that are made now must not surprise: both are looked at before anything is done.
  const auto valid =
      data.valid.empty() ? std::nullopt : existing(data.valid, source_of(text, deck, true), deck);
  const auto train_file = existing(data.train, source_of(text, deck, false), deck);
  if (!train_file || (!data.valid.empty() && !valid)) return false;
  check_vocab(deck, train_file->vocab());
  if (valid && valid->tokenizer() != train_file->tokenizer()) {
    throw fail(ExitCode::kData, "{}: made with another tokenizer than {}; remove both", data.valid,
               data.train);
  }
  if (data.tokenizer != "bytes" && !there(data.tokenizer)) {
    io::write_file(data.tokenizer, train_file->tokenizer());
    line("tokenizer", fmt::format("{}: restored from {}", data.tokenizer, data.train));
  }
  for (const auto* file : {&*train_file, valid ? &*valid : nullptr}) {
    if (file == nullptr) continue;
    line(file == &*train_file ? "train" : "valid",
         fmt::format("{}: complete, {}, {}, kept", file->path().string(),
                     counted(file->documents(), "document"), counted(file->tokens(), "token")));
  }
  return true;
}

}  // namespace

int run_prepare(const Deck& deck) {
  const Stopwatch watch;
  check_keys(deck);
  const auto& data = deck.data;
  const auto files = io::find_text(data.text);
  const auto text = describe(deck, files);
  fmt::print("prepare\n");
  line("text", fmt::format("{}, {} on disk", counted(std::ssize(files), "file"),
                           bytes_text(total_bytes(files))));
  if (reuse(deck, text)) return static_cast<int>(ExitCode::kDone);

  const auto tokenizer = obtain_tokenizer(deck, files);
  io::TokenFileWriter train_out(data.train, tokenizer.vocab(), tokenizer.stored(),
                                source_of(text, deck, false));
  std::optional<io::TokenFileWriter> valid_out;
  if (!data.valid.empty()) {
    valid_out.emplace(data.valid, tokenizer.vocab(), tokenizer.stored(),
                      source_of(text, deck, true));
  }
  const auto counts =
      encode_text(files, tokenizer, deck.run.threads, train_out, valid_out ? &*valid_out : nullptr);
  if (valid_out && valid_out->documents() == 0) {
    throw fail(ExitCode::kDeck,
               "data.valid: the text is too short to hold a 64th of it out ({}); leave it empty or "
               "give more text",
               bytes_text(counts.train_bytes));
  }
  // The training file comes last: where it is, everything is.
  if (valid_out) valid_out->finish();
  train_out.finish();

  report("train", data.train, train_out.documents(), train_out.tokens(), counts.train_bytes);
  if (valid_out) {
    report("valid", data.valid, valid_out->documents(), valid_out->tokens(), counts.valid_bytes);
  }
  if (counts.replaced > 0) {
    line("not UTF-8", fmt::format("{} replaced by U+FFFD in {}, first in {}",
                                  counted(counts.replaced, "sequence"),
                                  counted(counts.repaired_files, "file"), counts.first_repaired));
  }
  if (counts.empty_files > 0) {
    line("empty", counted(counts.empty_files, "file") + ": no document");
  }
  line("time", fmt::format("{:.1f} s for {} of text", watch.seconds(),
                           bytes_text(counts.train_bytes + counts.valid_bytes)));
  return static_cast<int>(ExitCode::kDone);
}

}  // namespace pg::app

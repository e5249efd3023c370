#include <unistd.h>

#include <vector>

#include "io/raw_file.h"
#include "io/token_file.h"
#include "io/token_file_hdf5.h"
#include "io/xxh3.h"

namespace pg::io {

namespace {

// A scratch file with a buffer before it and a digest of all that went in.
class Spool {
 public:
  explicit Spool(const std::filesystem::path& beside)
      : file_(RawFile::scratch(beside, ExitCode::kSave)) {
    buffer_.reserve(kBuffer);
  }
  template <class Stored>
  void put(Stored value) {
    const auto* bytes = reinterpret_cast<const char*>(&value);
    buffer_.insert(buffer_.end(), bytes, bytes + sizeof(Stored));
    if (buffer_.size() >= kBuffer) flush();
  }
  void flush() {
    digest_.update(buffer_.data(), buffer_.size());
    file_.append(buffer_.data(), buffer_.size());
    buffer_.clear();
  }
  const RawFile& file() const { return file_; }
  std::string digest() const { return digest_.hex(); }

 private:
  static constexpr std::size_t kBuffer = std::size_t{1} << 20;
  RawFile file_;
  std::vector<char> buffer_;
  Xxh3 digest_;
};

std::filesystem::path with_directories(const std::filesystem::path& path) {
  make_parents(path);
  return path;
}

}  // namespace

struct TokenFileWriter::Impl {
  Impl(const std::filesystem::path& path_, std::int64_t vocab_, const std::string& tokenizer_,
       const std::string& source_)
      : path(with_directories(path_)),
        vocab(vocab_),
        tokenizer(tokenizer_ == "bytes" ? "" : tokenizer_),
        source(source_),
        ids(path),
        starts(path) {
    PG_ASSERT(vocab >= 1 && vocab <= INT32_MAX, "vocab {}", vocab);
    PG_ASSERT(source.size() < 60000, "a source of {} bytes", source.size());
  }

  template <class Stored>
  void put(std::span<const std::int32_t> part) {
    for (const auto id : part) {
      PG_ASSERT(id >= 0 && id < vocab, "id {} vocab {}", id, vocab);
      ids.put(static_cast<Stored>(id));
    }
  }
  int width() const { return vocab <= 1 << 8 ? 1 : vocab <= 1 << 16 ? 2 : 4; }

  std::filesystem::path path;
  std::int64_t vocab;
  std::string tokenizer, source;
  Spool ids, starts;
  std::int64_t tokens = 0, documents = 0, document_start = 0;
};

TokenFileWriter::TokenFileWriter(const std::filesystem::path& path, std::int64_t vocab,
                                 const std::string& tokenizer, const std::string& source)
    : impl_(std::make_unique<Impl>(path, vocab, tokenizer, source)) {}
TokenFileWriter::~TokenFileWriter() = default;

void TokenFileWriter::append(std::span<const std::int32_t> tokens) {
  switch (impl_->width()) {
    case 1:
      impl_->put<std::uint8_t>(tokens);
      break;
    case 2:
      impl_->put<std::uint16_t>(tokens);
      break;
    default:
      impl_->put<std::uint32_t>(tokens);
  }
  impl_->tokens += std::ssize(tokens);
}

void TokenFileWriter::end_document() {
  auto& self = *impl_;
  PG_ASSERT(self.tokens > self.document_start, "an empty document at token {}", self.tokens);
  self.starts.put(self.document_start);
  self.document_start = self.tokens;
  ++self.documents;
}

void TokenFileWriter::finish() {
  auto& self = *impl_;
  PG_ASSERT(self.document_start == self.tokens, "document {} is open", self.documents);
  if (self.documents == 0) {
    throw fail(ExitCode::kData, "{}: there is no text for it: no documents", self.path.string());
  }
  self.starts.put(self.tokens);
  self.starts.flush();
  self.ids.flush();
  Xxh3 tokenizer_digest;
  tokenizer_digest.update(self.tokenizer);
  const TokenFileAttributes attributes{self.vocab, self.ids.digest(), self.starts.digest(),
                                       tokenizer_digest.hex(), self.source};
  const auto temporary = temporary_name(self.path);
  try {
    write_token_file(temporary,
                     {&self.ids.file(), &self.starts.file(), &self.tokenizer, self.width()},
                     attributes);
    commit_file(temporary, self.path);
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
}

std::int64_t TokenFileWriter::tokens() const {
  return impl_->tokens;
}
std::int64_t TokenFileWriter::documents() const {
  return impl_->documents;
}

}  // namespace pg::io

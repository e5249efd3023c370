#include "io/token_file.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <vector>

#include "io/token_file_hdf5.h"
#include "io/xxh3.h"

namespace pg::io {

static_assert(std::endian::native == std::endian::little, "token files are little-endian");

struct TokenFile::Impl {
  std::filesystem::path path;
  TokenFileLayout layout;
  std::string tokenizer, fingerprint;

  std::int64_t vocab() const { return layout.attributes.vocab; }

  // The bytes of elements [begin, begin + count) of `region`, which lie inside it.
  void fetch(const TokenFileRegion& region, const char* name, std::int64_t begin,
             std::int64_t count, void* data) const {
    const auto offset = region.offset + begin * region.width;
    const auto bytes = static_cast<std::size_t>(count * region.width);
    const auto got = layout.file.read_at(offset, data, bytes);
    if (got == bytes) return;
    throw fail(ExitCode::kData,
               "{}: /{}: nothing is at byte {} any more: the file has shrunk since it was opened",
               path.string(), name, offset + static_cast<std::int64_t>(got));
  }

  // Widens `count` stored ids, the first of which is token `begin`, and checks them.
  template <class Stored>
  void widen(const void* from, std::int64_t begin, std::span<std::int32_t> out) const {
    const auto* stored = static_cast<const Stored*>(from);
    const auto limit = static_cast<std::uint32_t>(vocab());
    bool legal = true;
    for (std::size_t i = 0; i < out.size(); ++i) {
      legal &= stored[i] < limit;
      out[i] = static_cast<std::int32_t>(stored[i]);
    }
    if (legal) return;
    const auto bad =
        std::find_if(stored, stored + out.size(), [&](Stored id) { return id >= limit; });
    const auto index = begin + (bad - stored);
    throw fail(ExitCode::kData, "{}: token {} (byte {}) is {}, outside the vocabulary of {}",
               path.string(), index, layout.tokens.offset + index * layout.tokens.width,
               static_cast<std::uint32_t>(*bad), vocab());
  }

  void widen(const void* from, std::int64_t begin, std::span<std::int32_t> out) const {
    switch (layout.tokens.width) {
      case 1:
        return widen<std::uint8_t>(from, begin, out);
      case 2:
        return widen<std::uint16_t>(from, begin, out);
      default:
        return widen<std::uint32_t>(from, begin, out);
    }
  }

  void expect_digest(const Xxh3& digest, const std::string& stored, const char* name) const {
    if (digest.hex() == stored) return;
    throw fail(ExitCode::kData, "{}: /{} is damaged: its digest is {}, not {}", path.string(), name,
               digest.hex(), stored);
  }

  void check_documents() const {
    const auto& region = layout.documents;
    const auto tokens = layout.tokens.count;
    if (tokens < 1) throw fail(ExitCode::kData, "{}: it has no tokens", path.string());
    if (region.count < 2) throw fail(ExitCode::kData, "{}: it has no documents", path.string());
    Xxh3 digest;
    std::vector<std::int64_t> starts(
        static_cast<std::size_t>(std::min(region.count, std::int64_t{1} << 16)));
    std::int64_t last = -1;
    for (std::int64_t at = 0; at < region.count;) {
      const auto count = std::min<std::int64_t>(std::ssize(starts), region.count - at);
      fetch(region, "documents", at, count, starts.data());
      digest.update(starts.data(), static_cast<std::size_t>(count) * sizeof(std::int64_t));
      for (std::int64_t i = 0; i < count; ++i, ++at) {
        const auto start = starts[static_cast<std::size_t>(i)];
        if (at == 0 ? start == 0 : start > last && start <= tokens) {
          last = start;
          continue;
        }
        throw fail(ExitCode::kData,
                   "{}: /documents: entry {} (byte {}) is {}, after {}, of {} tokens",
                   path.string(), at, region.offset + at * region.width, start, last, tokens);
      }
    }
    if (last != tokens) {
      throw fail(ExitCode::kData, "{}: /documents ends at token {} of {}", path.string(), last,
                 tokens);
    }
    expect_digest(digest, layout.attributes.documents_digest, "documents");
  }

  void read_tokenizer() {
    constexpr std::int64_t kLimit = std::int64_t{1} << 28;
    const auto& region = layout.tokenizer;
    if (region.count > kLimit) {
      throw fail(ExitCode::kData, "{}: a tokenizer of {} bytes", path.string(), region.count);
    }
    tokenizer.resize(static_cast<std::size_t>(region.count));
    fetch(region, "tokenizer", 0, region.count, tokenizer.data());
    Xxh3 digest;
    digest.update(tokenizer);
    expect_digest(digest, layout.attributes.tokenizer_digest, "tokenizer");
    if (tokenizer.empty()) tokenizer = "bytes";
  }
};

TokenFile::TokenFile(const std::filesystem::path& path) : impl_(std::make_unique<Impl>()) {
  impl_->path = path;
  impl_->layout = read_token_file_layout(path);
  impl_->check_documents();
  impl_->read_tokenizer();
  const auto& attributes = impl_->layout.attributes;
  Xxh3 all;
  all.update(fmt::format("{} {} {} {} {}", impl_->layout.tokens.count, attributes.vocab,
                         attributes.tokens_digest, attributes.documents_digest,
                         attributes.tokenizer_digest));
  impl_->fingerprint = all.hex();
}

TokenFile::TokenFile(TokenFile&&) noexcept = default;
TokenFile::~TokenFile() = default;

const std::filesystem::path& TokenFile::path() const {
  return impl_->path;
}
std::int64_t TokenFile::tokens() const {
  return impl_->layout.tokens.count;
}
std::int64_t TokenFile::documents() const {
  return impl_->layout.documents.count - 1;
}
std::int64_t TokenFile::vocab() const {
  return impl_->vocab();
}
const std::string& TokenFile::fingerprint() const {
  return impl_->fingerprint;
}
const std::string& TokenFile::source() const {
  return impl_->layout.attributes.source;
}
const std::string& TokenFile::tokenizer() const {
  return impl_->tokenizer;
}

std::int64_t TokenFile::document_start(std::int64_t i) const {
  PG_ASSERT(i >= 0 && i <= documents(), "document {} of {}", i, documents());
  std::int64_t start = 0;
  impl_->fetch(impl_->layout.documents, "documents", i, 1, &start);
  return start;
}

void TokenFile::read(std::int64_t begin, std::span<std::int32_t> out) const {
  const auto size = std::ssize(out);
  if (begin < 0 || begin > tokens() || size > tokens() - begin) {
    throw fail(ExitCode::kData, "{}: {} tokens from token {} on are asked for, it has {}",
               path().string(), size, begin, tokens());
  }
  std::array<std::uint64_t, 2048> block;
  const auto per_block = static_cast<std::int64_t>(sizeof(block)) / impl_->layout.tokens.width;
  for (std::int64_t done = 0; done < size;) {
    const auto count = std::min(per_block, size - done);
    impl_->fetch(impl_->layout.tokens, "tokens", begin + done, count, block.data());
    impl_->widen(block.data(), begin + done,
                 out.subspan(static_cast<std::size_t>(done), static_cast<std::size_t>(count)));
    done += count;
  }
}

void TokenFile::verify() const {
  impl_->check_documents();
  const auto block = std::min(tokens(), std::int64_t{1} << 18);
  const auto width = impl_->layout.tokens.width;
  std::vector<char> stored(static_cast<std::size_t>(block * width));
  std::vector<std::int32_t> ids(static_cast<std::size_t>(block));
  Xxh3 digest;
  for (std::int64_t begin = 0; begin < tokens(); begin += block) {
    const auto count = std::min(block, tokens() - begin);
    impl_->fetch(impl_->layout.tokens, "tokens", begin, count, stored.data());
    impl_->widen(stored.data(), begin, std::span(ids).first(static_cast<std::size_t>(count)));
    digest.update(stored.data(), static_cast<std::size_t>(count * width));
  }
  impl_->expect_digest(digest, impl_->layout.attributes.tokens_digest, "tokens");
}

}  // namespace pg::io

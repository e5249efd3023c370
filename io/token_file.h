// The HDF5 token file that `pentagrid prepare` makes and training reads: one long stream of token
// ids, where its documents start, the tokenizer that made it, and digests.
//
//   /tokens      [n]    uint8, uint16 or uint32, contiguous: the smallest that holds the vocabulary
//   /documents   [d+1]  int64: first token of each document, then n
//   /tokenizer   [b]    uint8: the SentencePiece model's bytes; empty for byte tokens
//   attributes of /: format, version, vocab, tokens_digest, documents_digest, tokenizer_digest
//   (XXH3-128, hex), source (what the text was)
// Every rank opens the file by itself; no MPI. Errors are Error(kData) naming file and offset.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>

namespace pg::io {

class TokenFile {
 public:
  // Checks structure, sizes, types, documents (ascending, inside) and refuses links and external
  // storage; reads no tokens.
  explicit TokenFile(const std::filesystem::path& path);
  TokenFile(TokenFile&&) noexcept;
  ~TokenFile();

  const std::filesystem::path& path() const;
  std::int64_t tokens() const;
  std::int64_t documents() const;
  std::int64_t vocab() const;              // ids are in [0, vocab)
  const std::string& fingerprint() const;  // of tokens, documents and tokenizer together; hex
  std::string tokenizer() const;           // "bytes", or the model's bytes

  // Tokens [begin, begin + out.size()). Each id is checked against vocab().
  void read(std::int64_t begin, std::span<std::int32_t> out) const;
  // Reads everything and compares the digests: Error(kData) when one differs.
  void verify() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Writes one, streaming: memory does not grow with the corpus. The file appears under its name only
// when `finish` succeeded (written under a temporary name, fsynced, renamed).
class TokenFileWriter {
 public:
  TokenFileWriter(const std::filesystem::path& path, std::int64_t vocab,
                  const std::string& tokenizer, const std::string& source);
  ~TokenFileWriter();  // without finish(): the temporary file is removed

  void add_document(std::span<const std::int32_t> tokens);
  void finish();
  std::int64_t tokens() const;
  std::int64_t documents() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace pg::io

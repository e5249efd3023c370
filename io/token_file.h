// The HDF5 token file that `pentagrid prepare` makes and training reads: one long stream of token
// ids, where its documents start, the tokenizer that made it, and digests.
//
//   /tokens      [n]    uint8, uint16 or uint32: the smallest that holds the vocabulary
//   /documents   [d+1]  int64: first token of each document, then n
//   /tokenizer   [b]    uint8: the SentencePiece model's bytes; empty for byte tokens
//   attributes of /: format, version, vocab, tokens_digest, documents_digest, tokenizer_digest
//   (XXH3-128, hex), source (what the text was)
// In HDF5's newer encoding (libver latest), whose metadata carries checksums: io/hdf5_guard.h says
// what passes. All are little-endian and contiguous, so that a sample is one read at a known place:
// HDF5 is closed again once the structure is checked. Every rank opens the file by itself; no MPI.
// Errors of reading are Error(kData) naming file and offset, errors of writing Error(kSave).
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>

namespace pg::io {

class TokenFile {
 public:
  // Checks structure, sizes, types, documents (ascending, inside, digest) and the tokenizer's
  // digest, and refuses links, external storage and virtual datasets before anything they name is
  // opened; reads no tokens.
  explicit TokenFile(const std::filesystem::path& path);
  TokenFile(TokenFile&&) noexcept;
  ~TokenFile();

  const std::filesystem::path& path() const;
  std::int64_t tokens() const;
  std::int64_t documents() const;
  std::int64_t vocab() const;              // ids are in [0, vocab)
  const std::string& fingerprint() const;  // of tokens, documents and tokenizer together; hex
  const std::string& source() const;       // what the text was, as the writer was told
  const std::string& tokenizer() const;    // "bytes", or the model's bytes

  // First token of document i; of i = documents(): tokens().
  std::int64_t document_start(std::int64_t i) const;
  // Tokens [begin, begin + out.size()). Each id is checked against vocab(). Safe from many threads.
  void read(std::int64_t begin, std::span<std::int32_t> out) const;
  // Reads everything and compares the digests: Error(kData) when one differs.
  void verify() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Writes one, streaming: memory does not grow with the corpus. Tokens wait in a nameless scratch
// file beside `path`, since a contiguous dataset needs its length first. The file appears under its
// name (replacing an old one) only when `finish` succeeded: written under a temporary name,
// fsynced, renamed. Missing directories are made. Error(kSave).
class TokenFileWriter {
 public:
  TokenFileWriter(const std::filesystem::path& path, std::int64_t vocab,
                  const std::string& tokenizer, const std::string& source);
  ~TokenFileWriter();  // without finish(): nothing stays

  // Ids in [0, vocab). A document may come in parts; an ended one has at least one token.
  void append(std::span<const std::int32_t> tokens);
  void end_document();
  void add_document(std::span<const std::int32_t> tokens) {
    append(tokens);
    end_document();
  }
  // At least one document, and none left open.
  void finish();
  std::int64_t tokens() const;
  std::int64_t documents() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace pg::io

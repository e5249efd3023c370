// The HDF5 side of token files: structure in, structure out. Reading never follows a link, opens
// another file or trusts a size; it says where the data lies and lets HDF5 go. For io/token_file*.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

#include "io/raw_file.h"

namespace pg::io {

// Elements of one dataset: `count` of `width` bytes each from byte `offset` of the file on.
struct TokenFileRegion {
  std::int64_t offset = 0, count = 0;
  int width = 0;
};

struct TokenFileAttributes {
  std::int64_t vocab = 0;
  std::string tokens_digest, documents_digest, tokenizer_digest, source;
};

struct TokenFileLayout {
  RawFile file;  // the one that HDF5 looked at
  TokenFileRegion tokens, documents, tokenizer;
  TokenFileAttributes attributes;
};

// Error(kData) naming the file and what is wrong with it. All regions lie inside the file.
TokenFileLayout read_token_file_layout(const std::filesystem::path& path);

// Where a dataset's bytes come from when a file is written.
struct TokenFileContents {
  const RawFile* tokens;
  const RawFile* documents;
  const std::string* tokenizer;
  int width;  // bytes a token
};

// Creates `path` and writes it whole. Error(kSave).
void write_token_file(const std::filesystem::path& path, const TokenFileContents& contents,
                      const TokenFileAttributes& attributes);

}  // namespace pg::io

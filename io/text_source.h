// The text that `prepare` reads: files, folders and globs, plain or gzip (told apart by their first
// bytes), each file one document, streamed in pieces so that memory does not grow with a file.
// Everything is in byte order of the paths: the same text gives the same tokens everywhere.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace pg::io {

struct TextFile {
  std::filesystem::path path;
  std::int64_t bytes = 0;  // on disk
};

// All files that `patterns` name, sorted, each once. A pattern is a file, a folder (all regular
// files below it), or a glob with * ? [..] within a path component and ** for any number of
// folders. Hidden files need a pattern that begins with a dot; ** and folders do not follow links
// to folders. Error(kData) naming the pattern that matches no file.
std::vector<TextFile> find_text(std::span<const std::string> patterns);

// Reads one document in pieces that end where a line does, so that a tokenizer may take them one by
// one: after the last line feed of a run. Only in a piece without such a place it is cut between
// two characters. Pieces depend on the text and `piece_bytes` alone, not on how it is compressed.
// Errors are Error(kData) with the file, and the offset on disk when its gzip data is damaged.
class TextReader {
 public:
  static constexpr std::size_t kPieceBytes = std::size_t{1} << 18;

  // `repair`: bytes that are not UTF-8 become U+FFFD and are counted; else they pass as they are.
  TextReader(const TextFile& file, bool repair, std::size_t piece_bytes = kPieceBytes);
  TextReader(TextReader&&) noexcept;
  ~TextReader();

  // The next piece, at most `piece_bytes` before repair; false at the document's end.
  bool next(std::string& piece);

  std::int64_t replaced() const;    // U+FFFD put in so far
  std::int64_t disk_bytes() const;  // consumed so far

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Appends `text` to `out` with every maximal subpart of an ill-formed sequence replaced by U+FFFD
// (Unicode 15, section 3.9, as web browsers do). Returns how many were put in.
std::int64_t repair_utf8(std::string_view text, std::string& out);

}  // namespace pg::io

#include "app/prepare_encode.h"

#include <algorithm>
#include <exception>
#include <vector>

#include "comm/error.h"
#include "io/progress.h"

namespace pg::app {

namespace {

constexpr std::int64_t kHoldOut = 64;
constexpr std::size_t kSliceBytes = std::size_t{1} << 14;

// The threads that a parallel region gets when nobody says how many.
int default_threads() {
  int threads = 0;
#pragma omp parallel reduction(+ : threads)
  threads += 1;
  return threads;
}

// A part of one document, encoded by one thread.
struct Piece {
  std::string text;
  bool starts = false, ends = false;  // a document of the token file
  bool held_out = false;
  std::vector<std::int32_t> ids;
};

// Pieces collect until there is work for all threads; then they are encoded in parallel and
// written in order. Batches are reused, so that their memory is.
class Batches {
 public:
  Batches(const io::Tokenizer& tokenizer, int threads, io::TokenFileWriter& train,
          io::TokenFileWriter* valid)
      : tokenizer_(tokenizer), threads_(threads), train_(train), valid_(valid) {}

  Piece& next() {
    if (bytes_ > static_cast<std::size_t>(threads_) << 21) flush();
    if (used_ == pieces_.size()) pieces_.emplace_back();
    Piece& piece = pieces_[used_++];
    piece.starts = piece.ends = piece.held_out = false;
    piece.ids.clear();
    return piece;
  }
  // The text of the piece that next() gave is in place.
  void added(std::size_t bytes) { bytes_ += bytes; }

  void flush() {
    std::exception_ptr failure;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads_)
    for (std::size_t i = 0; i < used_; ++i) {
      try {
        auto& piece = pieces_[i];
        tokenizer_.encode(piece.text, piece.starts, piece.ids);
        if (piece.ends && tokenizer_.end_of_document() >= 0) {
          piece.ids.push_back(tokenizer_.end_of_document());
        }
      } catch (...) {
#pragma omp critical(pg_prepare_failure)
        failure = std::current_exception();
      }
    }
    if (failure) std::rethrow_exception(failure);
    for (std::size_t i = 0; i < used_; ++i) {
      auto& out = pieces_[i].held_out ? *valid_ : train_;
      out.append(pieces_[i].ids);
      if (pieces_[i].ends) out.end_document();
    }
    used_ = bytes_ = 0;
  }

 private:
  const io::Tokenizer& tokenizer_;
  int threads_;
  io::TokenFileWriter& train_;
  io::TokenFileWriter* valid_;
  std::vector<Piece> pieces_;
  std::size_t used_ = 0, bytes_ = 0;
};

}  // namespace

std::int64_t total_bytes(std::span<const io::TextFile> files) {
  std::int64_t bytes = 0;
  for (const auto& file : files) bytes += file.bytes;
  return bytes;
}

EncodeCounts encode_text(std::span<const io::TextFile> files, const io::Tokenizer& tokenizer,
                         std::int64_t threads, io::TokenFileWriter& train,
                         io::TokenFileWriter* valid) {
  EncodeCounts counts;
  io::Progress progress("encoding", total_bytes(files));
  Batches batches(tokenizer, threads > 0 ? static_cast<int>(threads) : default_threads(), train,
                  valid);
  const bool by_slice = valid != nullptr && std::ssize(files) < kHoldOut;
  std::int64_t slices = 0, documents = 0, disk_before = 0;
  // Half a period off the start, so that no text is too short by its first files alone.
  const auto chosen = [](std::int64_t index) { return index % kHoldOut == kHoldOut / 2 - 1; };

  for (const auto& file : files) {
    io::TextReader reader(file, !tokenizer.is_bytes(),
                          by_slice ? kSliceBytes : io::TextReader::kPieceBytes);
    const bool document_held_out = valid != nullptr && !by_slice && chosen(documents);
    bool first = true, before_held_out = false;
    std::string text;
    bool more = reader.next(text);
    if (!more) ++counts.empty_files;
    while (more) {
      const bool held_out = by_slice ? chosen(slices) : document_held_out;
      Piece& piece = batches.next();
      piece.text.swap(text);
      const auto bytes = piece.text.size();
      more = reader.next(text);
      ++slices;
      piece.held_out = held_out;
      // Where a slice is taken out, a document ends before it and another begins after it.
      piece.starts = first || (by_slice && held_out != before_held_out);
      piece.ends = !more || (by_slice && chosen(slices) != held_out);
      before_held_out = held_out;
      first = false;
      (held_out ? counts.valid_bytes : counts.train_bytes) += static_cast<std::int64_t>(bytes);
      batches.added(bytes);
      progress.update(disk_before + reader.disk_bytes());
    }
    if (!first) ++documents;
    if (reader.replaced() > 0) {
      if (counts.replaced == 0) counts.first_repaired = file.path.string();
      counts.replaced += reader.replaced();
      ++counts.repaired_files;
    }
    disk_before += file.bytes;
  }
  batches.flush();
  return counts;
}

}  // namespace pg::app

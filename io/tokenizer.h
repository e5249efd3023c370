// Text <-> token ids: the 256 byte values, or a SentencePiece model (Kudo & Richardson, EMNLP 2018,
// arXiv:1808.06226). Models that we train give every text back byte for byte: nothing is
// normalised, white space and line feeds are pieces, and what has no piece falls back to bytes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace pg::io {

class Tokenizer {
 public:
  // `stored` is what TokenFile::tokenizer() gives: "bytes", or a serialized model. `name` is for
  // messages: Error(kData) when the model cannot be used.
  Tokenizer(const std::string& stored, const std::string& name);
  // data.tokenizer of a deck: "bytes" or an existing .model file.
  static Tokenizer load(const std::string& setting);
  Tokenizer(Tokenizer&&) noexcept;
  ~Tokenizer();

  std::int64_t vocab() const;            // ids are in [0, vocab)
  std::int32_t end_of_document() const;  // </s>; -1 where there is none (bytes)
  const std::string& stored() const;     // "bytes", or the model's bytes
  bool is_bytes() const;
  // decode(encode(x)) == x for well-formed text. False for models that normalise or have <unk>.
  bool lossless() const;

  // Appends the ids of `text` to `ids`. Error(kData) when the model contradicts itself. Safe to
  // call from many threads. Encoding a text piece by piece gives the ids of the whole when pieces
  // end as TextReader's do. `starts_document`: models made with a dummy prefix get it there.
  void encode(std::string_view text, bool starts_document, std::vector<std::int32_t>& ids) const;
  // The bytes of `ids`. Control ids have none; an id outside the vocabulary gives U+FFFD (a model's
  // logits may be wider than its tokenizer).
  std::string decode(std::span<const std::int32_t> ids) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Trains a byte-pair-encoding model of at most `vocab` pieces (fewer when the text has no more
// pairs) and returns it serialized: the same bytes for the same arguments on any machine.
// Error(kDeck) naming model.vocab when that is too small for the characters of the text.
std::string train_tokenizer(std::string_view text, std::int64_t vocab);

// Keeps an evenly spread part of a stream of text, at most `budget` bytes and, once the stream is
// longer than that, at least about half of it: every 2^k-th block of lines, with k growing as the
// stream does. What is kept depends on the stream alone.
class TextSample {
 public:
  explicit TextSample(std::size_t budget) : budget_(budget) {}
  void add(std::string_view piece);
  // The kept blocks, joined.
  std::string text() const;

 private:
  void keep(std::string_view block);

  std::size_t budget_, kept_bytes_ = 0;
  std::uint64_t stride_ = 1, blocks_ = 0;
  struct Block {
    std::uint64_t index;
    std::string text;
  };
  std::vector<Block> kept_;
};

}  // namespace pg::io

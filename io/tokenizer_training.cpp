// train_tokenizer and the sample of the corpus that it sees.
#include <sentencepiece_trainer.h>

#include <algorithm>
#include <unordered_map>

#include "comm/error.h"
#include "io/tokenizer.h"

namespace pg::io {

namespace {

// The lines of a text, none empty and none longer than the trainer takes.
class Lines : public sentencepiece::SentenceIterator {
 public:
  static constexpr std::size_t kLongest = 4000;

  explicit Lines(std::string_view text) : rest_(text) { Lines::Next(); }
  bool done() const override { return line_.empty(); }
  void Next() override {
    rest_.remove_prefix(std::min(rest_.find_first_not_of('\n'), rest_.size()));
    auto end = std::min({rest_.find('\n'), rest_.size(), kLongest});
    // A character is not cut in two.
    while (end > 1 && end < rest_.size() && (rest_[end] & 0xC0) == 0x80) --end;
    line_ = rest_.substr(0, end);
    rest_.remove_prefix(end);
  }
  const std::string& value() const override { return line_; }
  sentencepiece::util::Status status() const override { return {}; }

 private:
  std::string_view rest_;
  std::string line_;
};

}  // namespace

std::string train_tokenizer(std::string_view text, std::int64_t vocab) {
  const std::unordered_map<std::string, std::string> settings = {
      {"model_type", "bpe"},
      {"vocab_size", std::to_string(vocab)},
      {"hard_vocab_limit", "false"},
      // Nothing is normalised, and what has no piece becomes bytes: lossless.
      {"normalization_rule_name", "identity"},
      {"remove_extra_whitespaces", "false"},
      {"add_dummy_prefix", "false"},
      {"byte_fallback", "true"},
      // Indentation is worth pieces of its own. The trainer sees single lines, so line feeds and
      // tabs (which it takes for its own separator) are given.
      {"allow_whitespace_only_pieces", "true"},
      {"user_defined_symbols", "\n,\n\n,\t,\t\t"},
      {"split_digits", "true"},
      // Rare characters (of a translation into Chinese, say) would fill the vocabulary.
      {"character_coverage", "0.99"},
      {"unk_id", "0"},
      {"eos_id", "1"},
      {"bos_id", "-1"},
      {"pad_id", "-1"},
      // Fixed, because it is stored in the model.
      {"num_threads", "2"},
      {"minloglevel", "3"},
  };
  Lines lines(text);
  if (lines.done()) throw fail(ExitCode::kData, "data.text: no text to train a tokenizer on");
  std::string model, reason;
  try {
    const auto status = sentencepiece::SentencePieceTrainer::Train(settings, &lines, &model);
    if (status.ok()) return model;
    reason = status.ToString();
  } catch (const std::exception& error) {  // protobuf throws where its checks fail
    reason = error.what();
  }
  if (reason.find("Vocabulary size is smaller") != std::string::npos) {
    throw fail(ExitCode::kDeck,
               "model.vocab: {} is too small for a tokenizer: 256 bytes, 6 special pieces and the "
               "characters of the text (SentencePiece: {})",
               vocab, reason);
  }
  throw fail(ExitCode::kData, "data.text: no tokenizer can be trained on it (SentencePiece: {})",
             reason);
}

void TextSample::keep(std::string_view block) {
  const auto index = blocks_++;
  if (index % stride_ != 0) return;
  kept_.push_back({index, std::string(block)});
  kept_bytes_ += block.size();
  while (kept_bytes_ > budget_ && kept_.size() > 1) {
    stride_ *= 2;
    std::erase_if(kept_, [&](const Block& old) {
      const bool dropped = old.index % stride_ != 0;
      if (dropped) kept_bytes_ -= old.text.size();
      return dropped;
    });
  }
}

void TextSample::add(std::string_view piece) {
  constexpr std::size_t kBlock = 4096;
  while (!piece.empty()) {
    auto end = std::min(kBlock, piece.size());
    const auto feed = piece.find('\n', end - 1);
    // Lines are kept whole unless they are very long.
    if (feed != std::string_view::npos && feed < 4 * kBlock) {
      end = feed + 1;
    } else if (piece.size() <= 4 * kBlock) {
      end = piece.size();
    } else {
      while (end < piece.size() && (piece[end] & 0xC0) == 0x80) ++end;
    }
    keep(piece.substr(0, end));
    piece.remove_prefix(end);
  }
}

std::string TextSample::text() const {
  std::string text;
  for (const auto& block : kept_) {
    text += block.text;
    if (!text.empty() && text.back() != '\n') text += '\n';
  }
  return text;
}

}  // namespace pg::io

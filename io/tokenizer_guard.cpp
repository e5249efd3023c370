#include "io/tokenizer_guard.h"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "comm/error.h"

namespace pg::io {

namespace {

// A protobuf message: fields one after the other, of any number. Groups, which nothing uses any
// more, are refused.
class Message {
 public:
  struct Field {
    std::uint64_t number = 0, kind = 0;
    std::uint64_t value = 0;  // of a varint or a fixed one
    std::string_view bytes;   // of a length-delimited one
  };
  static constexpr std::uint64_t kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5;

  Message(std::string_view bytes, const std::string& name) : bytes_(bytes), name_(name) {}

  bool next(Field& field) {
    if (bytes_.empty()) return false;
    const auto tag = varint();
    field = {tag >> 3, tag & 7, 0, {}};
    if (field.number == 0) refuse("a field without a number");
    switch (field.kind) {
      case kVarint:
        field.value = varint();
        return true;
      case kFixed64:
        field.value = fixed(8);
        return true;
      case kFixed32:
        field.value = fixed(4);
        return true;
      case kBytes:
        field.bytes = take(varint());
        return true;
      default:
        refuse("a field of an unknown kind");
    }
  }

  [[noreturn]] void refuse(std::string_view what) const {
    throw fail(ExitCode::kData, "{}: not a usable SentencePiece model: {}", name_, what);
  }

 private:
  std::string_view take(std::uint64_t count) {
    if (count > bytes_.size()) refuse("it is cut short");
    const auto taken = bytes_.substr(0, count);
    bytes_.remove_prefix(count);
    return taken;
  }
  std::uint64_t fixed(std::size_t width) {
    std::uint64_t value = 0;
    std::memcpy(&value, take(width).data(), width);
    return value;
  }
  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<unsigned char>(take(1)[0]);
      value |= std::uint64_t{byte & 0x7FU} << shift;
      if (byte < 0x80) return value;
    }
    refuse("a number of more than ten bytes");
  }

  std::string_view bytes_;
  const std::string& name_;
};

// The layout is that of darts-clone: a unit that is no leaf leads to the 256 units of one block, by
// exclusive or with the next byte; one that ends a key has its value there at byte 0.
void check_table(std::string_view table, const Message& model) {
  constexpr std::uint32_t kLeaf = std::uint32_t{1} << 31, kEndsKey = 1 << 8, kFar = 1 << 9;
  std::uint32_t trie_bytes = 0;
  if (table.size() <= sizeof trie_bytes) model.refuse("its normalization table is cut short");
  std::memcpy(&trie_bytes, table.data(), sizeof trie_bytes);
  table.remove_prefix(sizeof trie_bytes);
  if (trie_bytes >= table.size() || trie_bytes == 0 || trie_bytes % 4 != 0) {
    model.refuse("its normalization table is cut short");
  }
  std::vector<std::uint32_t> units(trie_bytes / 4);
  std::memcpy(units.data(), table.data(), trie_bytes);
  const auto strings = table.substr(trie_bytes);
  if (strings.back() != '\0') model.refuse("its normalization strings do not end");
  for (std::size_t i = 0; i < units.size(); ++i) {
    const auto unit = units[i];
    if (i > 0 && (unit & kLeaf) != 0) continue;  // the root is followed whatever it says
    const auto block = i ^ ((unit >> 10) << ((unit & kFar) != 0 ? 8 : 0));
    if ((block | 0xFF) >= units.size()) model.refuse("its normalization table leads outside");
    if ((unit & kEndsKey) != 0 && (units[block] & ~kLeaf) >= strings.size()) {
      model.refuse("its normalization table leads outside its strings");
    }
  }
}

void check_normalizer(std::string_view bytes, const std::string& name) {
  constexpr std::uint64_t kTable = 2;
  Message spec(bytes, name);
  for (Message::Field field; spec.next(field);) {
    if (field.number == kTable && field.kind == Message::kBytes && !field.bytes.empty()) {
      check_table(field.bytes, spec);
    }
  }
}

void check_piece(std::string_view bytes, const std::string& name) {
  constexpr std::uint64_t kScore = 2, kType = 3, kMostType = 6;
  Message piece(bytes, name);
  for (Message::Field field; piece.next(field);) {
    if (field.number == kScore && field.kind == Message::kFixed32) {
      const auto bits = static_cast<std::uint32_t>(field.value);
      float score = 0;
      std::memcpy(&score, &bits, sizeof score);
      if (!std::isfinite(score)) piece.refuse("a piece's score is not a number");
    }
    if (field.number == kType && (field.value < 1 || field.value > kMostType)) {
      piece.refuse("a piece of an unknown type");
    }
  }
}

}  // namespace

void check_sentencepiece_model(std::string_view model, const std::string& name) {
  constexpr std::uint64_t kPiece = 1, kTrainer = 2, kNormalizer = 3, kDenormalizer = 5;
  Message message(model, name);
  for (Message::Field field; message.next(field);) {
    if (field.number > kDenormalizer) continue;
    if (field.kind != Message::kBytes) message.refuse("a part of another kind");
    if (field.number == kPiece) check_piece(field.bytes, name);
    if (field.number == kNormalizer || field.number == kDenormalizer) {
      check_normalizer(field.bytes, name);
    }
    if (field.number == kTrainer) {
      Message trainer(field.bytes, name);
      for (Message::Field one; trainer.next(one);) {
      }
    }
  }
}

}  // namespace pg::io

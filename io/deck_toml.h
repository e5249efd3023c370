// TOML text as a plain tree with source positions: the only seam to toml++, which is slow to
// compile and so is included in one .cpp.
//
// Hostile text ends in Error(kDeck): size, line length and nesting are limited before toml++ sees
// it, since its tables are freed recursively and a deep enough one would overflow the stack.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace pg::io {

// Where something stands in the deck's text, both from 1 (columns in code points); line 0: nowhere.
struct TextPlace {
  int line = 0, column = 0;
};

struct TomlMember;

struct TomlNode {
  enum class Kind { kBool, kInt, kFloat, kString, kArray, kTable, kDate };
  Kind kind = Kind::kTable;
  TextPlace place;
  bool boolean = false;
  std::int64_t integer = 0;
  double real = 0;
  std::string text;
  std::vector<TomlNode> items;      // of an array
  std::vector<TomlMember> members;  // of a table, sorted by key
};

struct TomlMember {
  std::string key;
  TextPlace place;
  TomlNode value;
};

inline constexpr std::size_t kDeckBytesMax = 1 << 20;
inline constexpr std::size_t kDeckLineMax = 1 << 16;

// The whole file; Error(kDeck) when it cannot be read or is longer than kDeckBytesMax.
std::string read_deck_text(const std::filesystem::path& path);

// Error(kDeck), `name:line:column: syntax error: ...`, for the first thing that is not TOML.
TomlNode parse_toml(std::string_view text, std::string_view name);

}  // namespace pg::io

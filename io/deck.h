// The deck engine: reads a TOML deck and command-line overrides against a table of keys. It knows
// no key by itself; app/schema holds the one table, which parses, checks, documents and dumps.
//
// A syntax error is thrown alone. Everything else is collected and thrown at once by finish(),
// sorted by place, each as `file:line:column: key: what is wrong (nearest key or legal values)`.
#pragma once

#include <initializer_list>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/deck_format.h"
#include "io/deck_toml.h"

namespace pg::io {

enum class KeyType { kBool, kInt, kFloat, kString, kChoice, kStrings };

struct KeyRange {
  double low = -std::numeric_limits<double>::infinity();
  double high = std::numeric_limits<double>::infinity();
  bool low_open = false, high_open = false;

  bool holds(double value) const;
  std::string text() const;  // "1 to 16384", "> 0", "0 <= x < 1"; empty when unbounded
};

// One key of the deck. An empty string or array counts as not set.
struct KeySpec {
  std::string section{}, key{};
  KeyType type = KeyType::kInt;
  std::optional<DeckValue> fallback{};  // none: the reader's owner requires or derives it
  std::string fallback_text{};          // shown instead of `fallback` when that is derived
  KeyRange range{};                     // of integers and floats
  std::vector<std::string> choices{};
  std::vector<std::string> later{};  // choices that this version refuses
  bool reserved = false;             // for a later version: only `fallback` is legal
  std::string unit{}, doc{};

  std::string name() const { return section + "." + key; }
  bool accepts(const DeckValue& value) const;  // of the right type, within range and choices
  std::string legal_values() const;            // "an integer from 1 to 16384"
};

class DeckReader {
 public:
  // `keys` must outlive the reader; `file` names the deck in messages.
  DeckReader(std::span<const KeySpec> keys, std::string file);

  // `section.key=value`, value in TOML or, for strings and choices, a bare word. Before read():
  // an overridden key of the deck is not looked at.
  void override_with(std::string_view argument);
  // Error(kDeck) at once for a syntax error.
  void read(std::string_view text);

  // What was given, else the fallback, else nothing. Also nothing when it was refused.
  std::optional<DeckValue> value(const KeySpec& key) const;
  bool given(const std::string& name) const { return values_.contains(name); }
  // None of these keys has been refused: a check over them makes sense.
  bool sound(std::initializer_list<const char*> names) const;

  // Adds a problem at the place of `name`: where it is set, else its section, else line 1.
  void refuse(const std::string& name, const std::string& what);
  // Error(kDeck) with all problems, one a line, when there are any.
  void finish() const;

 private:
  struct Place {
    int override_index = -1;  // -1: in the file
    TextPlace text;
    std::string argument;  // of an override
  };
  struct Problem {
    Place place;
    std::string message;
  };

  const KeySpec* find(std::string_view section, std::string_view key) const;
  void add(const Place& place, const std::string& name, const std::string& what);
  void read_section(const TomlMember& section);
  void set(const KeySpec& key, const TomlNode& node, const Place& place);
  std::optional<DeckValue> convert(const KeySpec& key, const TomlNode& node, const Place& place);
  std::optional<DeckValue> convert_strings(const KeySpec& key, const TomlNode& node,
                                           const Place& place);
  std::string unknown_key(std::string_view section, std::string_view key) const;
  std::string unknown_section(std::string_view section) const;
  std::vector<std::string> sections() const;

  std::span<const KeySpec> keys_;
  std::string file_;
  int overrides_ = 0;
  std::map<std::string, DeckValue> values_;
  std::map<std::string, Place> places_;  // keys that are set
  std::map<std::string, TextPlace> section_places_;
  std::set<std::string> refused_;
  std::vector<Problem> problems_;
};

// Canonical TOML: the keys in table order, one a line; values[i] belongs to keys[i]. Left out is
// what has no value, or one that its key would not accept (it was not needed and not set).
std::string write_deck(std::span<const KeySpec> keys,
                       std::span<const std::optional<DeckValue>> values);

}  // namespace pg::io

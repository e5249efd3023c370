// KeySpec: what one key accepts, in code and in words; and the canonical deck.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "io/deck.h"

namespace pg::io {
namespace {

std::string number(double value) {
  const bool whole = value == std::floor(value) && std::abs(value) < 1e15;
  return whole ? fmt::format("{:.0f}", value) : fmt::format("{}", value);
}

std::vector<std::string> quoted(const std::vector<std::string>& words) {
  std::vector<std::string> out;
  for (const auto& word : words) out.push_back(toml_text(std::string_view(word)));
  return out;
}

bool contains(const std::vector<std::string>& words, const std::string& word) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

}  // namespace

bool KeyRange::holds(double value) const {
  const bool above = low_open ? value > low : value >= low;
  const bool below = high_open ? value < high : value <= high;
  return above && below;  // false for NaN
}

std::string KeyRange::text() const {
  const bool from = std::isfinite(low), to = std::isfinite(high);
  if (from && to && !low_open && !high_open) return number(low) + " to " + number(high);
  if (from && to) {
    return fmt::format("{} {} x {} {}", number(low),
                       low_open ? "<" : "<=", high_open ? "<" : "<=", number(high));
  }
  if (from) return (low_open ? "> " : ">= ") + number(low);
  if (to) return (high_open ? "< " : "<= ") + number(high);
  return "";
}

bool KeySpec::accepts(const DeckValue& value) const {
  if (reserved) return fallback && value == *fallback;
  switch (type) {
    case KeyType::kBool:
      return std::holds_alternative<bool>(value);
    case KeyType::kInt: {
      const auto* integer = std::get_if<std::int64_t>(&value);
      return integer && range.holds(static_cast<double>(*integer));
    }
    case KeyType::kFloat: {
      const auto* real = std::get_if<double>(&value);
      return real && std::isfinite(*real) && range.holds(*real);
    }
    case KeyType::kString:
      return std::holds_alternative<std::string>(value);
    case KeyType::kChoice: {
      const auto* word = std::get_if<std::string>(&value);
      return word && contains(choices, *word) && !contains(later, *word);
    }
    case KeyType::kStrings:
      return std::holds_alternative<std::vector<std::string>>(value);
  }
  return false;
}

std::string KeySpec::legal_values() const {
  if (reserved) return fallback ? toml_text(*fallback) : "nothing";
  const auto bounds = range.text();
  const auto ranged = [&](const std::string& what) {
    if (bounds.empty()) return what;
    if (bounds.find('x') != bounds.npos) return what + " x with " + bounds;
    return what + (bounds.find(" to ") != bounds.npos ? " from " : " ") + bounds;
  };
  switch (type) {
    case KeyType::kBool:
      return "true or false";
    case KeyType::kInt:
      return ranged("an integer");
    case KeyType::kFloat:
      return ranged("a number");
    case KeyType::kString:
      return "a string";
    case KeyType::kStrings:
      return "a string or an array of strings";
    case KeyType::kChoice: {
      std::vector<std::string> now;
      for (const auto& choice : choices) {
        if (!contains(later, choice)) now.push_back(choice);
      }
      return comma_list(quoted(now));
    }
  }
  return "";
}

std::string write_deck(std::span<const KeySpec> keys,
                       std::span<const std::optional<DeckValue>> values) {
  std::string out, section;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    if (!values[i] || !keys[i].accepts(*values[i])) continue;
    if (keys[i].section != section) {
      out += fmt::format("{}[{}]\n", out.empty() ? "" : "\n", keys[i].section);
      section = keys[i].section;
    }
    out += fmt::format("{} = {}\n", keys[i].key, toml_text(*values[i]));
  }
  return out;
}

}  // namespace pg::io

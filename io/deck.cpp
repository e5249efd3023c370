#include "io/deck.h"

#include <algorithm>
#include <cmath>
#include <tuple>

#include "comm/error.h"

namespace pg::io {
namespace {

constexpr std::size_t kProblemsShown = 100;

std::string_view trimmed(std::string_view text) {
  const auto begin = text.find_first_not_of(" \t");
  if (begin == text.npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t") - begin + 1);
}

// "6", "\"six\" is a string": how a message shows what the user gave.
std::string shown(const TomlNode& node) {
  switch (node.kind) {
    case TomlNode::Kind::kBool:
      return toml_text(DeckValue(node.boolean));
    case TomlNode::Kind::kInt:
      return toml_text(DeckValue(node.integer));
    case TomlNode::Kind::kFloat:
      return toml_text(DeckValue(node.real));
    case TomlNode::Kind::kString:
      return one_line(toml_text(std::string_view(node.text)));
    case TomlNode::Kind::kArray:
      return "an array";
    case TomlNode::Kind::kTable:
      return "a table";
    case TomlNode::Kind::kDate:
      return "a date or time";
  }
  return "?";
}

std::string with_kind(const TomlNode& node) {
  switch (node.kind) {
    case TomlNode::Kind::kBool:
      return shown(node) + " is a bool";
    case TomlNode::Kind::kInt:
      return shown(node) + " is an integer";
    case TomlNode::Kind::kFloat:
      return shown(node) + " is a float";
    case TomlNode::Kind::kString:
      return shown(node) + " is a string";
    default:
      return "got " + shown(node);
  }
}

std::string takes(const KeySpec& key) {
  const bool limited = key.reserved || !key.later.empty();
  return (limited ? "this version supports only " : "it takes ") + key.legal_values();
}

bool is_empty(const DeckValue& value) {
  if (const auto* text = std::get_if<std::string>(&value)) return text->empty();
  if (const auto* items = std::get_if<std::vector<std::string>>(&value)) return items->empty();
  return false;
}

}  // namespace

DeckReader::DeckReader(std::span<const KeySpec> keys, std::string file)
    : keys_(keys), file_(std::move(file)) {}

const KeySpec* DeckReader::find(std::string_view section, std::string_view key) const {
  for (const auto& spec : keys_) {
    if (spec.section == section && spec.key == key) return &spec;
  }
  return nullptr;
}

void DeckReader::add(const Place& place, const std::string& name, const std::string& what) {
  const auto where = place.override_index >= 0
                         ? fmt::format("command line: {}", one_line(place.argument))
                         : fmt::format("{}:{}:{}", file_, place.text.line, place.text.column);
  problems_.push_back({place, fmt::format("{}: {}: {}", where, one_line(name), what)});
  refused_.insert(name);
}

void DeckReader::override_with(std::string_view argument) {
  const Place place{overrides_++, {}, std::string(argument)};
  const auto equals = argument.find('=');
  const auto name = trimmed(argument.substr(0, equals));
  if (equals == argument.npos) return add(place, std::string(name), "it takes section.key=value");
  const auto text = trimmed(argument.substr(equals + 1));
  const auto dot = name.find('.');
  const auto section = dot == name.npos ? "" : name.substr(0, dot);
  const auto key = dot == name.npos ? name : name.substr(dot + 1);
  const auto* spec = find(section, key);
  if (!spec) return add(place, std::string(name), unknown_key(section, key));
  if (places_.contains(spec->name())) return add(place, spec->name(), "it is given twice");
  places_[spec->name()] = place;

  TomlNode node;
  const bool wordy = spec->type == KeyType::kString || spec->type == KeyType::kChoice ||
                     spec->type == KeyType::kStrings;
  if (wordy && (text.empty() || std::string_view("\"'[{").find(text[0]) == text.npos)) {
    if (!is_utf8(text)) return add(place, spec->name(), "it is not UTF-8");
    node.kind = TomlNode::Kind::kString;
    node.text = text;
  } else {
    try {
      auto root = parse_toml("v = " + std::string(text), "value");
      if (root.members.size() != 1 || text.empty()) throw fail(ExitCode::kDeck, "not one value");
      node = std::move(root.members[0].value);
    } catch (const Error&) {
      return add(place, spec->name(),
                 fmt::format("\"{}\" is not a value of TOML; {}", one_line(text), takes(*spec)));
    }
  }
  set(*spec, node, place);
}

void DeckReader::read(std::string_view text) {
  const auto root = parse_toml(text, file_);
  for (const auto& member : root.members) {
    if (member.value.kind == TomlNode::Kind::kTable) section_places_[member.key] = member.place;
  }
  for (const auto& member : root.members) read_section(member);
}

void DeckReader::read_section(const TomlMember& section) {
  const auto known = sections();
  const Place place{-1, section.place, {}};
  const bool is_table = section.value.kind == TomlNode::Kind::kTable;
  if (std::find(known.begin(), known.end(), section.key) == known.end()) {
    return add(place, section.key,
               is_table ? unknown_section(section.key) : unknown_key("", section.key));
  }
  if (!is_table) {
    return add(
        place, section.key,
        fmt::format("{} is a section: write [{}] and its keys below it", section.key, section.key));
  }
  for (const auto& member : section.value.members) {
    if (const auto* spec = find(section.key, member.key)) {
      const bool overridden = places_.contains(spec->name());
      if (!overridden) set(*spec, member.value, Place{-1, member.value.place, {}});
    } else {
      add(Place{-1, member.place, {}}, section.key + "." + member.key,
          unknown_key(section.key, member.key));
    }
  }
}

void DeckReader::set(const KeySpec& key, const TomlNode& node, const Place& place) {
  places_[key.name()] = place;
  auto value = convert(key, node, place);
  if (value && !is_empty(*value)) values_[key.name()] = std::move(*value);
}

std::optional<DeckValue> DeckReader::convert(const KeySpec& key, const TomlNode& node,
                                             const Place& place) {
  using Kind = TomlNode::Kind;
  const auto wrong_type = [&]() -> std::optional<DeckValue> {
    add(place, key.name(), with_kind(node) + "; " + takes(key));
    return {};
  };
  DeckValue value;
  switch (key.type) {
    case KeyType::kBool:
      if (node.kind != Kind::kBool) return wrong_type();
      value = node.boolean;
      break;
    case KeyType::kInt:
      if (node.kind != Kind::kInt) return wrong_type();
      value = node.integer;
      break;
    case KeyType::kFloat:
      if (node.kind != Kind::kFloat && node.kind != Kind::kInt) return wrong_type();
      value = node.kind == Kind::kInt ? static_cast<double>(node.integer) : node.real;
      break;
    case KeyType::kString:
    case KeyType::kChoice:
      if (node.kind != Kind::kString) return wrong_type();
      if (node.text.find('\0') != std::string::npos) {
        add(place, key.name(), "the string holds a NUL character");
        return {};
      }
      value = node.text;
      break;
    case KeyType::kStrings: {
      auto strings = convert_strings(key, node, place);
      if (!strings) return {};
      value = std::move(*strings);
    }
  }
  if (is_empty(value) || key.accepts(value)) return value;
  const bool comes_later =
      std::find(key.later.begin(), key.later.end(), node.text) != key.later.end();
  std::string why = "out of range", near;
  if (key.reserved || comes_later) {
    why = "not supported yet";
  } else if (key.type == KeyType::kChoice) {
    why = "none of the choices";
    near = nearest(node.text, key.choices);
  } else if (node.kind == Kind::kFloat && !std::isfinite(node.real)) {
    why = "not a finite number";
  }
  add(place, key.name(),
      fmt::format("{} is {}; {}{}", shown(node), why, takes(key),
                  near.empty() ? "" : fmt::format(" (nearest: \"{}\")", near)));
  return {};
}

std::optional<DeckValue> DeckReader::convert_strings(const KeySpec& key, const TomlNode& node,
                                                     const Place& place) {
  const bool single = node.kind == TomlNode::Kind::kString;
  if (!single && node.kind != TomlNode::Kind::kArray) {
    add(place, key.name(), with_kind(node) + "; " + takes(key));
    return {};
  }
  std::vector<std::string> strings;
  bool sound = true;
  const auto take = [&](const TomlNode& item) {
    const auto refuse_item = [&](const std::string& what) {
      sound = false;
      // Inside the deck the element has a place of its own.
      add(place.override_index >= 0 ? place : Place{-1, item.place, {}}, key.name(), what);
    };
    if (item.kind != TomlNode::Kind::kString) {
      refuse_item(with_kind(item) + "; " + takes(key));
    } else if (item.text.find('\0') != std::string::npos) {
      refuse_item("the string holds a NUL character");
    } else if (item.text.empty()) {
      refuse_item("the array holds an empty string");
    } else {
      strings.push_back(item.text);
    }
  };
  if (single) {
    if (!node.text.empty()) take(node);
  } else {
    for (const auto& item : node.items) take(item);
  }
  if (!sound) return {};
  return strings;
}

std::string DeckReader::unknown_key(std::string_view section, std::string_view key) const {
  const auto known = sections();
  if (!section.empty() && std::find(known.begin(), known.end(), section) == known.end()) {
    return unknown_section(section);
  }
  std::vector<std::string> elsewhere, here, all;
  for (const auto& spec : keys_) {
    if (spec.key == key) elsewhere.push_back(fmt::format("[{}]", spec.section));
    if (spec.section == section) here.push_back(spec.key);
    all.push_back(spec.key);
  }
  const std::string outside = section.empty() ? "a key outside any section" : "unknown key";
  if (!elsewhere.empty()) {
    return fmt::format("{} ({} is a key of {})", outside, one_line(key), comma_list(elsewhere));
  }
  if (const auto near = nearest(key, here); !near.empty()) {
    return fmt::format("{} (nearest key: {}.{})", outside, section, near);
  }
  if (const auto near = nearest(key, all); !near.empty()) {
    for (const auto& spec : keys_) {
      if (spec.key == near) return fmt::format("{} (nearest key: {})", outside, spec.name());
    }
  }
  if (section.empty()) return fmt::format("{} (sections: {})", outside, comma_list(known));
  return fmt::format("{} (keys of [{}]: {})", outside, section, comma_list(here));
}

std::string DeckReader::unknown_section(std::string_view section) const {
  const auto known = sections();
  if (const auto near = nearest(section, known); !near.empty()) {
    return fmt::format("unknown section (nearest: [{}])", near);
  }
  return fmt::format("unknown section (sections: {})", comma_list(known));
}

std::vector<std::string> DeckReader::sections() const {
  std::vector<std::string> names;
  for (const auto& spec : keys_) {
    if (names.empty() || names.back() != spec.section) names.push_back(spec.section);
  }
  return names;
}

std::optional<DeckValue> DeckReader::value(const KeySpec& key) const {
  if (refused_.contains(key.name())) return {};
  const auto found = values_.find(key.name());
  return found == values_.end() ? key.fallback : found->second;
}

bool DeckReader::sound(std::initializer_list<const char*> names) const {
  return std::none_of(names.begin(), names.end(),
                      [&](const char* name) { return refused_.contains(name); });
}

void DeckReader::refuse(const std::string& name, const std::string& what) {
  Place place{-1, {1, 1}, {}};
  if (const auto set = places_.find(name); set != places_.end()) {
    place = set->second;
  } else if (const auto section = section_places_.find(name.substr(0, name.find('.')));
             section != section_places_.end()) {
    place.text = section->second;
  }
  add(place, name, what);
}

void DeckReader::finish() const {
  if (problems_.empty()) return;
  auto sorted = problems_;
  std::stable_sort(sorted.begin(), sorted.end(), [](const Problem& a, const Problem& b) {
    const auto order = [](const Place& p) {
      return std::tuple(p.override_index, p.text.line, p.text.column);
    };
    return order(a.place) < order(b.place);
  });
  std::string message;
  for (std::size_t i = 0; i < sorted.size() && i < kProblemsShown; ++i) {
    message += (i ? "\n" : "") + sorted[i].message;
  }
  if (sorted.size() > kProblemsShown) {
    message += fmt::format("\n{}: {} more problems", file_, sorted.size() - kProblemsShown);
  }
  throw Error(ExitCode::kDeck, message);
}

}  // namespace pg::io

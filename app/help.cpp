#include "app/help.h"

#include <algorithm>

#include "app/schema.h"
#include "comm/error.h"

namespace pg::app {
namespace {

constexpr std::size_t kColumns = 100;
// Where the columns begin.
constexpr std::size_t kTypeAt = 18, kDefaultAt = 26, kLegalAt = 46;

std::string type_name(io::KeyType type) {
  switch (type) {
    case io::KeyType::kBool:
      return "bool";
    case io::KeyType::kInt:
      return "int";
    case io::KeyType::kFloat:
      return "float";
    case io::KeyType::kString:
      return "string";
    case io::KeyType::kChoice:
      return "choice";
    case io::KeyType::kStrings:
      return "strings";
  }
  return "?";
}

// Words of `text` from column `indent` on, never past kColumns.
std::string wrapped(const std::string& text, std::size_t indent) {
  std::string out, line;
  std::size_t begin = 0;
  const auto flush = [&] {
    if (!line.empty()) out += fmt::format("{:{}}{}\n", "", indent, line);
    line.clear();
  };
  while (begin < text.size()) {
    const auto end = std::min(text.find(' ', begin), text.size());
    const auto word = text.substr(begin, end - begin);
    if (!line.empty() && indent + line.size() + 1 + word.size() > kColumns) flush();
    if (!line.empty()) line += ' ';
    line += word;
    begin = end + 1;
  }
  flush();
  return out;
}

void pad_to(std::string& line, std::size_t column) {
  line.resize(std::max(line.size() + 1, column), ' ');
}

std::string default_cell(const SchemaKey& key) {
  if (!key.spec.fallback_text.empty()) return key.spec.fallback_text;
  if (key.needed_by == static_cast<unsigned>(Purpose::kPrepare)) return "(for prepare)";
  if (key.needed_by) return "required";
  return key.spec.fallback ? io::toml_text(*key.spec.fallback) : "";
}

std::string legal_cell(const io::KeySpec& spec) {
  if (spec.type == io::KeyType::kStrings) return "one or an array";
  if (spec.type == io::KeyType::kChoice) return spec.legal_values();
  const auto range = spec.range.text();
  return range + (range.empty() || spec.unit.empty() ? "" : " ") + spec.unit;
}

std::string row(const SchemaKey& key) {
  auto line = fmt::format("  {}", key.spec.key);
  pad_to(line, kTypeAt);
  line += type_name(key.spec.type);
  pad_to(line, kDefaultAt);
  line += default_cell(key);
  pad_to(line, kLegalAt);
  line += legal_cell(key.spec);
  line.resize(line.find_last_not_of(' ') + 1);
  return fmt::format("{}\n{}", line, wrapped(key.spec.doc, kTypeAt));
}

std::string title(const SchemaSection& section, std::size_t width) {
  auto line = fmt::format("[{}]", section.name);
  pad_to(line, width);
  return line + section.summary;
}

std::string section_text(const SchemaSection& section) {
  std::string keys;
  std::vector<std::string> reserved;
  for (const auto& key : deck_schema()) {
    if (key.spec.section != section.name) continue;
    if (key.spec.reserved) {
      reserved.push_back(key.spec.key);
    } else {
      keys += row(key);
    }
  }
  auto out = fmt::format("{}\n", title(section, 0));
  if (!keys.empty()) {
    std::string head = "  key";
    pad_to(head, kTypeAt);
    head += "type";
    pad_to(head, kDefaultAt);
    head += "default";
    pad_to(head, kLegalAt);
    out += fmt::format("\n{}values and unit\n{}", head, keys);
  }
  if (!section.notes.empty()) out += fmt::format("\n{}\n", section.notes);
  if (!reserved.empty()) {
    const auto list = fmt::format("Reserved for later versions: {}.", io::comma_list(reserved));
    out += fmt::format("\n{}", wrapped(list, 0));
  }
  return out;
}

std::string overview() {
  constexpr std::size_t kSummaryAt = 16;
  std::string out =
      "A deck is a TOML file of these sections; `pentagrid help SECTION` shows the keys of one.\n"
      "On the command line, section.key=value overrides the deck.\n\n";
  for (const auto& section : deck_sections()) {
    const auto& schema = deck_schema();
    const bool usable = std::any_of(schema.begin(), schema.end(), [&](const SchemaKey& key) {
      return key.spec.section == section.name && !key.spec.reserved;
    });
    out += fmt::format("  {}{}\n", title(section, kSummaryAt), usable ? "" : " (later versions)");
  }
  return out;
}

}  // namespace

std::string help_text(std::string_view section) {
  if (section.empty()) return overview();
  std::vector<std::string> names;
  for (const auto& known : deck_sections()) {
    if (known.name == section) return section_text(known);
    names.push_back(known.name);
  }
  const auto near = io::nearest(section, names);
  throw fail(ExitCode::kDeck, "help: no section \"{}\" ({})", io::one_line(section),
             near.empty() ? "sections: " + io::comma_list(names) : "nearest: " + near);
}

}  // namespace pg::app

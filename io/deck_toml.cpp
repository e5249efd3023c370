#include "io/deck_toml.h"

#include <toml++/toml.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>

#include "comm/error.h"
#include "io/deck_format.h"

namespace pg::io {
namespace {

// A deck needs sections, keys and arrays: three levels.
constexpr int kNestingMax = 16;

[[noreturn]] void syntax_error(std::string_view name, TextPlace place, std::string_view what) {
  throw fail(ExitCode::kDeck, "{}:{}:{}: syntax error: {}", name, place.line, place.column,
             one_line(what));
}

// Walks the text once and refuses what toml++ must not see. It knows as much TOML as it takes to
// tell a dot or a bracket from one inside a string or a comment; where the text is not TOML, toml++
// stops at that place, before what follows can do harm.
class TextLimits {
 public:
  TextLimits(std::string_view text, std::string_view name) : text_(text), name_(name) {}

  void check() {
    check_lines();
    while (at_ < text_.size()) step();
  }

 private:
  void check_lines() {
    std::size_t begin = 0;
    for (int line = 1; begin < text_.size(); ++line) {
      const auto end = std::min(text_.find('\n', begin), text_.size());
      if (end - begin > kDeckLineMax) {
        syntax_error(name_, {line, 1},
                     fmt::format("a line of {} bytes; {} is the limit", end - begin, kDeckLineMax));
      }
      if (const auto nul = text_.substr(begin, end - begin).find('\0'); nul != text_.npos) {
        syntax_error(name_, {line, static_cast<int>(nul) + 1}, "a NUL byte");
      }
      begin = end + 1;
    }
  }

  void step() {
    const char c = text_[at_];
    switch (c) {
      case '#':
        at_ = std::min(text_.find('\n', at_), text_.size());
        return;
      case '"':
      case '\'':
        skip_string(c);
        return;
      case '[':
      case '{':
        ++brackets_;
        dots_ = 0;
        break;
      case ']':
      case '}':
        brackets_ = std::max(brackets_ - 1, 0);
        dots_ = 0;
        break;
      case '.':
        ++dots_;
        break;
      case '\n':
      case '=':
      case ',':
        dots_ = 0;
        break;
    }
    if (brackets_ > kNestingMax || dots_ > kNestingMax) {
      const auto before = text_.substr(0, at_);
      const auto line = std::count(before.begin(), before.end(), '\n') + 1;
      const auto newline = before.rfind('\n');
      const auto column = newline == before.npos ? at_ + 1 : at_ - newline;
      syntax_error(name_, {static_cast<int>(line), static_cast<int>(column)},
                   fmt::format("nested more than {} deep", kNestingMax));
    }
    ++at_;
  }

  void skip_string(char quote) {
    const std::string triple(3, quote);
    const bool multi_line = text_.substr(at_, 3) == triple;
    at_ += multi_line ? 3 : 1;
    while (at_ < text_.size()) {
      if (quote == '"' && text_[at_] == '\\') {
        at_ += 2;
      } else if (multi_line && text_.substr(at_, 3) == triple) {
        at_ += 3;
        // Up to two quotes more may belong to the string, right before the closing three.
        for (int i = 0; i < 2 && at_ < text_.size() && text_[at_] == quote; ++i) ++at_;
        return;
      } else if (!multi_line && (text_[at_] == quote || text_[at_] == '\n')) {
        if (text_[at_] == quote) ++at_;
        return;
      } else {
        ++at_;
      }
    }
  }

  std::string_view text_, name_;
  std::size_t at_ = 0;
  int brackets_ = 0, dots_ = 0;
};

TextPlace place_of(const toml::source_region& region) {
  return {static_cast<int>(region.begin.line), static_cast<int>(region.begin.column)};
}

TomlNode plain(const toml::node& node) {
  TomlNode out;
  out.place = place_of(node.source());
  if (const auto* table = node.as_table()) {
    out.kind = TomlNode::Kind::kTable;
    for (const auto& [key, value] : *table) {
      out.members.push_back({std::string(key.str()), place_of(key.source()), plain(value)});
    }
  } else if (const auto* array = node.as_array()) {
    out.kind = TomlNode::Kind::kArray;
    for (const auto& item : *array) out.items.push_back(plain(item));
  } else if (const auto* text = node.as_string()) {
    out.kind = TomlNode::Kind::kString;
    out.text = text->get();
  } else if (const auto* integer = node.as_integer()) {
    out.kind = TomlNode::Kind::kInt;
    out.integer = integer->get();
  } else if (const auto* real = node.as_floating_point()) {
    out.kind = TomlNode::Kind::kFloat;
    out.real = real->get();
  } else if (const auto* boolean = node.as_boolean()) {
    out.kind = TomlNode::Kind::kBool;
    out.boolean = boolean->get();
  } else {
    out.kind = TomlNode::Kind::kDate;
  }
  return out;
}

}  // namespace

std::string read_deck_text(const std::filesystem::path& path) {
  const auto refuse = [&](const char* why) {
    return fail(ExitCode::kDeck, "{}: cannot read the deck: {}", path.string(), why);
  };
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) throw refuse("it is a directory");
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"),
                                                             &std::fclose);
  if (!file) throw refuse(std::strerror(errno));
  std::string text(kDeckBytesMax + 1, '\0');
  text.resize(std::fread(text.data(), 1, text.size(), file.get()));
  if (std::ferror(file.get())) throw refuse(std::strerror(errno));
  if (text.size() > kDeckBytesMax) throw refuse("it is longer than 1 MiB");
  return text;
}

TomlNode parse_toml(std::string_view text, std::string_view name) {
  TextLimits(text, name).check();
  try {
    return plain(toml::parse(text));
  } catch (const toml::parse_error& error) {
    syntax_error(name, place_of(error.source()), error.description());
  }
}

}  // namespace pg::io

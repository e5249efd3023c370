// nlohmann-json parses and frees JSON of any depth without recursion, but writes it recursively:
// text that was nested deep enough would overflow the stack when it is written again.
#pragma once

#include <string_view>

namespace pg::io {

// Whether more than `most` arrays and objects of this JSON text stand inside one another.
inline bool nested_deeper_than(std::string_view text, int most) {
  int depth = 0;
  bool in_string = false;
  for (std::size_t at = 0; at < text.size(); ++at) {
    const char c = text[at];
    if (in_string) {
      if (c == '\\') ++at;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > most) return true;
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return false;
}

}  // namespace pg::io

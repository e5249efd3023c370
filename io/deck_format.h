// How deck values and names look in messages, in help and in canonical TOML, and which known name
// is nearest to a mistyped one.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace pg::io {

using DeckValue = std::variant<bool, std::int64_t, double, std::string, std::vector<std::string>>;

// As TOML; floats in the fewest digits that read back to the same value.
std::string toml_text(const DeckValue& value);
std::string toml_text(std::string_view value);  // quoted and escaped

// For messages: control characters (newlines too) and bytes that are not UTF-8 become '?'; long
// text is cut.
std::string one_line(std::string_view text);

bool is_utf8(std::string_view text);

// "a, b, c"
std::string comma_list(std::span<const std::string> items);

// The candidate with the least edit distance (insert, delete, replace, swap neighbours), first in
// order on a tie; empty when none is near enough to be what was meant.
std::string nearest(std::string_view name, std::span<const std::string> candidates);

}  // namespace pg::io

// `pentagrid help`: the deck's sections and keys, from the table that reads it.
#pragma once

#include <string>
#include <string_view>

namespace pg::app {

// All sections, one a line; or one section's keys with type, default, legal values, unit and
// meaning, and the keys reserved for later versions. At most 100 columns. Error(kDeck) for a
// section that does not exist.
std::string help_text(std::string_view section);

}  // namespace pg::app

#include "app/hint_checks.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <set>
#include <string_view>

namespace pg::app {

namespace {

// Every MPI takes names and values of these lengths.
constexpr std::size_t kLongestName = 31, kLongestValue = 255;

bool has_no_effect(std::string_view name) {
  constexpr std::array<std::string_view, 3> kBegin{"cb_", "romio_cb_", "romio_ds_"};
  constexpr std::array<std::string_view, 3> kNames{"collective_buffering", "romio_no_indep_rw",
                                                   "ind_wr_buffer_size"};
  return std::any_of(kBegin.begin(), kBegin.end(),
                     [&](auto begin) { return name.starts_with(begin); }) ||
         std::find(kNames.begin(), kNames.end(), name) != kNames.end();
}

}  // namespace

std::string hints_problem(const std::vector<std::string>& hints) {
  std::set<std::string> names;
  for (const auto& hint : hints) {
    const auto equals = hint.find('=');
    if (equals == std::string::npos || equals == 0 || equals + 1 == hint.size() ||
        hint.find_first_of(" \t\n\r") != std::string::npos) {
      return fmt::format("\"{}\" is not NAME=VALUE (\"striping_factor=16\")", hint);
    }
    const auto name = hint.substr(0, equals);
    if (equals > kLongestName || hint.size() - equals - 1 > kLongestValue) {
      return fmt::format("\"{}\": a name has at most {} characters and a value {}", name,
                         kLongestName, kLongestValue);
    }
    if (!names.insert(name).second) return fmt::format("\"{}\" is given twice", name);
    if (has_no_effect(name)) {
      return fmt::format(
          "\"{}\" would have no effect: every rank writes its own pieces of the file, without "
          "collective buffers or data sieving; hints count where the file is made "
          "(striping_factor, striping_unit)",
          name);
    }
  }
  return "";
}

}  // namespace pg::app

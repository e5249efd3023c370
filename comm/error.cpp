#include "comm/error.h"

#include <string_view>

namespace pg::detail {

void assertion_failed(const char* file, int line, const char* expression,
                      const std::string& values) {
  // The path as the source tree knows it, whatever folder the build ran in: this file's own path
  // tells where the tree begins.
  constexpr std::string_view kHere = __FILE__, kInTree = "comm/error.cpp";
  static_assert(kHere.ends_with(kInTree));
  constexpr std::string_view kRoot = kHere.substr(0, kHere.size() - kInTree.size());
  std::string_view path(file);
  if (path.starts_with(kRoot)) path.remove_prefix(kRoot.size());
  throw fail(ExitCode::kBug, "bug: {}:{}: {} is false ({})", path, line, expression, values);
}

}  // namespace pg::detail

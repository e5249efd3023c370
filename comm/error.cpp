#include "comm/error.h"

#include <string_view>

namespace pg::detail {

void assertion_failed(const char* file, int line, const char* expression,
                      const std::string& values) {
  std::string_view path(file);
  // The path as the source tree knows it, whatever folder the build ran in.
  for (const char* folder : {"/comm/", "/model/", "/io/", "/app/", "/tests/"}) {
    if (const auto at = path.rfind(folder); at != std::string_view::npos) {
      path.remove_prefix(at + 1);
      break;
    }
  }
  throw fail(ExitCode::kBug, "bug: {}:{}: {} is false ({})", path, line, expression, values);
}

}  // namespace pg::detail

#include "comm/profile_range.h"

#include <fmt/format.h>
#include <nvtx3/nvToolsExt.h>

#include <array>

namespace pg::comm {

void ProfileRange::begin(const char* name, std::int64_t index) {
  if (index < 0) {
    nvtxRangePushA(name);
    return;
  }
  std::array<char, 96> text{};
  fmt::format_to_n(text.data(), text.size() - 1, "{} {}", name, index);
  nvtxRangePushA(text.data());
}

void ProfileRange::end() {
  nvtxRangePop();
}

}  // namespace pg::comm

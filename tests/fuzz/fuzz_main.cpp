// One libFuzzer program: PG_FUZZ_TARGET is its function of targets.h.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "tests/fuzz/targets.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  pg::fuzz::PG_FUZZ_TARGET({reinterpret_cast<const char*>(data), size});
  return 0;
}

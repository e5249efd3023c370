#include "tests/fuzz/targets.h"

#include <array>

namespace pg::fuzz {

std::span<const Target> targets() {
  static constexpr std::array<Target, 9> kTargets{{{"deck", deck},
                                                   {"manifest", manifest},
                                                   {"run_json", run_json},
                                                   {"choices", choices},
                                                   {"metrics", metrics},
                                                   {"token_file", token_file},
                                                   {"state", state},
                                                   {"tokenizer", tokenizer},
                                                   {"text", text}}};
  return kTargets;
}

}  // namespace pg::fuzz

// Decks and helpers that several tests of app/ share.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "app/schema.h"
#include "comm/error.h"

namespace pg::app {

// All required keys, on fixed lines: tests name places in it.
inline constexpr const char* kLeastDeck =
    "[model]\n"           // 1
    "layers = 2\n"        // 2
    "hidden = 64\n"       // 3
    "heads = 4\n"         // 4
    "vocab = 300\n"       // 5
    "[data]\n"            // 6
    "train = 't.h5'\n"    // 7
    "[train]\n"           // 8
    "steps = 100\n"       // 9
    "seq = 32\n"          // 10
    "global_batch = 8\n"  // 11
    "micro_batch = 2\n";  // 12

// What is wrong with a deck; empty when nothing is.
inline std::string refusal(std::string_view text, Purpose purpose, int ranks = 0,
                           const std::vector<std::string>& overrides = {}) {
  try {
    parse_deck(text, "d.toml", overrides, purpose, ranks);
  } catch (const Error& error) {
    return error.code() == ExitCode::kDeck ? error.what() : "another code";
  }
  return "";
}

// The least deck with overrides.
inline std::string refusal_of(const std::vector<std::string>& overrides, int ranks = 1) {
  return refusal(kLeastDeck, Purpose::kTrain, ranks, overrides);
}

}  // namespace pg::app

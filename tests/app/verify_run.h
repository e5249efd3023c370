// Running `verify` in-process and reading what it prints: what its tests share.
#pragma once

#include <sstream>
#include <string>
#include <vector>

#include "app/verify.h"
#include "comm/mpi_session.h"

namespace pg::testing {

inline comm::Communicator world() {
  return comm::Communicator::world();
}

struct Outcome {
  ExitCode code = ExitCode::kDone;
  std::string error, text;
  int ranks = 0;
};

inline Outcome verify(const app::Deck& deck, app::VerifyControls controls = {}) {
  Outcome outcome;
  controls.say = [&](const std::string& text) { outcome.text += text; };
  try {
    outcome.code = app::run_verify(deck, world(), controls);
  } catch (const Error& error) {
    outcome.code = error.code();
    outcome.error = error.what();
    outcome.ranks = error.ranks();
  }
  return outcome;
}

inline bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// The layers whose row ends in OVER, in order.
inline std::vector<std::string> layers_over(const std::string& text) {
  std::vector<std::string> over;
  std::istringstream lines(text);
  bool gradients = false;
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("gradient of")) gradients = true;
    if (line.starts_with("step ")) gradients = false;
    if (!gradients || !line.ends_with("OVER")) continue;
    auto name = line.substr(0, 18);
    name.resize(name.find_last_not_of(' ') + 1);
    over.push_back(name);
  }
  return over;
}

}  // namespace pg::testing

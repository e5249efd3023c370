// The one exception type of the program and the exit codes it maps to.
//
// Three kinds of failure, never mixed: the user's (deck, data, checkpoint: a message with its
// place), the environment's (MPI, HDF5, a full disk: rank, host, operation) and a bug (PG_ASSERT,
// with the values). comm/agree.h makes one rank's failure everyone's. `main` catches inside the
// MpiSession: an Error whose ranks() is the whole job is printed by rank 0, and every rank returns
// its code; any other is printed where it is and ends the job by abort_job.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace pg {

enum class ExitCode : int {
  kDone = 0,
  kBug = 1,         // an assertion failed, or an exception nobody expected
  kDeck = 2,        // input deck or command line
  kData = 3,        // data or model file
  kCheckpoint = 4,  // checkpoint refused
  kSave = 5,        // a save failed
  kComm = 6,        // hang or communication failure
  kNumerical = 7,   // not-finite or diverged values
  kStopped = 75,    // stopped early, resumable (EX_TEMPFAIL: Slurm scripts requeue on it)
};

class Error : public std::runtime_error {
 public:
  // `ranks`: how many ranks throw this same error; only `together` says more than one.
  Error(ExitCode code, const std::string& message, int ranks = 1)
      : std::runtime_error(message), code_(code), ranks_(ranks) {}
  ExitCode code() const { return code_; }
  int ranks() const { return ranks_; }

 private:
  ExitCode code_;
  int ranks_;
};

// throw fail(ExitCode::kData, "{}: token {} at offset {}", path, id, offset);
template <class... Args>
Error fail(ExitCode code, fmt::format_string<Args...> format, Args&&... args) {
  return Error(code, fmt::format(format, std::forward<Args>(args)...));
}

namespace detail {
[[noreturn]] void assertion_failed(const char* file, int line, const char* expression,
                                   const std::string& values);
}

}  // namespace pg

// A bug when false. Always on: PG_ASSERT(rows == n, "rows {} n {}", rows, n).
#define PG_ASSERT(expression, ...)                                                                 \
  do {                                                                                             \
    if (!(expression)) [[unlikely]] {                                                              \
      ::pg::detail::assertion_failed(__FILE__, __LINE__, #expression, ::fmt::format(__VA_ARGS__)); \
    }                                                                                              \
  } while (false)

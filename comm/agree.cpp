#include "comm/agree.h"

#include <cstdint>
#include <exception>
#include <string>

#include "comm/error.h"
#include "comm/mpi_session.h"

namespace pg::comm {

namespace {

struct Outcome {
  bool failed = false;
  ExitCode code = ExitCode::kDone;
  std::string message;
};

Outcome outcome_of(const std::function<void()>& work) {
  try {
    work();
    return {};
  } catch (const Error& error) {
    // A failure stays one whatever its code says.
    const auto code = error.code() == ExitCode::kDone ? ExitCode::kBug : error.code();
    return {true, code, error.what()};
  } catch (const std::exception& error) {
    return {true, ExitCode::kBug, error.what()};
  } catch (...) {
    return {true, ExitCode::kBug, "an exception that is no std::exception"};
  }
}

}  // namespace

void together(Group& group, const std::function<void()>& work) {
  const Outcome mine = outcome_of(work);
  if (group.size() == 1) {
    if (mine.failed) throw Error(mine.code, mine.message);
    return;
  }

  int first = 0;
  auto agreed = static_cast<std::int64_t>(mine.code);
  std::string message = mine.message;
  try {
    const std::int64_t candidate = mine.failed ? group.rank() : group.size();
    first = static_cast<int>(all_reduce(group, candidate, ReduceOp::kMin));
    if (first == group.size()) return;
    // A nested agreement or an MPI error may have named the rank already.
    const auto prefix = fmt::format("rank {} ({}): ", first, host_name());
    if (group.rank() == first && !message.starts_with(prefix)) message.insert(0, prefix);
    group.broadcast({&agreed, 1, DType::kI64}, first).wait();
    message = broadcast(group, message, first);
  } catch (const Error& error) {
    // No agreement any more: this rank's own failure is the better news, if it has one.
    if (!mine.failed) throw;
    throw Error(mine.code, fmt::format("{} (and then: {})", mine.message, error.what()));
  }
  throw Error(static_cast<ExitCode>(agreed), message, group.size());
}

}  // namespace pg::comm

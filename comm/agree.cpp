#include "comm/agree.h"

#include <cstdint>

#include "comm/error.h"
#include "comm/mpi_session.h"

namespace pg::comm {

void together(Group& group, const std::function<void()>& work) {
  int code = 0;
  std::string message;
  try {
    work();
  } catch (const Error& error) {
    code = static_cast<int>(error.code());
    message = error.what();
  } catch (const std::exception& error) {
    code = static_cast<int>(ExitCode::kBug);
    message = error.what();
  }
  if (group.size() == 1) {
    if (code != 0) throw Error(static_cast<ExitCode>(code), message);
    return;
  }

  const std::int64_t mine = code == 0 ? group.size() : group.rank();
  const auto first = all_reduce(group, mine, ReduceOp::kMin);
  if (first == group.size()) return;
  const auto root = static_cast<int>(first);
  if (group.rank() == root) message = fmt::format("rank {} ({}): {}", root, host_name(), message);
  std::int64_t agreed = code;
  group.broadcast({&agreed, 1, DType::kI64}, root).wait();
  message = broadcast(group, message, root);
  throw Error(static_cast<ExitCode>(agreed), message);
}

}  // namespace pg::comm

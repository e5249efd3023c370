// Failures of NCCL while the host waits. Simulated: communicators are broken on purpose.
#include <string>

#include "tests/cuda/comm/flow.h"
#include "tests/simulated_gpu/nccl.h"

namespace pg::comm::testing {
namespace {

// Rank 0 alone calls; the others never come.
TEST(nccl_failures, asynchronous_error_ends_the_wait_naming_group_operation_rank_and_host) {
  const auto world = Communicator::world();
  if (world.size() == 1) return;
  const Gpu gpu(choose(1, world.size()));
  const auto group = make_group(Carrier::kNccl, world, "tp", gpu);
  const auto other = make_group(Carrier::kNccl, world, "dp", gpu);
  Flow<float> x(gpu, std::vector<float>(10, 1.0f));
  if (world.rank() == 0) {
    auto flying = group->all_reduce(x.view(), ReduceOp::kSum);
    simulated::break_communicators(ncclRemoteError);
    try {
      gpu.synchronize();
      FAIL() << "no error";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kComm);
      const std::string text = error.what();
      EXPECT_EQ(text, "rank 0 (" + host_name() +
                          "): all_reduce on group tp failed: NCCL: remote process exited or there "
                          "was a network error");
    }
    // Every later call and wait says so too, and nothing hangs.
    EXPECT_THROW((void)group->all_reduce(x.view(), ReduceOp::kSum), Error);
    EXPECT_THROW((void)other->all_reduce(x.view(), ReduceOp::kSum), Error);
    EXPECT_THROW(gpu.synchronize(), Error);
    flying.wait();
  }
}

TEST(nccl_failures, two_ranks_on_one_gpu_are_refused) {
  const auto world = Communicator::world();
  if (world.size() == 1) return;
  const Gpu gpu(choose(1, 1));
  try {
    (void)make_group(Carrier::kNccl, world, "tp", gpu);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kComm);
    EXPECT_NE(std::string(error.what()).find("making the communicator on group tp failed"),
              std::string::npos)
        << error.what();
  }
}

}  // namespace
}  // namespace pg::comm::testing

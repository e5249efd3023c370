// What the simulated NCCL must find, since a real one hangs or moves wrong bytes: ends the job with
// a message.
#include <cstdio>
#include <string>

#include "comm/error.h"
#include "tests/cuda/comm/flow.h"

int main(int argc, char** argv) {
  using namespace pg;
  using namespace pg::comm;
  using namespace pg::comm::testing;
  MpiSession mpi(argc, argv);
  const std::string what = argc > 1 ? argv[1] : "";
  const auto world = Communicator::world();
  const int me = world.rank();
  try {
    const Gpu gpu(choose(1, world.size()));
    const auto a = make_group(Carrier::kNccl, world, "a", gpu);
    const auto b = make_group(Carrier::kNccl, world, "b", gpu);
    Flow<float> x(gpu, std::vector<float>(10, 1.0f)), y(gpu, std::vector<float>(10, 1.0f));
    std::vector<Pending> calls;
    if (what == "order") {
      calls.push_back((me == 0 ? a : b)->all_reduce(x.view(), ReduceOp::kSum));
      calls.push_back((me == 0 ? b : a)->all_reduce(y.view(), ReduceOp::kSum));
    } else if (what == "count") {
      calls.push_back(a->all_reduce(x.part(0, me == 0 ? 9 : 10), ReduceOp::kSum));
    } else if (what == "operation") {
      calls.push_back(me == 0 ? a->all_reduce(x.view(), ReduceOp::kSum)
                              : a->broadcast(x.view(), 0));
    } else if (what == "message") {
      calls.push_back(me == 0 ? a->send(x.part(0, 4), 1, 0) : a->recv(x.part(0, 5), 0, 0));
    }
    calls.clear();
    gpu.synchronize();
  } catch (const Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    abort_job(static_cast<int>(error.code()));
  }
  return 0;
}

// One NCCL communicator with its stream: made without blocking inside NCCL, so that its errors are
// seen while the host waits; watched in every later wait; ended in order, or aborted when the job
// is on its way out. Only for the NCCL group.
#pragma once

#include <functional>
#include <span>
#include <string>

#include <nccl.h>

#include "comm/cuda/gpu_watch.h"

namespace pg::comm {

class NcclCommunicator final : public Watched {
 public:
  static ncclUniqueId make_id();

  // Not yet made. `group` is for messages.
  NcclCommunicator(std::string group, int size, int rank, const ncclUniqueId& id, int blocks);
  ~NcclCommunicator() override;

  using Members = std::span<NcclCommunicator* const>;
  // Makes them at the same time, in one of NCCL's groups (it refuses a second call while one is in
  // progress); the other ranks of each make theirs with the same id. The host waits for them.
  static void make(Members members);

  // Issues an operation: `call` hands it to NCCL. The host waits until NCCL has put it on the
  // stream: the first time it connects the ranks, later that is at once.
  using Call = std::function<ncclResult_t(ncclComm_t, cudaStream_t)>;
  void issue(const char* operation, const Call& call);
  // One operation of each at the same time.
  static void issue(Members members, const char* operation, std::span<const Call> calls);

  // The host waits for what is in flight.
  void wait_until_idle();
  // The end in order of what is made and idle; ranks need not have them in the same order. Without
  // it the destructor aborts.
  static void end(Members members);

  GpuStream stream() const override { return stream_; }
  void check() override;
  void abort() noexcept override;

 private:
  void init();
  void begin(const char* operation, const Call& call);
  static void in_a_group(Members members, const std::function<void()>& calls);
  void accept(ncclResult_t status);  // a call's
  void wait_while_in_progress();
  [[noreturn]] void failed(ncclResult_t status);

  std::string group_;
  int size_, rank_;
  ncclUniqueId id_;
  int blocks_;
  const char* operation_ = "making the communicator";  // the latest one
  ncclComm_t comm_ = nullptr;
  cudaStream_t stream_ = nullptr;
  std::string failure_;  // of the first failure; it stays failed
};

}  // namespace pg::comm

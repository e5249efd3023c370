#include "comm/cuda/nccl_communicator.h"

#include <cstdlib>
#include <thread>
#include <utility>

#include "comm/activity.h"
#include "comm/cuda/cuda_check.h"
#include "comm/mpi_session.h"

namespace pg::comm {

namespace {

// Before NCCL's first call, which reads them. Sums in NVLink's switches need not be the same bits
// on every repeat. What the user has set stays.
void choose_repeatable_sums() {
  setenv("NCCL_NVLS_ENABLE", "0", /*overwrite=*/0);
}

std::string where() {
  return fmt::format("rank {} ({})", Communicator::world().rank(), host_name());
}

}  // namespace

ncclUniqueId NcclCommunicator::make_id() {
  choose_repeatable_sums();
  ncclUniqueId id{};
  if (const auto status = ncclGetUniqueId(&id); status != ncclSuccess) {
    throw fail(ExitCode::kComm, "{}: ncclGetUniqueId failed: {}", where(),
               ncclGetErrorString(status));
  }
  return id;
}

NcclCommunicator::NcclCommunicator(std::string group, int size, int rank, const ncclUniqueId& id,
                                   int blocks)
    : group_(std::move(group)), size_(size), rank_(rank), id_(id), blocks_(blocks) {
  choose_repeatable_sums();
  // Ahead of compute where both have work for a processor: others wait for it.
  int least = 0, greatest = 0;
  PG_CUDA(cudaDeviceGetStreamPriorityRange(&least, &greatest));
  PG_CUDA(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, greatest));
}

NcclCommunicator::~NcclCommunicator() {
  abort();
  cudaStreamDestroy(stream_);
}

void NcclCommunicator::init() {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  // Clusters of blocks need processors side by side: single blocks fit wherever one is free.
  config.cgaClusterSize = 0;
  config.minCTAs = 1;
  config.maxCTAs = blocks_;
  accept(ncclCommInitRankConfig(&comm_, size_, id_, rank_, &config));
}

void NcclCommunicator::make(Members members) {
  in_a_group(members, [&] {
    for (auto* const member : members) member->init();
  });
}

void NcclCommunicator::issue(const char* operation, const Call& call) {
  begin(operation, call);
  wait_while_in_progress();
}

void NcclCommunicator::issue(Members members, const char* operation, std::span<const Call> calls) {
  in_a_group(members, [&] {
    for (std::size_t i = 0; i < members.size(); ++i) members[i]->begin(operation, calls[i]);
  });
}

void NcclCommunicator::begin(const char* operation, const Call& call) {
  check();
  operation_ = operation;
  accept(call(comm_, stream_));
}

void NcclCommunicator::in_a_group(Members members, const std::function<void()>& calls) {
  if (members.empty()) return;
  members.front()->accept(ncclGroupStart());
  calls();
  members.front()->accept(ncclGroupEnd());
  for (auto* const member : members) member->wait_while_in_progress();
}

void NcclCommunicator::accept(ncclResult_t status) {
  if (status != ncclSuccess && status != ncclInProgress) failed(status);
}

void NcclCommunicator::wait_while_in_progress() {
  const Waiting waiting("NCCL");
  for (;;) {
    check();
    ncclResult_t state = ncclSuccess;
    accept(ncclCommGetAsyncError(comm_, &state));
    if (state == ncclSuccess) return;
    accept(state);
    // A failure of another communicator may be why nobody comes here.
    check_watched();
    std::this_thread::yield();
  }
}

void NcclCommunicator::check() {
  if (!failure_.empty()) throw Error(ExitCode::kComm, failure_);
  if (comm_ == nullptr) return;
  ncclResult_t state = ncclSuccess;
  accept(ncclCommGetAsyncError(comm_, &state));
  accept(state);
}

void NcclCommunicator::failed(ncclResult_t status) {
  const char* const more = ncclGetLastError(comm_);
  failure_ = fmt::format("{}: {} on group {} failed: NCCL: {}{}{}", where(), operation_, group_,
                         ncclGetErrorString(status), more == nullptr || *more == 0 ? "" : ": ",
                         more == nullptr ? "" : more);
  throw Error(ExitCode::kComm, failure_);
}

void NcclCommunicator::abort() noexcept {
  if (comm_ == nullptr) return;
  if (failure_.empty()) {
    try {
      failure_ =
          fmt::format("{}: group {} was given up after a failure elsewhere", where(), group_);
    } catch (...) {
      failure_ = "a group was given up after a failure elsewhere";
    }
  }
  ncclCommAbort(std::exchange(comm_, nullptr));
}

void NcclCommunicator::wait_until_idle() {
  wait_for(*this);
}

void NcclCommunicator::end(Members members) {
  in_a_group(members, [&] {
    for (auto* const member : members) {
      member->operation_ = "ending";
      member->accept(ncclCommFinalize(member->comm_));
    }
  });
  for (auto* const member : members) {
    member->accept(ncclCommDestroy(std::exchange(member->comm_, nullptr)));
  }
}

}  // namespace pg::comm

#include "comm/cuda/gpu_watch.h"

#include <algorithm>
#include <thread>
#include <vector>

#include "comm/activity.h"
#include "comm/cuda/cuda_check.h"

namespace pg::comm {

namespace {

// Of this process, in the order they were made. One thread talks to the GPU.
std::vector<Watched*>& all_watched() {
  static std::vector<Watched*> all;
  return all;
}

bool idle(GpuStream stream) {
  const auto status = cudaStreamQuery(stream);
  if (status == cudaErrorNotReady) return false;
  cuda_check(status, "cudaStreamQuery");
  return true;
}

}  // namespace

Watched::Watched() {
  all_watched().push_back(this);
}

Watched::~Watched() {
  std::erase(all_watched(), this);
}

bool abort_watched() noexcept {
  for (auto* const watched : all_watched()) watched->abort();
  return !all_watched().empty();
}

void check_watched() {
  try {
    for (auto* const watched : all_watched()) watched->check();
  } catch (const Error&) {
    abort_watched();
    throw;
  }
}

void wait_for(GpuStream stream) {
  const Waiting waiting("the GPU");
  if (!all_watched().empty()) {
    while (!idle(stream)) {
      check_watched();
      std::this_thread::yield();
    }
    check_watched();
  }
  PG_CUDA(cudaStreamSynchronize(stream));
}

void wait_for(Watched& watched) {
  wait_for(watched.stream());
}

// Only what is watched can last for ever: the rest ends once that has.
void wait_for_gpu() {
  const Waiting waiting("the GPU");
  for (auto* const watched : all_watched()) wait_for(*watched);
  PG_CUDA(cudaDeviceSynchronize());
}

}  // namespace pg::comm

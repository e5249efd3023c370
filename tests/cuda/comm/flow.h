// Buffers on the GPU that are written and read in the order of its compute stream only, so that a
// group that begins too early, or whose wait orders nothing, finds or leaves NaNs.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "comm/error.h"
#include "comm/gpu.h"
#include "comm/gpu_choice.h"
#include "comm/gpu_groups.h"
#include "comm/mpi_session.h"

namespace pg::comm::testing {

// `gpus` simulated ones, in another order of their work. A real GPU takes no notice.
inline int choose(int seed, int gpus) {
  setenv("PG_SIMULATED_ORDER", std::to_string(seed).c_str(), 1);
  setenv("PG_SIMULATED_GPUS", std::to_string(gpus).c_str(), 1);
  const auto node = Communicator::world().split_by_host();
  return choose_gpu(gpu_count(), node.rank(), node.size()).ordinal;
}

template <class T>
class Flow {
 public:
  // Poisoned.
  Flow(const Gpu& gpu, std::size_t count)
      : stream_(gpu.compute()), count_(count), bytes_(count * sizeof(T)) {
    device_ = static_cast<char*>(gpu_allocate(bytes_ + 2 * kGuard));
    source_ = static_cast<char*>(pinned_allocate(bytes_ + 2 * kGuard));
    result_ = static_cast<char*>(pinned_allocate(bytes_ + 2 * kGuard));
    std::memset(source_, 0xFF, bytes_ + 2 * kGuard);
    gpu_copy(device_, source_, bytes_ + 2 * kGuard);
  }
  // These values come in the stream's order.
  Flow(const Gpu& gpu, const std::vector<T>& values) : Flow(gpu, values.size()) {
    if (!values.empty()) std::memcpy(source_ + kGuard, values.data(), bytes_);
    gpu_copy_on(stream_, device_, source_, bytes_ + 2 * kGuard);
  }
  Flow(const Flow&) = delete;
  Flow& operator=(const Flow&) = delete;
  ~Flow() {
    gpu_free(device_);
    pinned_free(source_);
    pinned_free(result_);
  }

  BufferView view() const { return {device_ + kGuard, count_, dtype_of<T>::value, Device::kCuda}; }
  BufferView part(std::size_t first, std::size_t count) const {
    return {device_ + kGuard + first * sizeof(T), count, dtype_of<T>::value, Device::kCuda};
  }
  // What the buffer holds now is read in the stream's order...
  void read() { gpu_copy_on(stream_, result_, device_, bytes_ + 2 * kGuard); }
  // ...and is here once the host has waited for the GPU.
  std::vector<T> values() const {
    for (std::size_t i = 0; i < kGuard; ++i) {
      EXPECT_EQ(static_cast<unsigned char>(result_[i]), 0xFF) << "written before the buffer";
      EXPECT_EQ(static_cast<unsigned char>(result_[kGuard + bytes_ + i]), 0xFF)
          << "written behind the buffer";
    }
    std::vector<T> values(count_);
    if (count_ > 0) std::memcpy(values.data(), result_ + kGuard, bytes_);
    return values;
  }

 private:
  static constexpr std::size_t kGuard = 64;
  GpuStream stream_;
  std::size_t count_, bytes_;
  char *device_ = nullptr, *source_ = nullptr, *result_ = nullptr;
};

// One of the two carriers over a GPU, with messages.
enum class Carrier { kNccl, kStaged };
inline const char* name_of(Carrier carrier) {
  return carrier == Carrier::kNccl ? "NCCL" : "staged";
}

inline std::unique_ptr<Group> make_group(Carrier carrier, const Communicator& members,
                                         std::string name, const Gpu& gpu) {
  auto own = members.split(0, members.rank());
  if (carrier == Carrier::kStaged) {
    return make_staged_group(std::move(own), std::move(name), gpu);
  }
  return make_nccl_group(std::move(own), std::move(name), gpu,
                         {share_blocks(gpu.info().processors, 4, 4), /*messages=*/true});
}

// NCCL itself refuses two ranks on one GPU of one host. `make test-gpu` tells it that they are on
// different hosts (NCCL_HOSTID): then its sums over sockets are tested with the one GPU there is.
inline bool nccl_is_told_of_hosts() {
  return std::getenv("NCCL_HOSTID") != nullptr;
}

// Runs `test(carrier, gpu)` for every carrier that this machine has, in several orders of the
// simulated GPU.
template <class Test>
void on_each_carrier(const Test& test, int seeds = 3) {
  const auto world = Communicator::world();
  if (world.size() > 2) seeds = (seeds + 1) / 2;  // many ranks share few cores
  if (world.size() > 4) seeds = 1;
  for (const auto carrier : {Carrier::kNccl, Carrier::kStaged}) {
    for (int seed = 1; seed <= seeds; ++seed) {
      // Ranks that share a GPU are what staging is for.
      const Gpu gpu(choose(seed, carrier == Carrier::kNccl ? world.size() : 1));
      const auto ids = all_gather(*make_mpi_group(world, "world"), gpu.info().id);
      if (carrier == Carrier::kNccl && gpus_are_shared(ids) && !nccl_is_told_of_hosts()) continue;
      SCOPED_TRACE(fmt::format("{}, seed {}", name_of(carrier), seed));
      test(carrier, gpu);
      gpu.synchronize();
    }
  }
}

// Small whole numbers: their sums over at most 8 ranks are exact in every type, bf16 included.
template <class T>
T value_of(int rank, std::size_t i) {
  return static_cast<T>(static_cast<float>((static_cast<std::size_t>(rank) * 5 + i * 7) % 31));
}
template <class T>
double number(T value) {
  if constexpr (std::is_same_v<T, bf16>) {
    return static_cast<double>(static_cast<float>(value));
  } else {
    return static_cast<double>(value);
  }
}
template <class T>
std::vector<double> numbers(const std::vector<T>& values) {
  std::vector<double> all;
  for (const auto v : values) all.push_back(number(v));
  return all;
}

}  // namespace pg::comm::testing

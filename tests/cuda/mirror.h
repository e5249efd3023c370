// Tensors that lie twice: once for the CPU backend, once for the GPU's, with the same contents at
// first. One program compares the two backends operation by operation; it is built for the
// simulated GPU (part of `make test`) and for a real one (`make test-gpu`).
//
// What the GPU writes is poisoned with NaNs beforehand, and lies between guards that must survive.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "comm/gpu.h"
#include "comm/random.h"
#include "model/kernels/kernels.h"

namespace pg::model::testing {

class Mirror {
 public:
  static constexpr std::int64_t kGuard = 64;  // bytes before and behind

  // Uninitialised: poisoned on both sides.
  Mirror(DType dtype, std::initializer_list<std::int64_t> shape)
      : dtype_(dtype), host_view_(nullptr, dtype, shape) {
    bytes_ = host_view_.bytes();
    host_.assign(bytes_ + 2 * kGuard, 0xFF);
    before_.assign(host_.begin(), host_.end());
    device_ = static_cast<unsigned char*>(comm::gpu_allocate(host_.size()));
    host_view_ = TensorView(host_.data() + kGuard, dtype, shape);
    device_view_ = TensorView(device_ + kGuard, dtype, shape, Device::kCuda);
    upload();
  }
  Mirror(const Mirror&) = delete;
  Mirror& operator=(const Mirror&) = delete;
  ~Mirror() { comm::gpu_free(device_); }

  TensorView host() const { return host_view_; }
  TensorView device() const { return device_view_; }
  DType dtype() const { return dtype_; }
  std::int64_t elements() const { return host_view_.elements(); }

  // Normal values with this mean and deviation, the same on both sides.
  Mirror& normal(const std::string& name, double mean = 0.0, double deviation = 1.0) {
    const auto key = comm::random_key(7, name);
    for (std::int64_t i = 0; i < elements(); ++i) {
      set(i, mean + deviation * comm::random_normal(key, static_cast<std::uint64_t>(i)));
    }
    return upload();
  }
  // Whole numbers in [low, high].
  Mirror& whole(const std::string& name, std::int64_t low, std::int64_t high) {
    const auto key = comm::random_key(11, name);
    for (std::int64_t i = 0; i < elements(); ++i) {
      const auto bits = comm::random_bits(key, 0, static_cast<std::uint64_t>(i));
      set(i, static_cast<double>(low + static_cast<std::int64_t>(
                                           bits % static_cast<std::uint32_t>(high - low + 1))));
    }
    return upload();
  }
  Mirror& fill(double value) {
    for (std::int64_t i = 0; i < elements(); ++i) set(i, value);
    return upload();
  }
  Mirror& values(const std::vector<double>& all) {
    for (std::int64_t i = 0; i < elements(); ++i) set(i, all.at(static_cast<std::size_t>(i)));
    return upload();
  }
  // The host's contents to the GPU.
  Mirror& upload() {
    comm::gpu_copy(device_, host_.data(), host_.size());
    return *this;
  }

  double at_host(std::int64_t i) const { return get(host_.data() + kGuard, i); }
  // What the GPU holds, read once after all that was issued.
  std::vector<double> from_device() const {
    std::vector<unsigned char> all(host_.size());
    comm::gpu_copy(all.data(), device_, all.size());
    for (std::size_t i = 0; i < kGuard; ++i) {
      EXPECT_EQ(all[i], 0xFF) << "written before the tensor";
      EXPECT_EQ(all[all.size() - 1 - i], 0xFF) << "written behind the tensor";
    }
    std::vector<double> values(static_cast<std::size_t>(elements()));
    for (std::int64_t i = 0; i < elements(); ++i) {
      values[static_cast<std::size_t>(i)] = get(all.data() + kGuard, i);
    }
    return values;
  }

 private:
  void set(std::int64_t i, double value) {
    auto* const base = host_.data() + kGuard;
    switch (dtype_) {
      case DType::kF64:
        reinterpret_cast<double*>(base)[i] = value;
        break;
      case DType::kF32:
        reinterpret_cast<float*>(base)[i] = static_cast<float>(value);
        break;
      case DType::kBF16:
        reinterpret_cast<bf16*>(base)[i] = bf16(static_cast<float>(value));
        break;
      case DType::kI32:
        reinterpret_cast<std::int32_t*>(base)[i] = static_cast<std::int32_t>(value);
        break;
      case DType::kI64:
        reinterpret_cast<std::int64_t*>(base)[i] = static_cast<std::int64_t>(value);
        break;
      case DType::kU8:
        base[i] = static_cast<unsigned char>(value);
        break;
    }
  }
  double get(const unsigned char* base, std::int64_t i) const {
    switch (dtype_) {
      case DType::kF64:
        return reinterpret_cast<const double*>(base)[i];
      case DType::kF32:
        return static_cast<double>(reinterpret_cast<const float*>(base)[i]);
      case DType::kBF16:
        return static_cast<double>(static_cast<float>(reinterpret_cast<const bf16*>(base)[i]));
      case DType::kI32:
        return reinterpret_cast<const std::int32_t*>(base)[i];
      case DType::kI64:
        return static_cast<double>(reinterpret_cast<const std::int64_t*>(base)[i]);
      case DType::kU8:
        return base[i];
    }
    return 0.0;
  }

  DType dtype_;
  std::size_t bytes_ = 0;
  std::vector<unsigned char> host_, before_;
  unsigned char* device_ = nullptr;
  TensorView host_view_, device_view_;
};

// Both backends.
struct Backends {
  comm::Gpu gpu{0};
  std::unique_ptr<Kernels> cpu = make_cpu_kernels(1);
  std::unique_ptr<Kernels> cuda = make_cuda_kernels(gpu);
};

// ||gpu - cpu|| / ||cpu|| over the whole tensor; infinite when any is NaN where the other is not.
inline double deviation(const Mirror& x) {
  const auto gpu = x.from_device();
  double difference = 0.0, size = 0.0;
  for (std::int64_t i = 0; i < x.elements(); ++i) {
    const double a = x.at_host(i), b = gpu[static_cast<std::size_t>(i)];
    if (std::isnan(a) != std::isnan(b)) return INFINITY;
    if (std::isnan(a)) continue;
    if (a != b) difference += (a - b) * (a - b);
    if (std::isfinite(a)) size += a * a;
  }
  return difference == 0.0 ? 0.0 : std::sqrt(difference / size);
}
// Bit for bit the same.
inline bool same(const Mirror& x) {
  const auto gpu = x.from_device();
  for (std::int64_t i = 0; i < x.elements(); ++i) {
    const double a = x.at_host(i), b = gpu[static_cast<std::size_t>(i)];
    if (std::memcmp(&a, &b, sizeof(a)) != 0 && !(std::isnan(a) && std::isnan(b))) return false;
  }
  return true;
}

// The same numbers; a zero has no sign. (A sum of one term may keep the sign of -0, which one that
// begins with 0 does not.)
inline bool equal(const Mirror& x) {
  const auto gpu = x.from_device();
  for (std::int64_t i = 0; i < x.elements(); ++i) {
    const double a = x.at_host(i), b = gpu[static_cast<std::size_t>(i)];
    if (a != b && !(std::isnan(a) && std::isnan(b))) return false;
  }
  return true;
}

// One rounding of the type: half a unit in the last place of 1.
inline double epsilon_of(DType type) {
  switch (type) {
    case DType::kF64:
      return 0x1.0p-53;
    case DType::kBF16:
      return 0x1.0p-8;
    default:
      return 0x1.0p-24;
  }
}
inline constexpr DType kComputeTypes[] = {DType::kF64, DType::kF32, DType::kBF16};

}  // namespace pg::model::testing

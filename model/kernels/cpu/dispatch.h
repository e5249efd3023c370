// From a run-time DType to a template parameter, and the accumulator type that goes with it.
#pragma once

#include <type_traits>
#include <utility>

#include "comm/dtype.h"
#include "comm/error.h"

namespace pg::model::cpu {

template <class T>
using acc_t = std::conditional_t<std::is_same_v<T, double>, double, float>;

// work.operator()<T>() for the compute type T of `type`: dispatch(x.dtype(), [&]<class T>() { ...
// });
template <class Work>
decltype(auto) dispatch(DType type, Work&& work) {
  switch (type) {
    case DType::kF64:
      return std::forward<Work>(work).template operator()<double>();
    case DType::kF32:
      return std::forward<Work>(work).template operator()<float>();
    case DType::kBF16:
      return std::forward<Work>(work).template operator()<bf16>();
    default:
      throw fail(ExitCode::kBug, "bug: {} is not a compute type", dtype_name(type));
  }
}

template <class T>
inline acc_t<T> load(T x) {
  return static_cast<acc_t<T>>(x);
}
template <class T>
inline T store(acc_t<T> x) {
  return static_cast<T>(x);
}

}  // namespace pg::model::cpu

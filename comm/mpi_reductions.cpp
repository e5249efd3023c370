// Element types and reductions for MPI. Two things it lacks: bf16, which travels as 16-bit words,
// and max and min that keep a NaN (MPI_MAX may lose it, depending on the order of the ranks, and a
// bad value would pass).
#include "comm/error.h"
#include "comm/mpi_internal.h"

namespace pg::comm::mpi {

namespace {

struct Sum {
  template <class T>
  static T combine(T a, T b) {
    return a + b;
  }
};
struct Max {
  template <class T>
  static T combine(T a, T b) {
    return (b > a || b != b) ? b : a;
  }
};
struct Min {
  template <class T>
  static T combine(T a, T b) {
    return (b < a || b != b) ? b : a;
  }
};

// `Compute` is what T is combined in.
template <class T, class Compute, class Op>
void reduce(void* in, void* inout, int* length, MPI_Datatype*) {
  const auto* x = static_cast<const T*>(in);
  auto* y = static_cast<T*>(inout);
  for (int i = 0; i < *length; ++i) {
    y[i] = static_cast<T>(Op::combine(static_cast<Compute>(y[i]), static_cast<Compute>(x[i])));
  }
}

}  // namespace

MPI_Datatype datatype(DType type) {
  switch (type) {
    case DType::kF64:
      return MPI_DOUBLE;
    case DType::kF32:
      return MPI_FLOAT;
    case DType::kBF16:
      return MPI_UINT16_T;
    case DType::kI32:
      return MPI_INT32_T;
    case DType::kI64:
      return MPI_INT64_T;
    case DType::kU8:
      return MPI_UINT8_T;
  }
  throw fail(ExitCode::kBug, "bug: no MPI type for dtype {}", static_cast<int>(type));
}

Reductions::Reductions()
    : bf16_sum_(reduce<bf16, float, Sum>),
      bf16_max_(reduce<bf16, float, Max>),
      bf16_min_(reduce<bf16, float, Min>),
      f32_max_(reduce<float, float, Max>),
      f32_min_(reduce<float, float, Min>),
      f64_max_(reduce<double, double, Max>),
      f64_min_(reduce<double, double, Min>) {}

MPI_Op Reductions::op(DType type, ReduceOp op) const {
  const auto choose = [op](MPI_Op sum, MPI_Op max, MPI_Op min) {
    return op == ReduceOp::kSum ? sum : op == ReduceOp::kMax ? max : min;
  };
  if (type == DType::kBF16) return choose(bf16_sum_.get(), bf16_max_.get(), bf16_min_.get());
  if (type == DType::kF32) return choose(MPI_SUM, f32_max_.get(), f32_min_.get());
  if (type == DType::kF64) return choose(MPI_SUM, f64_max_.get(), f64_min_.get());
  return choose(MPI_SUM, MPI_MAX, MPI_MIN);
}

}  // namespace pg::comm::mpi

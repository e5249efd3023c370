// SwiGLU (Shazeer 2020) and GELU by tanh (Hendrycks & Gimpel 2016): the operands may be views into
// a packed activation.
#include <numbers>

#include "model/kernels/cuda/cuda_kernels.h"
#include "model/kernels/cuda/tiles.cuh"

namespace pg::model {

namespace {

using namespace cuda;

// 1 / (1 + exp(-x)), with the exponential of a number that is never positive: no overflow, and no
// loss of the small values at the left. NaN in gives NaN out.
__device__ __forceinline__ float sigmoid(float x) {
  const float e = std::exp(-std::fabs(x));
  // Two units in the last place, for a denominator in [1, 2]; the exact quotient costs four times
  // as many instructions and would bound these kernels.
  return __fdividef(x < 0.0f ? e : 1.0f, 1.0f + e);
}
__device__ __forceinline__ double sigmoid(double x) {
  const double e = std::exp(-std::fabs(x));
  return (x < 0.0 ? e : 1.0) / (1.0 + e);
}

// gelu(x) = x/2 (1 + tanh u) = x sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3): one exponential,
// and no cancellation in 1 + tanh u for negative x.
constexpr double kCubic = 0.044715;
constexpr double kTwoRoots = 2.0 * std::numbers::sqrt2 * std::numbers::inv_sqrtpi;  // 2 sqrt(2/pi)

struct SwigluForward {
  template <class A>
  __device__ void operator()(const A (&in)[2], A (&out)[1]) const {
    const auto [gate, up] = in;
    out[0] = gate * sigmoid(gate) * up;
  }
};

struct SwigluBackward {
  template <class A>
  __device__ void operator()(const A (&in)[3], A (&out)[2]) const {
    const auto [dy, gate, up] = in;
    const A s = sigmoid(gate);
    out[0] = dy * up * (s * (A{1} + gate * (A{1} - s)));
    out[1] = dy * (gate * s);
  }
};

struct GeluForward {
  template <class A>
  __device__ void operator()(const A (&in)[1], A (&out)[1]) const {
    const A v = in[0];
    out[0] = v * sigmoid(A{kTwoRoots} * (v + A{kCubic} * (v * v * v)));
  }
};

struct GeluBackward {
  template <class A>
  __device__ void operator()(const A (&in)[2], A (&out)[1]) const {
    const auto [dy, v] = in;
    const A square = v * v;
    const A s = sigmoid(A{kTwoRoots} * (v + A{kCubic} * (square * v)));
    const A slope = A{kTwoRoots} * (A{1} + A{3 * kCubic} * square);  // of 2u
    out[0] = dy * (s + v * s * (A{1} - s) * slope);
  }
};

}  // namespace

void CudaKernels::swiglu_forward(TensorView y, TensorView gate, TensorView up) {
  check_matrices({y, gate, up});
  dispatch(y.dtype(), [&]<class T>() {
    run_elementwise_rows<T, 2, 1>("swiglu_forward", stream_, {y}, {gate, up}, SwigluForward{});
  });
}

void CudaKernels::swiglu_backward(TensorView dgate, TensorView dup, TensorView dy, TensorView gate,
                                  TensorView up) {
  check_matrices({dy, dgate, dup, gate, up});
  dispatch(dy.dtype(), [&]<class T>() {
    run_elementwise_rows<T, 3, 2>("swiglu_backward", stream_, {dgate, dup}, {dy, gate, up},
                                  SwigluBackward{});
  });
}

void CudaKernels::gelu_forward(TensorView y, TensorView x) {
  check_matrices({y, x});
  dispatch(y.dtype(), [&]<class T>() {
    run_elementwise_rows<T, 1, 1>("gelu_forward", stream_, {y}, {x}, GeluForward{});
  });
}

void CudaKernels::gelu_backward(TensorView dx, TensorView dy, TensorView x) {
  check_matrices({dx, dy, x});
  dispatch(dx.dtype(), [&]<class T>() {
    run_elementwise_rows<T, 2, 1>("gelu_backward", stream_, {dx}, {dy, x}, GeluBackward{});
  });
}

}  // namespace pg::model

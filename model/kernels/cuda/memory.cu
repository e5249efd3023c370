// fill_zero, copy, add: views of at most four axes whose last axis is contiguous. Contiguous views
// are one row.
#include "comm/cuda/gpu_watch.h"
#include "model/kernels/cuda/cuda_kernels.h"
#include "model/kernels/cuda/elements.cuh"
#include "model/kernels/cuda/launch.cuh"
#include "model/kernels/cuda/views.cuh"

namespace pg::model {

namespace {

using namespace cuda;

constexpr int kThreads = 256;

// work(offset in a, offset in b, n <= kPer) for runs of kPer elements that lie in one row.
struct Runs {
  RowOffsets a, b;
  std::int64_t rows, width;

  Runs(const TensorView& x, const TensorView& y) : a(x), b(y), rows(1), width(x.elements()) {
    if (x.contiguous() && y.contiguous()) {
      a = b = RowOffsets(TensorView(nullptr, x.dtype(), {width}));
    } else {
      width = x.dim(x.rank() - 1);
      rows = x.elements() / width;
    }
  }
};

template <class To, class From, int kPer, class Work>
__device__ void for_runs(const Runs& runs, const Work& work) {
  const std::int64_t per_row = (runs.width + kPer - 1) / kPer;
  const std::int64_t all = per_row * runs.rows;
  for (std::int64_t i = blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x; i < all;
       i += std::int64_t{gridDim.x} * blockDim.x) {
    const std::int64_t row = i / per_row, at = i % per_row * kPer;
    const std::int64_t left = runs.width - at;
    work(runs.a(row) + at, runs.b(row) + at, static_cast<int>(left < kPer ? left : kPer));
  }
}

struct CopyWork {
  template <class To, class From>
  static __device__ To apply(To /*old*/, From x) {
    return convert<To>(x);
  }
};
struct AddWork {
  template <class T>
  static __device__ T apply(T old, T x) {
    return store<T>(load(old) + load(x));
  }
};

// kAligned: every run of both views begins at a multiple of 16 bytes of the wider type.
template <class To, class From, class Op, bool kAligned>
__global__ void __launch_bounds__(kThreads)
    elementwise(To* __restrict__ to, const From* __restrict__ from, Runs runs) {
  constexpr int kPer = sizeof(To) < sizeof(From) ? Pack<To>::kSize : Pack<From>::kSize;
  for_runs<To, From, kPer>(runs, [&](std::int64_t t, std::int64_t f, int n) {
    if (kAligned && n == kPer) {
      // The narrower type fills one pack, the wider one several.
      Pack<To> out[kPer / Pack<To>::kSize];
      Pack<From> in[kPer / Pack<From>::kSize];
      for (int i = 0; i < kPer / Pack<From>::kSize; ++i) {
        in[i] = load_pack(from + f + i * Pack<From>::kSize);
      }
      if constexpr (std::is_same_v<Op, AddWork>) out[0] = load_pack(to + t);
      for (int i = 0; i < kPer; ++i) {
        To& o = out[i / Pack<To>::kSize].at[i % Pack<To>::kSize];
        o = Op::apply(o, in[i / Pack<From>::kSize].at[i % Pack<From>::kSize]);
      }
      for (int i = 0; i < kPer / Pack<To>::kSize; ++i) {
        store_pack(to + t + i * Pack<To>::kSize, out[i]);
      }
    } else {
      for (int i = 0; i < n; ++i) to[t + i] = Op::apply(to[t + i], from[f + i]);
    }
  });
}

bool runs_aligned(const TensorView& x) {
  bool aligned = aligned16(x.raw());
  for (int axis = 0; axis + 1 < x.rank(); ++axis) {
    aligned =
        aligned && x.stride(axis) * static_cast<std::int64_t>(dtype_size(x.dtype())) % 16 == 0;
  }
  return aligned;
}

template <class To, class From, class Op>
void run_elementwise(const char* name, cudaStream_t stream, TensorView to, TensorView from) {
  const Runs runs(to, from);
  constexpr int kPer = sizeof(To) < sizeof(From) ? Pack<To>::kSize : Pack<From>::kSize;
  const bool aligned = (runs.rows == 1 && aligned16(to.raw()) && aligned16(from.raw())) ||
                       (runs_aligned(to) && runs_aligned(from));
  const auto work = ceil_div(runs.width, kPer) * runs.rows;
  const dim3 grid(blocks_of(std::min<std::int64_t>(ceil_div(work, kThreads), 1 << 16)));
  const auto kernel = aligned ? elementwise<To, From, Op, true> : elementwise<To, From, Op, false>;
  launch(name, kernel, grid, dim3(kThreads), 0, stream, to.data<To>(), from.data<From>(), runs);
}

bool same_shape(const TensorView& a, const TensorView& b) {
  bool same = a.rank() == b.rank();
  for (int axis = 0; same && axis < a.rank(); ++axis) same = a.dim(axis) == b.dim(axis);
  return same;
}

}  // namespace

void CudaKernels::fill_zero(TensorView x) {
  require_cuda(x);
  if (x.elements() == 0) return;
  const auto size = dtype_size(x.dtype());
  if (x.contiguous()) {
    PG_CUDA(cudaMemsetAsync(x.raw(), 0, x.bytes(), stream_));
    return;
  }
  PG_ASSERT(x.rank() == 2, "{} to be zeroed", x.text());
  PG_CUDA(cudaMemset2DAsync(x.raw(), static_cast<std::size_t>(x.stride(0)) * size, 0,
                            static_cast<std::size_t>(x.dim(1)) * size,
                            static_cast<std::size_t>(x.dim(0)), stream_));
}

void CudaKernels::copy(TensorView to, TensorView from) {
  PG_ASSERT(same_shape(to, from), "to {} from {}", to.text(), from.text());
  if (to.elements() == 0) return;
  if (to.device() != from.device()) {
    PG_ASSERT(to.contiguous() && from.contiguous() && to.dtype() == from.dtype(), "to {} from {}",
              to.text(), from.text());
    // CUDA itself waits in a copy to memory that is not page-locked, and knows nothing of ranks
    // that fail.
    const bool to_host = to.device() == Device::kCpu;
    if (to_host) comm::wait_for(stream_);
    PG_CUDA(cudaMemcpyAsync(to.raw(), from.raw(), to.bytes(), cudaMemcpyDefault, stream_));
    if (to_host) PG_CUDA(cudaStreamSynchronize(stream_));
    return;
  }
  require_cuda(to);
  if (to.dtype() == from.dtype() && to.contiguous() && from.contiguous()) {
    PG_CUDA(cudaMemcpyAsync(to.raw(), from.raw(), to.bytes(), cudaMemcpyDeviceToDevice, stream_));
    return;
  }
  if (to.dtype() == from.dtype() && (to.dtype() == DType::kU8 || to.dtype() == DType::kI32)) {
    if (to.dtype() == DType::kU8) {
      run_elementwise<std::uint8_t, std::uint8_t, CopyWork>("copy", stream_, to, from);
    } else {
      run_elementwise<std::int32_t, std::int32_t, CopyWork>("copy", stream_, to, from);
    }
    return;
  }
  dispatch(to.dtype(), [&]<class To>() {
    dispatch(from.dtype(),
             [&]<class From>() { run_elementwise<To, From, CopyWork>("copy", stream_, to, from); });
  });
}

void CudaKernels::add(TensorView inout, TensorView x) {
  require_cuda(inout);
  require_cuda(x);
  PG_ASSERT(same_shape(inout, x) && inout.dtype() == x.dtype(), "inout {} x {}", inout.text(),
            x.text());
  if (x.elements() == 0) return;
  dispatch(x.dtype(), [&]<class T>() { run_elementwise<T, T, AddWork>("add", stream_, inout, x); });
}

}  // namespace pg::model

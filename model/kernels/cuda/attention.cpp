#include "model/kernels/cuda/attention.h"

#include <fmt/format.h>

#include "comm/cuda/cuda_check.h"
#include "model/kernels/attention_checks.h"
#include "model/kernels/cuda/cuda_kernels.h"
#include "model/kernels/cuda/cudnn_attention.h"
#include "model/kernels/cuda/views.cuh"

namespace pg::model {
namespace cuda {
namespace {

// cuDNN moves 16 bytes at a time.
bool whole_packs(const TensorView& x) {
  bool whole = reinterpret_cast<std::uintptr_t>(x.raw()) % 16 == 0;
  for (int axis = 0; axis < 3; ++axis) whole = whole && x.stride(axis) % 8 == 0;
  return whole;
}

}  // namespace

CudaAttention::CudaAttention(comm::Gpu& gpu) : gpu_(gpu), cudnn_(CudnnAttention::make(gpu)) {
  int device = 0, bytes = 0;
  PG_CUDA(cudaGetDevice(&device));
  PG_CUDA(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  shared_ = static_cast<std::size_t>(bytes);
}

CudaAttention::~CudaAttention() = default;

bool CudaAttention::tensor_cores_take(const TensorView& q, const AttentionShape& shape) const {
  return q.dtype() == DType::kBF16 && q.dim(3) <= kMostTensorCoreHead && shape.scale > 0.0 &&
         tensor_core_shared(q.dim(3)) <= shared_;
}

std::string CudaAttention::cudnn_refuses(const TensorView& o, const TensorView& q,
                                         const TensorView& k, const TensorView& v,
                                         const AttentionShape& shape, const Dropout& dropout) {
  if (q.dtype() != DType::kBF16) return std::string(dtype_name(q.dtype()));
  if (dropout.rate > 0.0) return "dropout";
  if (!shape.visible_from.empty()) return "documents";
  if (o.dtype() != DType::kBF16) return "an output in fp32";
  // Its causal mask begins at the first query and the first key, and is square.
  if (shape.first_query != shape.first_key) return "queries that stand apart from the keys";
  if (q.dim(1) != k.dim(1)) return "other queries than keys";
  if (q.dim(3) % 8 != 0 || q.dim(3) > 128) return fmt::format("heads of {}", q.dim(3));
  if (!(shape.scale > 0.0)) return "a scale that is not positive";
  if (q.elements() == 0) return "no elements";
  for (const auto& x : {o, q, k, v}) {
    if (!whole_packs(x)) return "rows that are not of 16 bytes";
  }
  return {};
}

std::string CudaAttention::choice(DType type, std::int64_t sequences, std::int64_t positions,
                                  std::int64_t heads, std::int64_t kv_heads, std::int64_t size,
                                  std::int64_t window, bool documents, bool dropout) {
  const TensorView q(nullptr, type, {sequences, positions, heads, size}, Device::kCuda);
  const TensorView k(nullptr, type, {sequences, positions, kv_heads, size}, Device::kCuda);
  const TensorView lse(nullptr, accumulator_of(type), {sequences, heads, positions}, Device::kCuda);
  AttentionShape shape;
  shape.window = window;
  if (documents) {
    shape.visible_from = TensorView(nullptr, DType::kI32, {sequences, positions}, Device::kCuda);
  }
  Dropout some;
  some.rate = dropout ? 0.5 : 0.0;
  const auto* const own = tensor_cores_take(q, shape) ? "tensor-core kernel" : "kernel";
  auto reason = cudnn_refuses(q, q, k, k, shape, some);
  if (reason.empty() && !cudnn_) reason = "no cuDNN";
  if (reason.empty()) reason = cudnn_->refuses(ForwardOperands{q, lse, q, k, k, shape, some});
  if (!reason.empty()) return fmt::format("own {} ({})", own, reason);
  const auto cudnn = "cuDNN " + cudnn_->version();
  reason = cudnn_->refuses(BackwardOperands{q, k, k, q, q, k, k, q, lse, shape, some, false});
  if (reason.empty()) return cudnn;
  return fmt::format("{} forward, own {} backward ({})", cudnn, own, reason);
}

void CudaAttention::forward(const ForwardOperands& call, Workspace& workspace) {
  if (cudnn_ && takes(call.o, call.q, call.k, call.v, call.shape, call.dropout) &&
      cudnn_->refuses(call).empty()) {
    cudnn_->forward(call, workspace);
  } else if (tensor_cores_take(call.q, call.shape)) {
    attention_forward_tensor_cores(call, workspace, gpu_.compute());
  } else {
    attention_forward_tiles(call, workspace, gpu_.compute());
  }
}

void CudaAttention::backward(const BackwardOperands& call, Workspace& workspace) {
  bool cudnn = cudnn_ && !call.accumulate &&
               takes(call.o, call.q, call.k, call.v, call.shape, call.dropout) &&
               whole_packs(call.d_o);
  for (const auto& x : {call.dq, call.dk, call.dv}) {
    cudnn = cudnn && x.dtype() == DType::kBF16 && whole_packs(x);
  }
  if (cudnn && cudnn_->refuses(call).empty()) {
    cudnn_->backward(call, workspace);
  } else if (tensor_cores_take(call.q, call.shape)) {
    attention_backward_tensor_cores(call, workspace, gpu_.compute());
  } else {
    attention_backward_tiles(call, workspace, gpu_.compute());
  }
}

}  // namespace cuda

void CudaKernels::attention_forward(TensorView o, TensorView lse, TensorView q, TensorView k,
                                    TensorView v, const AttentionShape& shape,
                                    const Dropout& dropout) {
  check_attention(o, lse, q, k, v, shape, dropout);
  for (const auto& x : {o, lse, q, k, v, shape.visible_from}) cuda::require_cuda(x);
  if (q.elements() == 0) return;
  attention_->forward({o, lse, q, k, v, shape, dropout}, workspace_);
}

void CudaKernels::attention_backward(TensorView dq, TensorView dk, TensorView dv, TensorView d_o,
                                     TensorView q, TensorView k, TensorView v, TensorView o,
                                     TensorView lse, const AttentionShape& shape,
                                     const Dropout& dropout, bool accumulate) {
  check_attention_backward(dq, dk, dv, d_o, q, k, v, o, lse, shape, dropout);
  for (const auto& x : {dq, dk, dv, d_o, q, k, v, o, lse, shape.visible_from}) {
    cuda::require_cuda(x);
  }
  if (q.elements() == 0 && k.elements() == 0) return;
  attention_->backward({dq, dk, dv, d_o, q, k, v, o, lse, shape, dropout, accumulate}, workspace_);
}

}  // namespace pg::model

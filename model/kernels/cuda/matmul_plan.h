// What a kind of product is, and cuBLASLt's descriptors for it. Rows of a row-major matrix are
// columns of a column-major one: cuBLASLt computes c^T[N,M] = b'^T[N,K] a'^T[K,M].
#pragma once

#include <cublasLt.h>

#include <array>
#include <cstdint>
#include <memory>

#include "model/kernels/cuda/matmul.h"

namespace pg::model::cuda {

// `what` and the product's shapes in an Error(kComm).
void cublas_check(cublasStatus_t status, const char* what, const Product& product);

// Everything that an algorithm may depend on; an axis that varies counts as 0.
struct MatmulKind {
  static constexpr std::size_t kFields = 16;
  std::array<std::int64_t, kFields> fields{};

  explicit MatmulKind(const std::array<std::int64_t, kFields>& all) : fields(all) {}
  explicit MatmulKind(const Product& product);
  auto operator<=>(const MatmulKind&) const = default;
};

struct MatmulSizes {
  std::int64_t m = 0, n = 0, k = 0;
  explicit MatmulSizes(const Product& product);
};

namespace detail {
struct Destroy {
  void operator()(cublasLtContext* x) const { cublasLtDestroy(x); }
  void operator()(cublasLtMatmulDescOpaque_t* x) const { cublasLtMatmulDescDestroy(x); }
  void operator()(cublasLtMatrixLayoutOpaque_t* x) const { cublasLtMatrixLayoutDestroy(x); }
  void operator()(cublasLtMatmulPreferenceOpaque_t* x) const { cublasLtMatmulPreferenceDestroy(x); }
};
}  // namespace detail
template <class T>
using Owned = std::unique_ptr<T, detail::Destroy>;

struct MatmulPlan {
  bool exists = false;  // cuBLASLt has an algorithm
  Owned<cublasLtMatmulDescOpaque_t> desc;
  Owned<cublasLtMatrixLayoutOpaque_t> a, b, c;  // of the Product's operands
  cublasLtMatmulAlgo_t algorithm{};

  explicit MatmulPlan(const Product& product);
  // The sizes that vary, and the addresses that the descriptor holds.
  void fit(const MatmulSizes& sizes, const Product& product);
};

// Addresses to compute with, when they are not the product's own.
struct MatmulPlaces {
  const void *a, *b;
  void *c, *workspace;
  std::size_t workspace_bytes;
};

// Enqueues the product by this algorithm of a plan that fits it.
cublasStatus_t run_plan(cublasLtHandle_t handle, const MatmulPlan& plan,
                        const cublasLtMatmulAlgo_t& algorithm, const Product& product,
                        const MatmulPlaces& places, comm::GpuStream stream);

}  // namespace pg::model::cuda

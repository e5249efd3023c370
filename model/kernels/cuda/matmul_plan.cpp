#include "model/kernels/cuda/matmul_plan.h"

#include <algorithm>

namespace pg::model::cuda {

namespace {

cudaDataType data_type(DType type) {
  switch (type) {
    case DType::kF64:
      return CUDA_R_64F;
    case DType::kF32:
      return CUDA_R_32F;
    case DType::kBF16:
      return CUDA_R_16BF;
    default:
      throw fail(ExitCode::kBug, "bug: {} is not a compute type", dtype_name(type));
  }
}

// Elements from one row to the next. That of a single row may be anything.
std::int64_t leading(const TensorView& x) {
  return std::max(x.stride(0), x.dim(1));
}

// Of all rows, up to the 16 bytes that tensor cores and bulk copies ask for.
std::int64_t alignment(const TensorView& x) {
  const auto pitch = static_cast<std::uintptr_t>(leading(x)) * dtype_size(x.dtype());
  const auto bits = reinterpret_cast<std::uintptr_t>(x.raw()) | pitch | 16;
  return static_cast<std::int64_t>(bits & (~bits + 1));
}

cublasLtEpilogue_t epilogue(const Product& product) {
  switch (product.gelu) {
    case Gelu::kForward:
      return product.bias.empty() ? CUBLASLT_EPILOGUE_GELU_AUX : CUBLASLT_EPILOGUE_GELU_AUX_BIAS;
    case Gelu::kBackward:
      return CUBLASLT_EPILOGUE_DGELU;
    case Gelu::kNone:
      break;
  }
  return product.bias.empty() ? CUBLASLT_EPILOGUE_DEFAULT : CUBLASLT_EPILOGUE_BIAS;
}

Owned<cublasLtMatrixLayoutOpaque_t> layout(const TensorView& x, const Product& product) {
  cublasLtMatrixLayout_t made = nullptr;
  cublas_check(
      cublasLtMatrixLayoutCreate(&made, data_type(x.dtype()), static_cast<std::uint64_t>(x.dim(1)),
                                 static_cast<std::uint64_t>(x.dim(0)), leading(x)),
      "cublasLtMatrixLayoutCreate", product);
  return Owned<cublasLtMatrixLayoutOpaque_t>(made);
}

bool aligned(const TensorView& x) {
  return reinterpret_cast<std::uintptr_t>(x.raw()) % 16 == 0;
}

}  // namespace

bool gelu_fits(const Product& product) {
  for (const auto& x : {product.c, product.a, product.b, product.aux}) {
    if (x.dtype() != DType::kBF16) return false;
  }
  return aligned(product.aux) && leading(product.aux) % 8 == 0;
}

void cublas_check(cublasStatus_t status, const char* what, const Product& product) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw fail(ExitCode::kComm, "cuBLASLt: {} in {} for {}{} = {}{} {}{}{}",
             cublasLtGetStatusString(status), what, product.c.text(),
             product.accumulate ? " +" : "", product.a.text(), product.transpose_a ? "^T" : "",
             product.b.text(), product.transpose_b ? "^T" : "",
             product.bias.empty() ? "" : " and a bias");
}

MatmulSizes::MatmulSizes(const Product& p)
    : m(p.c.dim(0)), n(p.c.dim(1)), k(p.transpose_a ? p.a.dim(0) : p.a.dim(1)) {}

MatmulKind::MatmulKind(const Product& p) {
  const MatmulSizes sizes(p);
  PG_ASSERT(p.c.rank() == 2 && p.a.rank() == 2 && p.b.rank() == 2 &&
                p.a.dim(p.transpose_a ? 1 : 0) == sizes.m &&
                p.b.dim(p.transpose_b ? 0 : 1) == sizes.n &&
                p.b.dim(p.transpose_b ? 1 : 0) == sizes.k && p.a.dtype() == p.b.dtype() &&
                (p.c.dtype() == p.a.dtype() || p.c.dtype() == accumulator_of(p.a.dtype())),
            "c {} a {}{} b {}{}", p.c.text(), p.a.text(), p.transpose_a ? "^T" : "", p.b.text(),
            p.transpose_b ? "^T" : "");
  PG_ASSERT(p.bias.empty() || (p.bias.rank() == 1 && p.bias.dim(0) == sizes.n &&
                               p.bias.dtype() == p.c.dtype() && aligned(p.bias)),
            "bias {} of c {}", p.bias.text(), p.c.text());
  PG_ASSERT(p.gelu == Gelu::kNone ||
                (p.aux.rank() == 2 && p.aux.dim(0) == sizes.m && p.aux.dim(1) == sizes.n &&
                 gelu_fits(p) && p.varies == Varies::kNothing),
            "aux {} of c {}", p.aux.text(), p.c.text());
  fields = {static_cast<std::int64_t>(p.a.dtype()),
            static_cast<std::int64_t>(p.c.dtype()),
            p.varies == Varies::kRows ? 0 : sizes.m,
            sizes.n,
            p.varies == Varies::kTerms ? 0 : sizes.k,
            p.transpose_a,
            p.transpose_b,
            p.accumulate,
            static_cast<std::int64_t>(epilogue(p)),
            leading(p.a),
            leading(p.b),
            leading(p.c),
            p.gelu == Gelu::kNone ? 0 : leading(p.aux),
            alignment(p.a),
            alignment(p.b),
            alignment(p.c)};
}

MatmulPlan::MatmulPlan(const Product& product)
    : a(layout(product.a, product)), b(layout(product.b, product)), c(layout(product.c, product)) {
  const bool f64 = product.a.dtype() == DType::kF64;
  cublasLtMatmulDesc_t made = nullptr;
  cublas_check(cublasLtMatmulDescCreate(&made, f64 ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F,
                                        f64 ? CUDA_R_64F : CUDA_R_32F),
               "cublasLtMatmulDescCreate", product);
  desc.reset(made);
  const auto set = [&](cublasLtMatmulDescAttributes_t attribute, auto value) {
    cublas_check(cublasLtMatmulDescSetAttribute(made, attribute, &value, sizeof(value)),
                 "cublasLtMatmulDescSetAttribute", product);
  };
  // cuBLASLt's first operand is b, its second a.
  set(CUBLASLT_MATMUL_DESC_TRANSA,
      static_cast<std::int32_t>(product.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N));
  set(CUBLASLT_MATMUL_DESC_TRANSB,
      static_cast<std::int32_t>(product.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N));
  set(CUBLASLT_MATMUL_DESC_EPILOGUE, static_cast<std::uint32_t>(epilogue(product)));
  if (product.gelu != Gelu::kNone) {
    set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, leading(product.aux));
  }
  fit(MatmulSizes(product), product);
}

void MatmulPlan::fit(const MatmulSizes& sizes, const Product& product) {
  const auto pointer = [&](cublasLtMatmulDescAttributes_t attribute, const TensorView& x) {
    void* const address = x.raw();
    cublas_check(cublasLtMatmulDescSetAttribute(desc.get(), attribute, &address, sizeof(address)),
                 "cublasLtMatmulDescSetAttribute", product);
  };
  if (!product.bias.empty()) pointer(CUBLASLT_MATMUL_DESC_BIAS_POINTER, product.bias);
  if (product.gelu != Gelu::kNone) {
    pointer(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, product.aux);
  }
  const auto extent = [&](cublasLtMatrixLayoutOpaque_t* of, cublasLtMatrixLayoutAttribute_t axis,
                          std::int64_t size) {
    const auto value = static_cast<std::uint64_t>(size);
    cublas_check(cublasLtMatrixLayoutSetAttribute(of, axis, &value, sizeof(value)),
                 "cublasLtMatrixLayoutSetAttribute", product);
  };
  // A layout's columns are the view's rows.
  constexpr auto kRows = CUBLASLT_MATRIX_LAYOUT_COLS, kColumns = CUBLASLT_MATRIX_LAYOUT_ROWS;
  if (product.varies == Varies::kRows) {
    extent(a.get(), product.transpose_a ? kColumns : kRows, sizes.m);
    extent(c.get(), kRows, sizes.m);
  } else if (product.varies == Varies::kTerms) {
    extent(a.get(), product.transpose_a ? kRows : kColumns, sizes.k);
    extent(b.get(), product.transpose_b ? kColumns : kRows, sizes.k);
  }
}

cublasStatus_t run_plan(cublasLtHandle_t handle, const MatmulPlan& plan,
                        const cublasLtMatmulAlgo_t& algorithm, const Product& product,
                        const MatmulPlaces& places, comm::GpuStream stream) {
  const double one64 = 1.0, old64 = product.accumulate ? 1.0 : 0.0;
  const float one32 = 1.0f, old32 = product.accumulate ? 1.0f : 0.0f;
  const bool f64 = product.a.dtype() == DType::kF64;
  const void* const one = f64 ? static_cast<const void*>(&one64) : &one32;
  const void* const old = f64 ? static_cast<const void*>(&old64) : &old32;
  return cublasLtMatmul(handle, plan.desc.get(), one, places.b, plan.b.get(), places.a,
                        plan.a.get(), old, places.c, plan.c.get(), places.c, plan.c.get(),
                        &algorithm, places.workspace, places.workspace_bytes, stream);
}

}  // namespace pg::model::cuda

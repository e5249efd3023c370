// cuBLASLt over the simulated GPU, written from its documentation: column-major, sums in the
// compute type, refusals where the library refuses. Its algorithms add in different orders, need
// different alignments and sizes and take different (made up) times, and the heuristics' order
// depends on the shape, so that a test sees which of them ran. Stricter than the library where the
// documentation is silent: GELU's epilogues are of 16-bit results, auxiliary and bias pointers
// 16-byte aligned. PG_SIMULATED_EPILOGUES=0 refuses all epilogues.
#include <cublasLt.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "tests/simulated_gpu/cublaslt_product.h"
#include "tests/simulated_gpu/memory.h"
#include "tests/simulated_gpu/streams.h"

struct cublasLtContext {
  int created = 0;
};

using namespace pg::simulated;

extern "C" {

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  *handle = new cublasLtContext;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  delete handle;
  return CUBLAS_STATUS_SUCCESS;
}
size_t cublasLtGetVersion() {
  return CUBLAS_VERSION;
}
const char* cublasLtGetStatusString(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS:
      return "success";
    case CUBLAS_STATUS_INVALID_VALUE:
      return "an unsupported value or parameter was passed to the function";
    case CUBLAS_STATUS_NOT_SUPPORTED:
      return "the functionality requested is not supported";
    default:
      return "an error of the simulated cuBLASLt";
  }
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* desc, cublasComputeType_t compute,
                                        cudaDataType_t scale) {
  auto made = std::make_unique<Desc>();
  made->compute = compute;
  made->scale = scale;
  *desc = reinterpret_cast<cublasLtMatmulDesc_t>(made.release());
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) {
  delete of(desc);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void* value, size_t bytes) {
  auto& to = *of(desc);
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
      return assign(to.transpose_a, value, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB:
      return assign(to.transpose_b, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
      return assign(to.epilogue, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
      return assign(to.bias, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
      return assign(to.bias_type, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER:
      return assign(to.aux, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD:
      return assign(to.aux_ld, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE:
      return assign(to.aux_type, value, bytes);
    default:
      return CUBLAS_STATUS_INVALID_VALUE;
  }
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type,
                                          uint64_t rows, uint64_t cols, int64_t ld) {
  *layout = reinterpret_cast<cublasLtMatrixLayout_t>(
      new Layout{static_cast<std::uint32_t>(type), rows, cols, ld});
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  delete of(layout);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
                                                cublasLtMatrixLayoutAttribute_t attribute,
                                                const void* value, size_t bytes) {
  auto& to = *of(layout);
  switch (attribute) {
    case CUBLASLT_MATRIX_LAYOUT_ROWS:
      return assign(to.rows, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_COLS:
      return assign(to.cols, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_LD:
      return assign(to.ld, value, bytes);
    default:
      return CUBLAS_STATUS_INVALID_VALUE;
  }
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  *preference = reinterpret_cast<cublasLtMatmulPreference_t>(new Preference);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  delete of(preference);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void* value, size_t bytes) {
  auto& to = *of(preference);
  switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
      return assign(to.workspace, value, bytes);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
      return assign(to.reduction_mask, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
      return assign(to.alignment[0], value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
      return assign(to.alignment[1], value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
      return assign(to.alignment[2], value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
      return assign(to.alignment[3], value, bytes);
    default:
      return CUBLAS_STATUS_INVALID_VALUE;
  }
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int requested,
                                              cublasLtMatmulHeuristicResult_t results[],
                                              int* returned) {
  if (handle == nullptr || requested <= 0) return CUBLAS_STATUS_INVALID_VALUE;
  *returned = 0;
  const Problem p{*of(desc), *of(a), *of(b), *of(c), *of(d)};
  if (const auto status = check(p); status != CUBLAS_STATUS_SUCCESS) return status;
  const auto& wanted = *of(preference);
  const std::vector<std::uint64_t> order = p.n() <= 16
                                               ? std::vector<std::uint64_t>{6, 5, 4, 2, 1, 0}
                                               : std::vector<std::uint64_t>{7, 6, 2, 3, 4, 1, 0};
  for (const auto id : order) {
    const auto& algorithm = kAlgorithms[id];
    const auto workspace = workspace_of(algorithm, p);
    bool fits = runs(algorithm, p) && workspace <= wanted.workspace &&
                (algorithm.reduction & ~wanted.reduction_mask) == 0;
    for (const auto alignment : wanted.alignment) {
      fits = fits && alignment >= algorithm.alignment;
    }
    if (!fits || *returned == requested) continue;
    auto& result = results[(*returned)++];
    result = {};
    result.algo.data[0] = kMark ^ id;
    result.workspaceSize = workspace;
    result.state = CUBLAS_STATUS_SUCCESS;
    result.wavesCount = 1.0f;
  }
  return *returned == 0 ? CUBLAS_STATUS_NOT_SUPPORTED : CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                       cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                       cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                       const cublasLtMatmulAlgo_t* algo,
                                       cublasLtMatmulHeuristicResult_t* result) {
  if (handle == nullptr || algo == nullptr || result == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  const Problem p{*of(desc), *of(a), *of(b), *of(c), *of(d)};
  if (const auto status = check(p); status != CUBLAS_STATUS_SUCCESS) return status;
  const auto* const algorithm = algorithm_of(*algo);
  if (algorithm == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  if (!runs(*algorithm, p)) return CUBLAS_STATUS_NOT_SUPPORTED;
  result->workspaceSize = workspace_of(*algorithm, p);
  result->state = CUBLAS_STATUS_SUCCESS;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void* alpha,
                              const void* a, cublasLtMatrixLayout_t a_layout, const void* b,
                              cublasLtMatrixLayout_t b_layout, const void* beta, const void* c,
                              cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t* algo,
                              void* workspace, size_t workspace_bytes, cudaStream_t stream) {
  if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
  if (alpha == nullptr || beta == nullptr || algo == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  const Problem p{*of(desc), *of(a_layout), *of(b_layout), *of(c_layout), *of(d_layout)};
  if (const auto status = check(p); status != CUBLAS_STATUS_SUCCESS) return status;
  for (const void* operand : {a, b, c, static_cast<const void*>(d)}) {
    if (!is_device(operand)) return CUBLAS_STATUS_INVALID_VALUE;
  }
  if ((p.has_bias() && !is_device(p.desc.bias)) || (p.has_aux() && !is_device(p.desc.aux))) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  if (c == d && p.c.ld != p.d.ld) return CUBLAS_STATUS_INVALID_VALUE;
  const auto* const algorithm = algorithm_of(*algo);
  if (algorithm == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  if (!runs(*algorithm, p)) return CUBLAS_STATUS_NOT_SUPPORTED;
  for (const void* operand : {a, b, c, static_cast<const void*>(d)}) {
    if (alignment_of(operand) < algorithm->alignment) return CUBLAS_STATUS_INVALID_VALUE;
  }
  const auto needed = workspace_of(*algorithm, p);
  if (needed > workspace_bytes ||
      (needed > 0 && (!is_device(workspace) || alignment_of(workspace) < 16))) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  const auto run = [&]<class Acc>() {
    const Acc one = *static_cast<const Acc*>(alpha), old = *static_cast<const Acc*>(beta);
    return enqueue(stream, [=, chosen = *algorithm] {
      multiply<Acc>(p, chosen, one, a, b, old, c, d);
      spend(chosen.milliseconds);
    });
  };
  const auto status =
      p.desc.scale == CUDA_R_64F ? run.operator()<double>() : run.operator()<float>();
  return status == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}

}  // extern "C"

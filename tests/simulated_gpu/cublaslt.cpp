// cuBLASLt over the simulated GPU, written from its documentation: column-major, sums in the
// compute type, refusals where the library refuses. Its algorithms add in different orders, need
// different alignments and sizes and take different (made up) times, and the heuristics' order
// depends on the shape, so that a test sees which of them ran. Stricter than the library where the
// documentation is silent: GELU's epilogues are of 16-bit results, auxiliary and bias pointers
// 16-byte aligned. PG_SIMULATED_EPILOGUES=0 refuses all epilogues.
#include <cublasLt.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <numbers>
#include <vector>

#include "comm/dtype.h"
#include "tests/simulated_gpu/memory.h"
#include "tests/simulated_gpu/streams.h"

struct cublasLtContext {
  int created = 0;
};

namespace pg::simulated {

namespace {

struct Desc {
  std::int32_t compute = 0, scale = 0;
  std::int32_t transpose_a = CUBLAS_OP_N, transpose_b = CUBLAS_OP_N;
  std::uint32_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  void *bias = nullptr, *aux = nullptr;
  std::int64_t aux_ld = 0;
  std::int32_t bias_type = -1, aux_type = -1;
};
struct Layout {
  std::uint32_t type = 0;
  std::uint64_t rows = 0, cols = 0;
  std::int64_t ld = 0;
};
struct Preference {
  std::uint64_t workspace = 0;
  std::uint32_t reduction_mask = CUBLASLT_REDUCTION_SCHEME_MASK;
  std::uint32_t alignment[4] = {256, 256, 256, 256};
};

template <class T>
cublasStatus_t assign(T& to, const void* from, std::size_t bytes) {
  if (from == nullptr || bytes != sizeof(T)) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(&to, from, sizeof(T));
  return CUBLAS_STATUS_SUCCESS;
}

std::size_t size_of(std::uint32_t type) {
  switch (type) {
    case CUDA_R_64F:
      return 8;
    case CUDA_R_32F:
      return 4;
    case CUDA_R_16BF:
      return 2;
    default:
      return 0;
  }
}

double read(const void* data, std::uint32_t type, std::int64_t i) {
  switch (type) {
    case CUDA_R_64F:
      return static_cast<const double*>(data)[i];
    case CUDA_R_32F:
      return static_cast<double>(static_cast<const float*>(data)[i]);
    default:
      return static_cast<double>(static_cast<float>(static_cast<const bf16*>(data)[i]));
  }
}
void write(void* data, std::uint32_t type, std::int64_t i, double x) {
  switch (type) {
    case CUDA_R_64F:
      static_cast<double*>(data)[i] = x;
      break;
    case CUDA_R_32F:
      static_cast<float*>(data)[i] = static_cast<float>(x);
      break;
    default:
      static_cast<bf16*>(data)[i] = bf16(static_cast<float>(x));
      break;
  }
}

constexpr std::int64_t kAnySize = std::numeric_limits<std::int64_t>::max();
struct Algorithm {
  std::uint32_t alignment;      // bytes of addresses and leading dimensions; 0: the element's
  std::int64_t chunk;           // terms of a partial sum; 0: all, negative: that many parts
  std::int64_t fewest_columns;  // of D
  std::int64_t most_columns;
  std::uint32_t reduction;
  double milliseconds;
  bool epilogues;  // those with an auxiliary matrix
};
constexpr Algorithm kAlgorithms[] = {
    {0, 0, 1, kAnySize, CUBLASLT_REDUCTION_SCHEME_NONE, 5.0, false},
    {4, 8, 1, kAnySize, CUBLASLT_REDUCTION_SCHEME_NONE, 4.0, false},
    {16, 16, 1, kAnySize, CUBLASLT_REDUCTION_SCHEME_NONE, 2.0, true},
    {16, 64, 8, kAnySize, CUBLASLT_REDUCTION_SCHEME_NONE, 1.0, true},
    {16, -2, 1, kAnySize, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE, 1.5, true},
    {0, 4, 1, 16, CUBLASLT_REDUCTION_SCHEME_NONE, 0.5, false},
    {0, -3, 1, kAnySize, CUBLASLT_REDUCTION_SCHEME_INPLACE, 0.1, true},
};
constexpr std::uint64_t kMark = 0x51313a7ed0000000ull;

const Algorithm* algorithm_of(const cublasLtMatmulAlgo_t& algo) {
  const auto id = algo.data[0] ^ kMark;
  return id < std::size(kAlgorithms) ? &kAlgorithms[id] : nullptr;
}

struct Problem {
  Desc desc;
  Layout a, b, c, d;
  std::int64_t m() const { return static_cast<std::int64_t>(d.rows); }
  std::int64_t n() const { return static_cast<std::int64_t>(d.cols); }
  std::int64_t k() const {
    return static_cast<std::int64_t>(desc.transpose_a == CUBLAS_OP_N ? a.cols : a.rows);
  }
  bool has_bias() const { return (desc.epilogue & CUBLASLT_EPILOGUE_BIAS) != 0; }
  bool has_aux() const { return (desc.epilogue & 128u) != 0; }
};

bool types_legal(const Problem& p) {
  const auto is = [&](int compute, int scale, std::uint32_t ab, std::uint32_t cd) {
    return p.desc.compute == compute && p.desc.scale == scale && p.a.type == ab && p.b.type == ab &&
           p.c.type == cd && p.d.type == cd;
  };
  return is(CUBLAS_COMPUTE_32F, CUDA_R_32F, CUDA_R_16BF, CUDA_R_16BF) ||
         is(CUBLAS_COMPUTE_32F, CUDA_R_32F, CUDA_R_16BF, CUDA_R_32F) ||
         is(CUBLAS_COMPUTE_32F, CUDA_R_32F, CUDA_R_32F, CUDA_R_32F) ||
         is(CUBLAS_COMPUTE_64F, CUDA_R_64F, CUDA_R_64F, CUDA_R_64F);
}

// What both the heuristics and the product check.
cublasStatus_t check(const Problem& p) {
  for (const auto& layout : {p.a, p.b, p.c, p.d}) {
    if (layout.rows == 0 || layout.cols == 0 || layout.ld < static_cast<std::int64_t>(layout.rows))
      return CUBLAS_STATUS_INVALID_VALUE;
  }
  const bool ta = p.desc.transpose_a == CUBLAS_OP_T, tb = p.desc.transpose_b == CUBLAS_OP_T;
  if ((ta ? p.a.cols : p.a.rows) != p.d.rows || (tb ? p.b.rows : p.b.cols) != p.d.cols ||
      (ta ? p.a.rows : p.a.cols) != (tb ? p.b.cols : p.b.rows) || p.c.rows != p.d.rows ||
      p.c.cols != p.d.cols) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  if (!types_legal(p)) return CUBLAS_STATUS_NOT_SUPPORTED;
  switch (p.desc.epilogue) {
    case CUBLASLT_EPILOGUE_DEFAULT:
      return CUBLAS_STATUS_SUCCESS;
    case CUBLASLT_EPILOGUE_BIAS:
    case CUBLASLT_EPILOGUE_GELU_AUX:
    case CUBLASLT_EPILOGUE_GELU_AUX_BIAS:
    case CUBLASLT_EPILOGUE_DGELU:
      break;
    default:
      return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  const char* epilogues = std::getenv("PG_SIMULATED_EPILOGUES");
  if (epilogues != nullptr && epilogues[0] == '0') return CUBLAS_STATUS_NOT_SUPPORTED;
  const auto result_type = static_cast<std::int32_t>(p.d.type);
  if (p.has_bias()) {
    if (p.desc.bias == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
    if (p.desc.bias_type != -1 && p.desc.bias_type != result_type)
      return CUBLAS_STATUS_NOT_SUPPORTED;
    if (reinterpret_cast<std::uintptr_t>(p.desc.bias) % 16 != 0) return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  if (p.has_aux()) {
    if (p.desc.aux == nullptr || p.desc.aux_ld < p.m() || p.desc.aux_ld % 8 != 0)
      return CUBLAS_STATUS_INVALID_VALUE;
    if (p.desc.aux_type != -1 && p.desc.aux_type != result_type) return CUBLAS_STATUS_INVALID_VALUE;
    if (p.d.type != CUDA_R_16BF || reinterpret_cast<std::uintptr_t>(p.desc.aux) % 16 != 0)
      return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  return CUBLAS_STATUS_SUCCESS;
}

std::size_t workspace_of(const Algorithm& algorithm, const Problem& p) {
  if (algorithm.reduction != CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE) return 0;
  return static_cast<std::size_t>(p.m() * p.n() * -algorithm.chunk) *
         (p.d.type == CUDA_R_64F ? 8 : 4);
}

bool runs(const Algorithm& algorithm, const Problem& p) {
  if (p.n() < algorithm.fewest_columns || p.n() > algorithm.most_columns) return false;
  if (p.has_aux() && !algorithm.epilogues) return false;
  for (const auto& layout : {p.a, p.b, p.c, p.d}) {
    const auto pitch = static_cast<std::size_t>(layout.ld) * size_of(layout.type);
    if (algorithm.alignment != 0 && pitch % algorithm.alignment != 0) return false;
  }
  return true;
}

double gelu(double x) {
  const double u = std::numbers::sqrt2 * std::numbers::inv_sqrtpi * (x + 0.044715 * x * x * x);
  return 0.5 * x * (1.0 + std::tanh(u));
}
double gelu_slope(double x) {
  const double root = std::numbers::sqrt2 * std::numbers::inv_sqrtpi;
  const double t = std::tanh(root * (x + 0.044715 * x * x * x));
  return 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * root * (1.0 + 3.0 * 0.044715 * x * x);
}

template <class Acc>
std::vector<Acc> gathered(const void* data, const Layout& layout, bool k_contiguous,
                          std::int64_t outer, std::int64_t k) {
  std::vector<Acc> all(static_cast<std::size_t>(outer * k));
  for (std::int64_t i = 0; i < outer; ++i) {
    for (std::int64_t l = 0; l < k; ++l) {
      const auto at = k_contiguous ? i * layout.ld + l : l * layout.ld + i;
      all[static_cast<std::size_t>(i * k + l)] = static_cast<Acc>(read(data, layout.type, at));
    }
  }
  return all;
}

template <class Acc>
void multiply(const Problem& p, const Algorithm& algorithm, Acc alpha, const void* a, const void* b,
              Acc beta, const void* c, void* d) {
  const auto m = p.m(), n = p.n(), k = p.k();
  const auto left = gathered<Acc>(a, p.a, p.desc.transpose_a == CUBLAS_OP_T, m, k);
  const auto right = gathered<Acc>(b, p.b, p.desc.transpose_b == CUBLAS_OP_N, n, k);
  const auto chunk = algorithm.chunk == 0  ? k
                     : algorithm.chunk > 0 ? algorithm.chunk
                                           : (k - algorithm.chunk - 1) / -algorithm.chunk;
  const bool in_place = algorithm.reduction == CUBLASLT_REDUCTION_SCHEME_INPLACE;
  for (std::int64_t j = 0; j < n; ++j) {
    for (std::int64_t i = 0; i < m; ++i) {
      const Acc* const x = left.data() + i * k;
      const Acc* const y = right.data() + j * k;
      Acc sum{};
      for (std::int64_t first = 0; first < k; first += chunk) {
        Acc partial{};
        for (auto l = first; l < std::min(k, first + chunk); ++l) partial += x[l] * y[l];
        sum += partial;
        if (in_place && p.d.type == CUDA_R_16BF) {
          sum = static_cast<Acc>(static_cast<float>(bf16(static_cast<float>(sum))));
        }
      }
      Acc result = alpha * sum;
      if (beta != Acc{0}) {
        result += beta * static_cast<Acc>(read(c, p.c.type, j * p.c.ld + i));
      }
      if (p.has_bias()) result += static_cast<Acc>(read(p.desc.bias, p.d.type, i));
      const auto aux_at = j * p.desc.aux_ld + i;
      if (p.desc.epilogue == CUBLASLT_EPILOGUE_DGELU) {
        result *= static_cast<Acc>(gelu_slope(read(p.desc.aux, p.d.type, aux_at)));
      } else if (p.has_aux()) {
        write(p.desc.aux, p.d.type, aux_at, static_cast<double>(result));
        result = static_cast<Acc>(gelu(static_cast<double>(result)));
      }
      write(d, p.d.type, j * p.d.ld + i, static_cast<double>(result));
    }
  }
}

Desc* of(cublasLtMatmulDesc_t x) {
  return reinterpret_cast<Desc*>(x);
}
Layout* of(cublasLtMatrixLayout_t x) {
  return reinterpret_cast<Layout*>(x);
}
Preference* of(cublasLtMatmulPreference_t x) {
  return reinterpret_cast<Preference*>(x);
}

std::uint32_t alignment_of(const void* at) {
  const auto address = reinterpret_cast<std::uintptr_t>(at);
  std::uint32_t bytes = 256;
  while (address % bytes != 0) bytes /= 2;
  return bytes;
}

}  // namespace

}  // namespace pg::simulated

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
                                               : std::vector<std::uint64_t>{6, 2, 3, 4, 1, 0};
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

// What a product of the simulated cuBLASLt is and how it is computed: descriptors, the library's
// refusals, its (made up) algorithms, and the sums. The library's functions: cublaslt.cpp.
#pragma once

#include <cublasLt.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <numbers>
#include <vector>

#include "comm/dtype.h"
#include "tests/simulated_gpu/memory.h"

namespace pg::simulated {

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

inline std::size_t size_of(std::uint32_t type) {
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

inline double read(const void* data, std::uint32_t type, std::int64_t i) {
  switch (type) {
    case CUDA_R_64F:
      return static_cast<const double*>(data)[i];
    case CUDA_R_32F:
      return static_cast<double>(static_cast<const float*>(data)[i]);
    default:
      return static_cast<double>(static_cast<float>(static_cast<const bf16*>(data)[i]));
  }
}
inline void write(void* data, std::uint32_t type, std::int64_t i, double x) {
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
    {16, -2, 17, 24, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE, 0.2, true},
};
constexpr std::uint64_t kMark = 0x51313a7ed0000000ull;

inline const Algorithm* algorithm_of(const cublasLtMatmulAlgo_t& algo) {
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

inline bool types_legal(const Problem& p) {
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
inline cublasStatus_t check(const Problem& p) {
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

inline std::size_t workspace_of(const Algorithm& algorithm, const Problem& p) {
  if (algorithm.reduction != CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE) return 0;
  return static_cast<std::size_t>(p.m() * p.n() * -algorithm.chunk) *
         (p.d.type == CUDA_R_64F ? 8 : 4);
}

inline bool runs(const Algorithm& algorithm, const Problem& p) {
  if (p.n() < algorithm.fewest_columns || p.n() > algorithm.most_columns) return false;
  if (p.has_aux() && !algorithm.epilogues) return false;
  for (const auto& layout : {p.a, p.b, p.c, p.d}) {
    const auto pitch = static_cast<std::size_t>(layout.ld) * size_of(layout.type);
    if (algorithm.alignment != 0 && pitch % algorithm.alignment != 0) return false;
  }
  return true;
}

inline double gelu(double x) {
  const double u = std::numbers::sqrt2 * std::numbers::inv_sqrtpi * (x + 0.044715 * x * x * x);
  return 0.5 * x * (1.0 + std::tanh(u));
}
inline double gelu_slope(double x) {
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
      // As cuBLASLt 13's algorithm 24 was seen to do on an H100.
      const bool split = algorithm.reduction == CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
      if (split && p.has_bias() && p.d.type == CUDA_R_16BF) {
        result = static_cast<Acc>(static_cast<float>(bf16(static_cast<float>(result))));
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

inline Desc* of(cublasLtMatmulDesc_t x) {
  return reinterpret_cast<Desc*>(x);
}
inline Layout* of(cublasLtMatrixLayout_t x) {
  return reinterpret_cast<Layout*>(x);
}
inline Preference* of(cublasLtMatmulPreference_t x) {
  return reinterpret_cast<Preference*>(x);
}

inline std::uint32_t alignment_of(const void* at) {
  const auto address = reinterpret_cast<std::uintptr_t>(at);
  std::uint32_t bytes = 256;
  while (address % bytes != 0) bytes /= 2;
  return bytes;
}

}  // namespace pg::simulated

#include "model/kernels/cpu/matmul.h"

namespace pg::model {

void matmul_f64(const MatmulArgs& args) {
  const auto m = args.c.dim(0), n = args.c.dim(1);
  const auto k = args.transpose_a ? args.a.dim(0) : args.a.dim(1);
  const auto* a = args.a.data<double>();
  const auto* b = args.b.data<double>();
  const auto* bias = args.bias.empty() ? nullptr : args.bias.data<double>();
  auto* c = args.c.data<double>();
  const auto lda = args.a.stride(0), ldb = args.b.stride(0), ldc = args.c.stride(0);

#pragma omp parallel for schedule(static)
  for (std::int64_t i = 0; i < m; ++i) {
    double* row = c + i * ldc;
    if (!args.accumulate) {
      for (std::int64_t j = 0; j < n; ++j) row[j] = bias != nullptr ? bias[j] : 0.0;
    }
    if (args.transpose_b) {
      for (std::int64_t j = 0; j < n; ++j) {
        double dot = 0.0;
        if (args.transpose_a) {
          for (std::int64_t l = 0; l < k; ++l) dot += a[l * lda + i] * b[j * ldb + l];
        } else {
#pragma omp simd reduction(+ : dot)
          for (std::int64_t l = 0; l < k; ++l) dot += a[i * lda + l] * b[j * ldb + l];
        }
        row[j] += dot;
      }
      continue;
    }
    for (std::int64_t l = 0; l < k; ++l) {
      const double x = args.transpose_a ? a[l * lda + i] : a[i * lda + l];
#pragma omp simd
      for (std::int64_t j = 0; j < n; ++j) row[j] += x * b[l * ldb + j];
    }
  }
}

}  // namespace pg::model

#include "tests/model/kernels/attention_reference.h"

#include <algorithm>
#include <cmath>
#include <random>

namespace pg::model::testing {

comm::RandomKey mask_key() {
  return {0x0123456789ABCDEFu};
}

std::vector<std::int64_t> sample_numbers(const AttentionCase& c) {
  std::vector<std::int64_t> samples;
  for (std::int64_t b = 0; b < c.sequences; ++b) samples.push_back(17 + 5 * b);
  return samples;
}

AttentionInput random_input(const AttentionCase& c, std::uint64_t seed) {
  std::mt19937_64 engine(seed);
  const auto draw = [&](std::int64_t n) {
    std::vector<double> values(static_cast<std::size_t>(n));
    for (auto& value : values) {
      // Seven bits and a sign: bf16 has eight.
      value = (static_cast<double>(engine() % 255) - 127.0) / 64.0;
    }
    return values;
  };
  return {draw(c.queries()), draw(c.keys()), draw(c.keys()), draw(c.queries())};
}

AttentionResult reference(const AttentionCase& c, const AttentionInput& in, double eps,
                          double storage) {
  AttentionResult out{Bounded(c.queries()), Bounded(c.sequences * c.heads * c.length),
                      Bounded(c.queries()), Bounded(c.keys()), Bounded(c.keys())};
  const auto T = c.length, D = c.size, group = c.heads / c.kv_heads;
  const auto samples = sample_numbers(c);
  const auto square = static_cast<std::size_t>(T * T);
  const double inner = static_cast<double>(D + 4) * eps;
  for (std::int64_t b = 0; b < c.sequences; ++b) {
    for (std::int64_t h = 0; h < c.heads; ++h) {
      const auto at_q = [&](std::int64_t t) { return ((b * T + t) * c.heads + h) * D; };
      const auto at_k = [&](std::int64_t t) { return ((b * T + t) * c.kv_heads + h / group) * D; };
      const auto sees = [&](std::int64_t i, std::int64_t j) {
        return j <= i && (c.window == 0 || j > i - c.window);
      };
      // P and its relative error, the dropout factor.
      std::vector<double> p(square), error(square), keep(square, 1.0);
      for (std::int64_t i = 0; i < T; ++i) {
        const auto* q = &in.q[at_q(i)];
        double top = -1e300, sum = 0.0, worst = 0.0, seen = 0.0;
        for (std::int64_t j = 0; j < T; ++j) {
          if (!sees(i, j)) continue;
          const auto* k = &in.k[at_k(j)];
          double s = 0.0, size = 0.0;
          for (std::int64_t d = 0; d < D; ++d) {
            s += q[d] * k[d];
            size += std::abs(q[d] * k[d]);
          }
          p[i * T + j] = c.scale * s;
          error[i * T + j] = inner * std::abs(c.scale) * size;
          worst = std::max(worst, error[i * T + j]);
          top = std::max(top, c.scale * s);
          seen += 1.0;
          if (c.rate > 0.0) {
            const auto bits = comm::random_bits(mask_key(), static_cast<std::uint64_t>(samples[b]),
                                                static_cast<std::uint64_t>((h * T + i) * T + j));
            keep[i * T + j] = bits / 4294967296.0 >= c.rate ? 1.0 / (1.0 - c.rate) : 0.0;
          }
        }
        for (std::int64_t j = 0; j < T; ++j) {
          if (sees(i, j)) sum += std::exp(p[i * T + j] - top);
        }
        const double lse = top + std::log(sum);
        const double lse_error = worst + (seen + 4.0) * eps + eps * std::abs(lse);
        out.lse.value[(b * c.heads + h) * T + i] = lse;
        out.lse.bound[(b * c.heads + h) * T + i] = lse_error;
        for (std::int64_t j = 0; j < T; ++j) {
          if (!sees(i, j)) continue;
          const double s = p[i * T + j];
          error[i * T + j] += lse_error + 4.0 * eps * (std::abs(s) + std::abs(lse) + 1.0);
          p[i * T + j] = std::exp(s - lse);
        }

        auto *o = &out.o.value[at_q(i)], *o_error = &out.o.bound[at_q(i)];
        for (std::int64_t j = 0; j < T; ++j) {
          if (!sees(i, j)) continue;
          const auto* v = &in.v[at_k(j)];
          for (std::int64_t d = 0; d < D; ++d) {
            const double term = keep[i * T + j] * p[i * T + j] * v[d];
            o[d] += term;
            o_error[d] += std::abs(term) * (error[i * T + j] + (seen + 8.0) * eps);
          }
        }
        double delta = 0.0, delta_error = 0.0;
        const auto* d_o = &in.d_o[at_q(i)];
        for (std::int64_t d = 0; d < D; ++d) {
          o_error[d] += storage * std::abs(o[d]);
          delta += d_o[d] * o[d];
          delta_error += inner * std::abs(d_o[d] * o[d]) + std::abs(d_o[d]) * o_error[d];
        }

        auto *dq = &out.dq.value[at_q(i)], *dq_error = &out.dq.bound[at_q(i)];
        const double terms = static_cast<double>(T * group) + 8.0;
        for (std::int64_t j = 0; j < T; ++j) {
          if (!sees(i, j)) continue;
          const auto *k = &in.k[at_k(j)], *v = &in.v[at_k(j)];
          auto *dk = &out.dk.value[at_k(j)], *dk_error = &out.dk.bound[at_k(j)];
          auto *dv = &out.dv.value[at_k(j)], *dv_error = &out.dv.bound[at_k(j)];
          const double mask = keep[i * T + j], prob = p[i * T + j], relative = error[i * T + j];
          double dp = 0.0, dp_size = 0.0;
          for (std::int64_t d = 0; d < D; ++d) {
            dp += mask * d_o[d] * v[d];
            dp_size += mask * std::abs(d_o[d] * v[d]);
            const double term = mask * prob * d_o[d];
            dv[d] += term;
            dv_error[d] += std::abs(term) * (relative + terms * eps);
          }
          const double ds = c.scale * prob * (dp - delta);
          const double ds_error = std::abs(c.scale) * prob *
                                  (inner * dp_size + delta_error +
                                   (relative + 4.0 * eps) * (std::abs(dp) + std::abs(delta)));
          for (std::int64_t d = 0; d < D; ++d) {
            dq[d] += ds * k[d];
            dk[d] += ds * q[d];
            dq_error[d] += std::abs(k[d]) * (ds_error + terms * eps * std::abs(ds));
            dk_error[d] += std::abs(q[d]) * (ds_error + terms * eps * std::abs(ds));
          }
        }
      }
    }
  }
  for (auto* result : {&out.dq, &out.dk, &out.dv}) {
    for (std::size_t i = 0; i < result->value.size(); ++i) {
      result->bound[i] += storage * std::abs(result->value[i]);
    }
  }
  return out;
}

}  // namespace pg::model::testing

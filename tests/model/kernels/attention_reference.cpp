#include "tests/model/kernels/attention_reference.h"

#include <algorithm>
#include <cmath>
#include <limits>
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

AttentionShape AttentionCase::shape() {
  AttentionShape s{scale, window, first_query, first_key, seq, {}};
  if (!visible_from.empty()) {
    s.visible_from = TensorView(visible_from.data(), DType::kI32, {sequences, length});
  }
  return s;
}

std::string AttentionCase::text() const {
  return fmt::format(
      "B {} queries {}+{} keys {}+{} of {}, H {} K {} D {}, window {}, dropout {}, {}documents",
      sequences, first_query, length, first_key, key_count(), seq, heads, kv_heads, size, window,
      rate, visible_from.empty() ? "no " : "");
}

std::vector<std::int32_t> random_documents(std::int64_t sequences, std::int64_t seq,
                                           std::int64_t longest) {
  std::mt19937_64 engine(static_cast<std::uint64_t>(seq));
  std::vector<std::int32_t> starts;
  for (std::int64_t b = 0; b < sequences; ++b) {
    for (std::int64_t begin = 0; begin < seq;) {
      const auto length = 1 + static_cast<std::int64_t>(engine() % static_cast<unsigned>(longest));
      const auto end = std::min(begin + length, seq);
      starts.insert(starts.end(), static_cast<std::size_t>(end - begin),
                    static_cast<std::int32_t>(begin));
      begin = end;
    }
  }
  return starts;
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
                          double storage, std::int64_t merges) {
  AttentionResult out{Bounded(c.queries()), Bounded(c.sequences * c.heads * c.length),
                      Bounded(c.queries()), Bounded(c.keys()), Bounded(c.keys())};
  const auto Q = c.length, S = c.key_count(), D = c.size, group = c.heads / c.kv_heads;
  const auto seq = c.seq > 0 ? c.seq : S;
  const auto samples = sample_numbers(c);
  const auto all = static_cast<std::size_t>(Q * S);
  const double inner = static_cast<double>(D + 4) * eps, joins = static_cast<double>(merges);
  for (std::int64_t b = 0; b < c.sequences; ++b) {
    for (std::int64_t h = 0; h < c.heads; ++h) {
      const auto at_q = [&](std::int64_t t) { return ((b * Q + t) * c.heads + h) * D; };
      const auto at_k = [&](std::int64_t t) { return ((b * S + t) * c.kv_heads + h / group) * D; };
      const auto sees = [&](std::int64_t i, std::int64_t j) {
        const auto p = c.first_query + i, s = c.first_key + j;
        const auto from = c.visible_from.empty() ? 0 : c.visible_from[b * Q + i];
        return s <= p && (c.window == 0 || p - s < c.window) && s >= from;
      };
      // P and its relative error, the dropout factor.
      std::vector<double> p(all), error(all), keep(all, 1.0);
      for (std::int64_t i = 0; i < Q; ++i) {
        const auto* q = &in.q[at_q(i)];
        double top = -std::numeric_limits<double>::infinity(), sum = 0.0, worst = 0.0, seen = 0.0;
        double largest = 0.0;
        for (std::int64_t j = 0; j < S; ++j) {
          if (!sees(i, j)) continue;
          const auto* k = &in.k[at_k(j)];
          double s = 0.0, size = 0.0;
          for (std::int64_t d = 0; d < D; ++d) {
            s += q[d] * k[d];
            size += std::abs(q[d] * k[d]);
          }
          p[i * S + j] = c.scale * s;
          error[i * S + j] = inner * std::abs(c.scale) * size;
          worst = std::max(worst, error[i * S + j]);
          top = std::max(top, c.scale * s);
          largest = std::max(largest, std::abs(c.scale * s));
          seen += 1.0;
          if (c.rate > 0.0) {
            const auto element = (h * seq + c.first_query + i) * seq + c.first_key + j;
            const auto bits = comm::random_bits(mask_key(), static_cast<std::uint64_t>(samples[b]),
                                                static_cast<std::uint64_t>(element));
            keep[i * S + j] = bits / 4294967296.0 >= c.rate ? 1.0 / (1.0 - c.rate) : 0.0;
          }
        }
        if (seen == 0.0) {  // all else stays 0
          out.lse.value[(b * c.heads + h) * Q + i] = top;
          continue;
        }
        for (std::int64_t j = 0; j < S; ++j) {
          if (sees(i, j)) sum += std::exp(p[i * S + j] - top);
        }
        const double lse = top + std::log(sum);
        const double most = merges > 0 ? largest + std::log(seen) : std::abs(lse);
        const double lse_error =
            worst + (seen + 4.0) * eps + eps * most + joins * (4.0 + most) * eps;
        const double join_error = joins * (2.0 * lse_error + (2.0 * most + 8.0) * eps);
        out.lse.value[(b * c.heads + h) * Q + i] = lse;
        out.lse.bound[(b * c.heads + h) * Q + i] = lse_error;
        for (std::int64_t j = 0; j < S; ++j) {
          if (!sees(i, j)) continue;
          const double s = p[i * S + j];
          error[i * S + j] += lse_error + 4.0 * eps * (std::abs(s) + std::abs(lse) + 1.0);
          p[i * S + j] = std::exp(s - lse);
        }

        auto *o = &out.o.value[at_q(i)], *o_error = &out.o.bound[at_q(i)];
        for (std::int64_t j = 0; j < S; ++j) {
          if (!sees(i, j)) continue;
          const auto* v = &in.v[at_k(j)];
          for (std::int64_t d = 0; d < D; ++d) {
            const double term = keep[i * S + j] * p[i * S + j] * v[d];
            o[d] += term;
            o_error[d] += std::abs(term) * (error[i * S + j] + (seen + 8.0) * eps + join_error);
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
        // Of the longest sum, and the parts' sums.
        const double terms = static_cast<double>(std::max(Q, S) * group) + 8.0 + joins;
        for (std::int64_t j = 0; j < S; ++j) {
          if (!sees(i, j)) continue;
          const auto *k = &in.k[at_k(j)], *v = &in.v[at_k(j)];
          auto *dk = &out.dk.value[at_k(j)], *dk_error = &out.dk.bound[at_k(j)];
          auto *dv = &out.dv.value[at_k(j)], *dv_error = &out.dv.bound[at_k(j)];
          const double mask = keep[i * S + j], prob = p[i * S + j], relative = error[i * S + j];
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

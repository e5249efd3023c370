// Attention by its definition: plain loops over all queries and all keys in double, forward and
// backward, with a bound for the rounding errors of any implementation beside each result.
//
// The bounds are first order. `eps` is the machine epsilon of the implementation's arithmetic,
// twice the error of one operation; that factor covers the second order and the libm's ulps.
// `storage` is the relative error of storing a result (0 where it is stored in the arithmetic's own
// type).
//   score     (D + 4) eps scale sum|q k|
//   lse       largest score error of the row + (n + 4) eps, n the keys seen, + eps |lse|
//   P         relative: score error + lse error + 4 eps (|score| + |lse| + 1)
//   o, dV     the terms' P errors, + (n + 8) eps sum|terms|, n the number of terms
//   dP        (D + 4) eps sum|dO v|
//   delta     (D + 4) eps sum|dO o| + sum|dO| error(o)
//   dS        P (error(dP) + error(delta)) + |P| (P's error + 4 eps) (|dP| + |delta|)
//   dQ, dK    scale sum (|k| error(dS) + (n + 8) eps |k dS|)
// Where `merges` + 1 parts of the keys come together, with M the largest |score| of the row + log
// n, which bounds the |log-sum-exp| of any of its parts:
//   lse       its error above with M for |lse|, + merges (4 + M) eps: the new one lies between the
//             errors of both sides, and exp, log1p and the sum round
//   o         + merges sum|terms| (2 error(lse) + (2 M + 8) eps): the exponent of each weight is
//   the
//             difference of two log-sum-exps, rounded; then exp, sum, quotient, two products, sum
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/kernels/kernels.h"

namespace pg::model::testing {

struct AttentionCase {
  std::int64_t sequences = 1, length = 1, heads = 1, kv_heads = 1, size = 1, window = 0;
  double rate = 0.0, scale = 1.0;
  // Parts of sequences of `seq`: `length` queries from first_query and key_length keys from
  // first_key; 0: key_length = length, seq = key_length.
  std::int64_t key_length = 0, first_query = 0, first_key = 0, seq = 0;
  std::vector<std::int32_t> visible_from{};  // [B, length]; empty: no documents

  std::int64_t key_count() const { return key_length > 0 ? key_length : length; }
  std::int64_t queries() const { return sequences * length * heads * size; }       // elements
  std::int64_t keys() const { return sequences * key_count() * kv_heads * size; }  // elements
  AttentionShape shape();  // refers to visible_from
  std::string text() const;
};

// Where the document of each position begins, [B, seq]: documents of 1 to about `longest`
// positions, others in each sequence.
std::vector<std::int32_t> random_documents(std::int64_t sequences, std::int64_t seq,
                                           std::int64_t longest);

comm::RandomKey mask_key();
std::vector<std::int64_t> sample_numbers(const AttentionCase& c);

// value[i] is within bound[i] of what a correct implementation gives.
struct Bounded {
  explicit Bounded(std::int64_t n = 0)
      : value(static_cast<std::size_t>(n)), bound(static_cast<std::size_t>(n)) {}
  std::vector<double> value, bound;
};

struct AttentionResult {
  Bounded o, lse, dq, dk, dv;
};

struct AttentionInput {
  std::vector<double> q, k, v, d_o;  // [B,Q,H,D], [B,S,K,D] twice, [B,Q,H,D]
};

// Every value is a multiple of 1/64 below 4: exact in every compute type.
AttentionInput random_input(const AttentionCase& c, std::uint64_t seed);

AttentionResult reference(const AttentionCase& c, const AttentionInput& in, double eps,
                          double storage, std::int64_t merges = 0);

}  // namespace pg::model::testing

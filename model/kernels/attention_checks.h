// What every backend asserts about attention's operands (kernels.h).
#pragma once

#include <initializer_list>

#include "model/kernels/kernels.h"

namespace pg::model {

namespace attention_checks {

inline bool has_shape(const TensorView& x, DType type, std::initializer_list<std::int64_t> shape) {
  if (x.dtype() != type || x.rank() != static_cast<int>(shape.size())) return false;
  int axis = 0;
  for (const auto extent : shape) {
    if (x.dim(axis++) != extent) return false;
  }
  return x.elements() == 0 || x.dim(x.rank() - 1) == 1 || x.stride(x.rank() - 1) == 1;
}

// Of the compute type or of its accumulator type.
inline bool has_either_shape(const TensorView& x, DType type,
                             std::initializer_list<std::int64_t> shape) {
  return has_shape(x, type, shape) || has_shape(x, accumulator_of(type), shape);
}

}  // namespace attention_checks

inline void check_attention(TensorView o, TensorView lse, TensorView q, TensorView k, TensorView v,
                            const AttentionShape& shape, const Dropout& dropout) {
  using namespace attention_checks;
  PG_ASSERT(q.rank() == 4 && k.rank() == 4, "q {} k {}", q.text(), k.text());
  const auto type = q.dtype();
  const auto sequences = q.dim(0), queries = q.dim(1), heads = q.dim(2), size = q.dim(3);
  const auto keys = k.dim(1), kv_heads = k.dim(2);
  PG_ASSERT(kv_heads > 0 && heads % kv_heads == 0, "q {} k {}", q.text(), k.text());
  for (const auto& x : {k, v}) {
    PG_ASSERT(has_shape(x, type, {sequences, keys, kv_heads, size}), "{} for q {} k {}", x.text(),
              q.text(), k.text());
  }
  PG_ASSERT(has_shape(q, type, {sequences, queries, heads, size}) &&
                has_either_shape(o, type, {sequences, queries, heads, size}),
            "q {} o {}", q.text(), o.text());
  PG_ASSERT(has_shape(lse, accumulator_of(type), {sequences, heads, queries}), "lse {} for q {}",
            lse.text(), q.text());
  PG_ASSERT(shape.window >= 0 && shape.first_query >= 0 && shape.first_key >= 0 && shape.seq >= 0,
            "window {}, first query {}, first key {}, seq {}", shape.window, shape.first_query,
            shape.first_key, shape.seq);
  PG_ASSERT(shape.visible_from.empty() ||
                has_shape(shape.visible_from, DType::kI32, {sequences, queries}),
            "visible_from {} for q {}", shape.visible_from.text(), q.text());
  if (dropout.rate == 0.0) return;
  PG_ASSERT(dropout.rate > 0.0 && dropout.rate < 1.0, "dropout {}", dropout.rate);
  PG_ASSERT(dropout.first_head >= 0, "first head {}", dropout.first_head);
  PG_ASSERT(static_cast<std::int64_t>(dropout.samples.size()) == sequences, "{} samples for q {}",
            dropout.samples.size(), q.text());
  // Positions beyond would share the elements of the next query or head.
  const auto seq = shape.seq > 0 ? shape.seq : keys;
  PG_ASSERT(shape.first_query + queries <= seq && shape.first_key + keys <= seq,
            "q {} from {}, k {} from {}: beyond a sequence of {}", q.text(), shape.first_query,
            k.text(), shape.first_key, seq);
}

inline void check_attention_backward(TensorView dq, TensorView dk, TensorView dv, TensorView d_o,
                                     TensorView q, TensorView k, TensorView v, TensorView o,
                                     TensorView lse, const AttentionShape& shape,
                                     const Dropout& dropout) {
  using namespace attention_checks;
  check_attention(o, lse, q, k, v, shape, dropout);
  const auto type = q.dtype();
  PG_ASSERT(has_shape(d_o, type, {q.dim(0), q.dim(1), q.dim(2), q.dim(3)}) &&
                has_either_shape(dq, type, {q.dim(0), q.dim(1), q.dim(2), q.dim(3)}),
            "d_o {} dq {} for q {}", d_o.text(), dq.text(), q.text());
  for (const auto& x : {dk, dv}) {
    PG_ASSERT(has_either_shape(x, type, {k.dim(0), k.dim(1), k.dim(2), k.dim(3)}), "{} for k {}",
              x.text(), k.text());
  }
}

inline void check_attention_merge(TensorView o, TensorView lse, TensorView other_o,
                                  TensorView other_lse) {
  using namespace attention_checks;
  PG_ASSERT(o.rank() == 4 && accumulator_of(o.dtype()) == o.dtype(), "o {}", o.text());
  const auto sequences = o.dim(0), queries = o.dim(1), heads = o.dim(2), size = o.dim(3);
  for (const auto& x : {o, other_o}) {
    PG_ASSERT(has_shape(x, o.dtype(), {sequences, queries, heads, size}), "o {} other_o {}",
              o.text(), other_o.text());
  }
  for (const auto& x : {lse, other_lse}) {
    PG_ASSERT(has_shape(x, o.dtype(), {sequences, heads, queries}), "{} for o {}", x.text(),
              o.text());
  }
}

}  // namespace pg::model

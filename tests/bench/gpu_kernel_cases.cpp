#include "bench/gpu_kernel_cases.h"

#include <fmt/format.h>

#include <memory>
#include <unordered_set>

namespace pg::bench {

namespace {

using model::TensorView;
constexpr auto kBF16 = DType::kBF16;
constexpr auto kF32 = DType::kF32;

double real(std::int64_t n) {
  return static_cast<double>(n);
}

// The three products of a linear layer I -> O on N rows. `y_type`, of its output, is
// fp32 for logits, whose rows lie as the head has them.
void add_linear(std::vector<KernelCase>& cases, const std::string& what, std::int64_t N,
                std::int64_t I, std::int64_t O, bool bias, DType y_type = kBF16) {
  const auto rows_of_y = [=](Operands& make, DType type) {
    const auto pitch = y_type == kF32 ? make.kernels().preferred().row_pitch(O) : O;
    return make.normal(type, {N, pitch}).slice(1, 0, O);
  };
  const auto shape = fmt::format("{}: {} rows, {} to {}", what, N, I, O);
  const double flops = 2.0 * real(N) * real(I) * real(O);
  const double in = 2 * real(N * I), weight = 2 * real(O * I), out = 2 * real(N * O);
  cases.push_back({"linear_forward", shape, in + weight + out * real(dtype_size(y_type)) / 2, flops,
                   [=](Operands& make) -> Call {
                     const auto y = rows_of_y(make, y_type), x = make.normal(kBF16, {N, I});
                     const auto w = make.normal(kBF16, {O, I});
                     const auto b = bias ? make.normal(kBF16, {O}) : TensorView();
                     return [=, &k = make.kernels()] { k.linear_forward(y, x, w, b); };
                   }});
  cases.push_back(
      {"linear_backward_input", shape, out + weight + in, flops, [=](Operands& make) -> Call {
         const auto dx = make.normal(kBF16, {N, I}), dy = rows_of_y(make, kBF16);
         const auto w = make.normal(kBF16, {O, I});
         return
             [=, &k = make.kernels()] { k.linear_backward_input(dx, dy, w, /*accumulate=*/false); };
       }});
  cases.push_back({"linear_backward_weight", shape, out + in + 8 * real(O * I), flops,
                   [=](Operands& make) -> Call {
                     const auto dw = make.zeros(kF32, {O, I}), dy = rows_of_y(make, kBF16);
                     const auto x = make.normal(kBF16, {N, I});
                     const auto db = bias ? make.zeros(kF32, {O}) : TensorView();
                     return [=, &k = make.kernels()] { k.linear_backward_weight(dw, db, dy, x); };
                   }});
}

void add_norm(std::vector<KernelCase>& cases, const ModelSizes& s) {
  const auto N = s.N(), C = s.C;
  const auto kind = s.llama ? model::NormKind::kRmsNorm : model::NormKind::kLayerNorm;
  const bool centred = !s.llama;
  const auto shape = fmt::format("{} [{}, {}]", s.llama ? "rms" : "layer", N, C);
  const double bytes = 4 * 2 * real(N * C) + 8 * real(N);
  cases.push_back({"norm_forward", shape + " + branch", bytes, 0, [=](Operands& make) -> Call {
                     const auto y = make.normal(kBF16, {N, C}), r = make.normal(kBF16, {N, C});
                     const auto residual = make.normal(kBF16, {N, C});
                     const auto x = make.normal(kBF16, {N, C}), gamma = make.normal(kBF16, {C});
                     const auto beta = centred ? make.normal(kBF16, {C}) : TensorView();
                     const auto stats = make.zeros(kF32, {N, 2});
                     return [=, &k = make.kernels()] {
                       k.norm_forward(kind, y, r, stats, residual, x, gamma, beta, 1e-5);
                     };
                   }});
  cases.push_back({"norm_backward", shape, bytes, 0, [=](Operands& make) -> Call {
                     const auto dr = make.zeros(kBF16, {N, C}), dy = make.normal(kBF16, {N, C});
                     const auto r = make.normal(kBF16, {N, C}), y = make.normal(kBF16, {N, C});
                     const auto gamma = make.normal(kBF16, {C}), dgamma = make.zeros(kF32, {C});
                     const auto dbeta = centred ? make.zeros(kF32, {C}) : TensorView();
                     const auto stats = make.zeros(kF32, {N, 2});
                     auto& k = make.kernels();
                     k.norm_forward(kind, y, {}, stats, r, {}, gamma, {}, 1e-5);
                     return
                         [=, &k] { k.norm_backward(kind, dr, dgamma, dbeta, dy, r, stats, gamma); };
                   }});
}

void add_activation(std::vector<KernelCase>& cases, const ModelSizes& s) {
  const auto N = s.N(), F = s.F;
  const double one = 2 * real(N * F);
  const auto shape = fmt::format("[{}, {}]", N, F);
  if (!s.llama) {
    cases.push_back({"gelu_forward", shape, 2 * one, 0, [=](Operands& make) -> Call {
                       const auto y = make.normal(kBF16, {N, F}), x = make.normal(kBF16, {N, F});
                       return [=, &k = make.kernels()] { k.gelu_forward(y, x); };
                     }});
    cases.push_back({"gelu_backward", shape, 3 * one, 0, [=](Operands& make) -> Call {
                       const auto dx = make.normal(kBF16, {N, F}), dy = make.normal(kBF16, {N, F});
                       const auto x = make.normal(kBF16, {N, F});
                       return [=, &k = make.kernels()] { k.gelu_backward(dx, dy, x); };
                     }});
    return;
  }
  const auto halves = [F](TensorView packed) {
    return std::pair(packed.slice(1, 0, F), packed.slice(1, F, F));
  };
  cases.push_back({"swiglu_forward", shape, 3 * one, 0, [=](Operands& make) -> Call {
                     const auto y = make.normal(kBF16, {N, F});
                     const auto [gate, up] = halves(make.normal(kBF16, {N, 2 * F}));
                     return [=, gate = gate, up = up, &k = make.kernels()] {
                       k.swiglu_forward(y, gate, up);
                     };
                   }});
  cases.push_back({"swiglu_backward", shape, 5 * one, 0, [=](Operands& make) -> Call {
                     const auto dy = make.normal(kBF16, {N, F});
                     const auto [gate, up] = halves(make.normal(kBF16, {N, 2 * F}));
                     const auto [dgate, dup] = halves(make.normal(kBF16, {N, 2 * F}));
                     return [=, gate = gate, up = up, dgate = dgate, dup = dup,
                             &k = make.kernels()] { k.swiglu_backward(dgate, dup, dy, gate, up); };
                   }});
}

// In the program's own layout: q, k and v are views of one packed activation.
void add_attention(std::vector<KernelCase>& cases, const ModelSizes& s) {
  const auto shape = fmt::format("{} x {}, {} heads on {} of {}", s.B, s.T, s.H, s.K, s.D);
  struct Heads {
    TensorView q, k, v;
  };
  const auto split = [s](TensorView packed) {
    const auto part = [&](std::int64_t first, std::int64_t heads) {
      return packed.slice(1, first * s.D, heads * s.D).split_last(s.D).split_first(s.B);
    };
    return Heads{part(0, s.H), part(s.H, s.K), part(s.H + s.K, s.K)};
  };
  const auto width = (s.H + 2 * s.K) * s.D;
  model::AttentionShape mask;
  mask.scale = 1.0 / std::sqrt(real(s.D));
  mask.seq = s.T;
  const auto N = s.N();
  if (s.llama) {
    cases.push_back({"rope", fmt::format("[{}, {}, {}]", N, s.H + s.K, s.D),
                     2 * 2 * real(N * (s.H + s.K) * s.D), 0, [=](Operands& make) -> Call {
                       const auto packed = make.normal(kBF16, {N, width});
                       const auto x = packed.slice(1, 0, (s.H + s.K) * s.D).split_last(s.D);
                       const auto at = make.positions(N, s.T);
                       return [=, &k = make.kernels()] { k.rope(x, at, 500000, false); };
                     }});
  }
  // A product of a query and the keys it sees: (T + 1) / 2 of them on average.
  const double product = 2.0 * real(s.B * s.H * s.D) * real(s.T) * (real(s.T) + 1) / 2;
  const double qkv = 2 * real(N * width), out = 2 * real(N * s.H * s.D);
  const double sums = 4 * real(N * s.H);
  cases.push_back(
      {"attention_forward", shape, qkv + out + sums, 2 * product, [=](Operands& make) -> Call {
         const auto h = split(make.normal(kBF16, {N, width}));
         const auto o = make.normal(kBF16, {s.B, s.T, s.H, s.D});
         const auto lse = make.zeros(kF32, {s.B, s.H, s.T});
         return [=, &k = make.kernels()] { k.attention_forward(o, lse, h.q, h.k, h.v, mask, {}); };
       }});
  // Five products: the scores once more, and the gradients of v, p, q and k.
  cases.push_back({"attention_backward", shape, 2 * qkv + 2 * out + sums, 5 * product,
                   [=](Operands& make) -> Call {
                     const auto h = split(make.normal(kBF16, {N, width}));
                     const auto d = split(make.normal(kBF16, {N, width}));
                     const auto o = make.normal(kBF16, {s.B, s.T, s.H, s.D});
                     const auto d_o = make.normal(kBF16, {s.B, s.T, s.H, s.D});
                     const auto lse = make.zeros(kF32, {s.B, s.H, s.T});
                     auto& k = make.kernels();
                     k.attention_forward(o, lse, h.q, h.k, h.v, mask, {});
                     return [=, &k] {
                       k.attention_backward(d.q, d.k, d.v, d_o, h.q, h.k, h.v, o, lse, mask, {},
                                            /*accumulate=*/false);
                     };
                   }});
}

void add_embedding_and_loss(std::vector<KernelCase>& cases, const ModelSizes& s) {
  const auto N = s.N();
  const auto words = word_ids(N, s.V);
  const auto different = real(std::ssize(std::unordered_set(words.begin(), words.end())));
  const double rows = s.llama ? different : different + real(s.T);  // of tables
  const auto shape = fmt::format("[{}, {}], {} ids of {}", N, s.C, different, s.V);
  cases.push_back({"embedding_forward", shape, 2 * real(s.C) * (real(N) + rows), 0,
                   [=](Operands& make) -> Call {
                     const auto x = make.normal(kBF16, {N, s.C});
                     const auto table = make.normal(kBF16, {s.V, s.C});
                     const auto where = s.llama ? TensorView() : make.normal(kBF16, {s.T, s.C});
                     const auto ids = make.ids(words), at = make.positions(N, s.T);
                     return [=, &k = make.kernels()] {
                       k.embedding_forward(x, ids, at, table, where, 0);
                     };
                   }});
  cases.push_back({"embedding_backward", shape, real(s.C) * (2 * real(N) + 8 * rows), 0,
                   [=](Operands& make) -> Call {
                     const auto dx = make.normal(kBF16, {N, s.C});
                     const auto table = make.zeros(kF32, {s.V, s.C});
                     const auto where = s.llama ? TensorView() : make.zeros(kF32, {s.T, s.C});
                     const auto ids = make.ids(words), at = make.positions(N, s.T);
                     return [=, &k = make.kernels()] {
                       k.embedding_backward(table, where, dx, ids, at, 0);
                     };
                   }});
  const auto n = s.chunk;
  cases.push_back({"cross_entropy", fmt::format("[{}, {}] fp32 to bf16", n, s.V),
                   (4 + 2) * real(n * s.V), 0, [=](Operands& make) -> Call {
                     const auto pitch = make.kernels().preferred().row_pitch(s.V);
                     const auto logits = make.normal(kF32, {n, pitch}).slice(1, 0, s.V);
                     const auto d = make.normal(kBF16, {n, pitch}).slice(1, 0, s.V);
                     const auto losses = make.zeros(DType::kF64, {n});
                     const auto targets = make.ids(word_ids(n, s.V));
                     return [=, &k = make.kernels()] {
                       k.cross_entropy(losses, d, logits, targets, 1e-4);
                     };
                   }});
}

// The update, and what is done over all gradients: on the parameters of one block, as many tensors.
void add_update(std::vector<KernelCase>& cases, const ModelSizes& s) {
  const std::vector<std::int64_t> parts{(s.H + 2 * s.K) * s.D * s.C,
                                        s.H * s.D * s.C,
                                        (s.llama ? 2 : 1) * s.F * s.C,
                                        s.F * s.C,
                                        s.C,
                                        s.C};
  std::int64_t n = 0;
  for (const auto part : parts) n += part;
  const auto shape = fmt::format("{} parameters in {} tensors", n, parts.size());
  cases.push_back({"adamw", shape, 30 * real(n), 0, [=](Operands& make) -> Call {
                     std::vector<model::AdamWTensors> tensors;
                     for (const auto part : parts) {
                       const auto weight = make.normal(kBF16, {part});
                       const auto master = make.normal(kF32, {part});
                       const auto m = make.zeros(kF32, {part}), v = make.zeros(kF32, {part});
                       tensors.push_back({weight, master, m, v, make.normal(kF32, {part}), 0.1});
                     }
                     return [=, &k = make.kernels()] {
                       model::AdamWStep step;
                       step.lr = 1e-4;
                       k.adamw(tensors, step);
                     };
                   }});
  cases.push_back({"sum_of_squares", shape, 4 * real(n), 0, [=](Operands& make) -> Call {
                     std::vector<TensorView> grads;
                     for (const auto part : parts) grads.push_back(make.normal(kF32, {part}));
                     const auto total = make.zeros(DType::kF64, {1});
                     return [=, &k = make.kernels()] { k.sum_of_squares(total, grads); };
                   }});
  cases.push_back(
      {"fill_zero", fmt::format("{} fp32", n), 4 * real(n), 0, [=](Operands& make) -> Call {
         const auto x = make.normal(kF32, {n});
         return [=, &k = make.kernels()] { k.fill_zero(x); };
       }});
  cases.push_back(
      {"copy", fmt::format("{} fp32 to bf16", n), 6 * real(n), 0, [=](Operands& make) -> Call {
         const auto from = make.normal(kF32, {n}), to = make.normal(kBF16, {n});
         return [=, &k = make.kernels()] { k.copy(to, from); };
       }});
}

}  // namespace

std::vector<KernelCase> model_cases(const ModelSizes& s) {
  std::vector<KernelCase> cases;
  const auto N = s.N(), C = s.C;
  const auto shape = fmt::format("[{}, {}]", N, C);
  add_norm(cases, s);
  cases.push_back({"add", shape, 3 * 2 * real(N * C), 0, [=](Operands& make) -> Call {
                     const auto y = make.zeros(kBF16, {N, C}), x = make.normal(kBF16, {N, C});
                     return [=, &k = make.kernels()] { k.add(y, x); };
                   }});
  // So few that the values stay what they are however often they are scaled; the work is the same.
  cases.push_back({"dropout", shape, 2 * 2 * real(N * C), 0, [=](Operands& make) -> Call {
                     const auto x = make.normal(kBF16, {N, C});
                     std::vector<std::int64_t> samples(static_cast<std::size_t>(s.B));
                     for (std::size_t i = 0; i < samples.size(); ++i) {
                       samples[i] = static_cast<std::int64_t>(i);
                     }
                     return [=, &k = make.kernels()] {
                       model::Dropout dropout;
                       dropout.rate = 1e-4;
                       dropout.key = comm::random_key(1, "bench/dropout");
                       dropout.samples = samples;
                       k.dropout(x, dropout);
                     };
                   }});
  add_activation(cases, s);
  add_embedding_and_loss(cases, s);
  add_update(cases, s);
  add_attention(cases, s);

  add_linear(cases, "q, k, v", N, C, (s.H + 2 * s.K) * s.D, !s.llama);
  add_linear(cases, "attention's output", N, s.H * s.D, C, !s.llama);
  add_linear(cases, s.llama ? "gate and up" : "up", N, C, (s.llama ? 2 : 1) * s.F, !s.llama);
  add_linear(cases, "down", N, s.F, C, !s.llama);
  add_linear(cases, "head", s.chunk, C, s.V, false, kF32);
  if (!s.llama) {
    const auto both = fmt::format("up: {} rows, {} to {}", N, C, s.F);
    const double bytes = 2 * real(N * C + s.F * C + 2 * N * s.F);
    const double flops = 2.0 * real(N) * real(C) * real(s.F);
    cases.push_back(
        {"linear_gelu_forward", both, bytes, flops, [=](Operands& make) -> Call {
           const auto y = make.normal(kBF16, {N, s.F}), h = make.normal(kBF16, {N, s.F});
           const auto x = make.normal(kBF16, {N, C}), b = make.normal(kBF16, {s.F});
           const auto w = make.normal(kBF16, {s.F, C});
           return [=, &k = make.kernels()] { k.linear_gelu_forward(y, h, x, w, b); };
         }});
    cases.push_back(
        {"linear_gelu_backward_input", both, bytes, flops, [=](Operands& make) -> Call {
           const auto dh = make.normal(kBF16, {N, s.F}), h = make.normal(kBF16, {N, s.F});
           const auto dy = make.normal(kBF16, {N, C});
           const auto w = make.normal(kBF16, {C, s.F});
           return [=, &k = make.kernels()] { k.linear_gelu_backward_input(dh, dy, w, h); };
         }});
  }
  for (auto& c : cases) c.shape = s.name + ", " + c.shape;
  return cases;
}

std::vector<KernelCase> expert_cases(const ExpertSizes& s) {
  std::vector<KernelCase> cases;
  const auto N = s.N, C = s.C, E = s.E, A = s.N * s.top_k;
  // Which row of the experts' input each pair (token, expert) is.
  const auto rows_of = [=](Operands& make) {
    const auto probs = make.normal(kF32, {N, E});
    const auto chosen = make.zeros(DType::kU8, {N, E}), rows = make.zeros(DType::kI32, {N, E});
    std::vector<std::int64_t> counts(static_cast<std::size_t>(E));
    make.kernels().moe_choose_experts(chosen, probs, {}, s.top_k);
    make.kernels().moe_rows(rows, counts, chosen);
    return rows;
  };
  const auto shape = fmt::format("{}, {} of {} tokens, {} wide", s.name, A, N, C);
  const double bytes = 2 * real(N * C) + 2 * real(A * C) + 4 * real(N * E);
  cases.push_back({"moe_dispatch", shape, bytes, 0, [=](Operands& make) -> Call {
                     const auto to = make.normal(kBF16, {A, C}), x = make.normal(kBF16, {N, C});
                     const auto rows = rows_of(make);
                     return [=, &k = make.kernels()] { k.moe_dispatch(to, x, rows, {}); };
                   }});
  cases.push_back({"moe_combine", shape, bytes + 4 * real(A), 0, [=](Operands& make) -> Call {
                     const auto y = make.normal(kBF16, {N, C}), from = make.normal(kBF16, {A, C});
                     const auto rows = rows_of(make), gates = make.normal(kF32, {N, E});
                     return [=, &k = make.kernels()] {
                       k.moe_combine(y, from, rows, gates, /*accumulate=*/false);
                     };
                   }});
  cases.push_back(
      {"moe_gate_gradient", shape, bytes + 4 * real(N * E), 0, [=](Operands& make) -> Call {
         const auto d = make.zeros(kF32, {N, E}), dy = make.normal(kBF16, {N, C});
         const auto from = make.normal(kBF16, {A, C}), rows = rows_of(make);
         return [=, &k = make.kernels()] { k.moe_gate_gradient(d, dy, from, rows); };
       }});

  // Experts that are asked for alike.
  const auto O = 2 * s.F;
  std::vector<std::int64_t> begin(static_cast<std::size_t>(E + 1));
  for (std::int64_t e = 0; e <= E; ++e) begin[static_cast<std::size_t>(e)] = A * e / E;
  const auto each = [E](TensorView all) {
    std::vector<TensorView> views;
    for (std::int64_t e = 0; e < E; ++e) {
      views.push_back(all.slice(0, e, 1).reshape({all.dim(1), all.dim(2)}));
    }
    return views;
  };
  const auto grouped =
      fmt::format("{}, gate and up: {} rows of {} experts, {} to {}", s.name, A, E, C, O);
  const double flops = 2.0 * real(A) * real(C) * real(O);
  const double in = 2 * real(A * C), out = 2 * real(A * O), weights = 2 * real(E * O * C);
  cases.push_back(
      {"grouped_linear_forward", grouped, in + out + weights, flops, [=](Operands& make) -> Call {
         const auto y = make.normal(kBF16, {A, O}), x = make.normal(kBF16, {A, C});
         const auto w = each(make.normal(kBF16, {E, O, C}));
         return [=, &k = make.kernels()] { k.grouped_linear_forward(y, x, w, {}, begin); };
       }});
  cases.push_back({"grouped_linear_backward_input", grouped, in + out + weights, flops,
                   [=](Operands& make) -> Call {
                     const auto dx = make.normal(kBF16, {A, C}), dy = make.normal(kBF16, {A, O});
                     const auto w = each(make.normal(kBF16, {E, O, C}));
                     return [=, &k = make.kernels()] {
                       k.grouped_linear_backward_input(dx, dy, w, begin);
                     };
                   }});
  cases.push_back({"grouped_linear_backward_weight", grouped, in + out + 4 * weights, flops,
                   [=](Operands& make) -> Call {
                     const auto dw = each(make.zeros(kF32, {E, O, C}));
                     const auto dy = make.normal(kBF16, {A, O}), x = make.normal(kBF16, {A, C});
                     return [=, &k = make.kernels()] {
                       k.grouped_linear_backward_weight(dw, {}, dy, x, begin);
                     };
                   }});
  return cases;
}

}  // namespace pg::bench

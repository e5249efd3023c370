// The contract between layers and devices: one declaration per operation, one implementation per
// backend (kernels/cpu, kernels/cuda, and kernels/dry, which computes nothing and lets a dry
// run measure memory). A layer never asks which device it runs on.
//
// Letters: N tokens of a micro-batch (B*T), B sequences, T positions, C hidden, H query heads, K
// key/value heads, D head size, F feed-forward width, V vocabulary. Views are row-major with
// contiguous last axis; "dx" means the gradient of the loss with respect to x. Storage is fp64,
// fp32 or bf16 ("the compute type"); sums, statistics and parameter gradients are in its
// accumulator type (fp64 for fp64, else fp32: pg::accumulator_of). Parameter gradients are added to
// (+=), activation gradients are assigned unless it says otherwise. Every operation gives the same
// bits on each call with the same thread count, wherever its operands lie (a product: with the same
// strides), so recomputed activations are those of the first pass. Shapes that do not fit are bugs:
// PG_ASSERT with both shapes.
//
// A rank may hold a piece of the whole: some heads, some rows of the token stream, some rows of the
// vocabulary. Operations whose result depends on which piece take its first global index (first_*);
// the defaults mean "all of it".
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "comm/gpu.h"
#include "comm/random.h"
#include "model/config.h"
#include "model/tensor.h"

namespace pg::model {

// Inverted dropout: element e of sequence b survives when bits(key, samples[b], e) / 2^32 >= rate,
// and is then divided by (1 - rate). `samples` are global sequence numbers of the whole run and e
// counts in the whole sequence over all heads, so a mask depends on neither rank, piece nor
// micro-batch. rate 0: no-op, nothing else is read.
struct Dropout {
  double rate = 0.0;
  comm::RandomKey key;
  std::span<const std::int64_t> samples;  // [B], host memory
  // dropout() alone: x holds rows [first_row, first_row + n) of the whole [B*T, C] with T = seq;
  // seq 0: x is the whole, n = B*T.
  std::int64_t first_row = 0, seq = 0;
  // dropout() alone, int32 [B*T]: where in its sequence each row of the whole stands, when a rank
  // holds parts of sequences; empty: row R stands at R % T.
  TensorView positions{};
  std::int64_t first_head = 0;  // attention alone: the global number of local query head 0
};

// Queries and keys are runs of consecutive positions of one sequence: local query i stands at
// first_query + i, local key j at first_key + j. Query p sees key s when s <= p, p - s < window (if
// there is one), and s >= visible_from of the query.
struct AttentionShape {
  double scale = 1.0;       // of q . k, usually 1 / sqrt(D)
  std::int64_t window = 0;  // a query sees the last `window` positions, itself included; 0: all
  std::int64_t first_query = 0, first_key = 0;
  std::int64_t seq = 0;  // length of the whole sequence, which dropout counts in; 0: that of k
  // int32 [B, queries] (rows may be strided): where the query's document begins; empty: at 0.
  TensorView visible_from{};
};

// One parameter's flat views [n]: m, v, grad and master in the accumulator type; `master` is empty
// when weight itself has that type, else weight = round(master).
struct AdamWTensors {
  TensorView weight, master, m, v, grad;
  double weight_decay = 0.0;
};

struct AdamWStep {
  double lr = 0.0, beta1 = 0.9, beta2 = 0.95, eps = 1e-8;
  double grad_scale = 1.0;  // gradients are multiplied by this first (clipping)
  std::int64_t step = 1;    // counts from 1, for the bias correction
};

// Sizes that layers are free to choose, as a backend likes them; never a matter of results beyond
// the order of sums.
struct PreferredSizes {
  // Elements from one row of a product's operand to the next: a multiple of this.
  std::int64_t row_multiple = 1;
  // Of the logits that exist at a time.
  std::int64_t logits_bytes = std::int64_t{64} << 20;

  constexpr std::int64_t row_pitch(std::int64_t elements) const {
    return (elements + row_multiple - 1) / row_multiple * row_multiple;
  }
};

// On a GPU: products are several times slower on rows that do not begin at multiples of 16 bytes,
// which a vocabulary of 50,257 would give them. Each chunk of logits reads and writes the gradient
// of the whole table once, 8 bytes an element under bf16, which takes an H100 as long as the three
// products of 330 tokens; hence fewer and larger ones than on a CPU.
constexpr PreferredSizes preferred_sizes(Device device) {
  if (device == Device::kCuda) return {.row_multiple = 64, .logits_bytes = std::int64_t{1} << 30};
  return {};
}

class Kernels {
 public:
  virtual ~Kernels() = default;
  // For allocations and what crosses from one memory to another.
  virtual Device device() const = 0;
  PreferredSizes preferred() const { return preferred_sizes(device()); }

  // -- what a backend chooses by itself, for the run's records and its banner --------------------

  // Choices made by measuring, as text that set_choices() of a later run takes over, so that it
  // computes the same bits. Empty: there are none. set_choices returns why it took none, a note for
  // the user, or nothing.
  virtual std::string choices_text() const { return {}; }
  virtual std::string set_choices(std::string_view /*text*/) { return {}; }
  // Which of its attention kernels takes a training step's [B,T] of H query and K key heads of size
  // D: "cuDNN 9.19.0". Empty: there is only one.
  struct AttentionUse {
    DType type = DType::kF32;
    std::int64_t sequences = 0, positions = 0, heads = 0, kv_heads = 0, head_dim = 0, window = 0;
    bool documents = false, dropout = false;
  };
  virtual std::string attention_choice(const AttentionUse& /*use*/) { return {}; }

  // -- memory ------------------------------------------------------------------------------------
  virtual void fill_zero(TensorView x) = 0;
  // Same shape; converts the type. Between the host and the GPU: contiguous and of one type. To the
  // host it is complete on return; from the host, memory that is page-locked must stay as it is
  // until the GPU has been read next.
  virtual void copy(TensorView to, TensorView from) = 0;
  virtual void add(TensorView inout, TensorView x) = 0;  // inout += x, same shape and type

  // -- linear ------------------------------------------------------------------------------------
  // y[N,O] = x[N,I] w[O,I]^T + bias[O]; bias may be empty.
  virtual void linear_forward(TensorView y, TensorView x, TensorView w, TensorView bias) = 0;
  // The same and its GELU in one pass: h = x w^T + bias, y = gelu(h).
  virtual void linear_gelu_forward(TensorView y, TensorView h, TensorView x, TensorView w,
                                   TensorView bias) {
    linear_forward(h, x, w, bias);
    gelu_forward(y, h);
  }
  // dx[N,I] = dy[N,O] w[O,I]; added to dx when `accumulate`.
  virtual void linear_backward_input(TensorView dx, TensorView dy, TensorView w,
                                     bool accumulate) = 0;
  // dh[N,I] = gradient through gelu(h) of dy w.
  virtual void linear_gelu_backward_input(TensorView dh, TensorView dy, TensorView w,
                                          TensorView h) {
    linear_backward_input(dh, dy, w, /*accumulate=*/false);
    gelu_backward(dh, dh, h);
  }
  // dw[O,I] += dy[N,O]^T x[N,I]; dbias[O] += sum over N of dy, unless empty. Accumulator type.
  virtual void linear_backward_weight(TensorView dw, TensorView dbias, TensorView dy,
                                      TensorView x) = 0;
  // Weights may be cached in a layout the products like; call this after any of them changed.
  virtual void weights_changed() = 0;
  // The same for weights in the memory of `range` (contiguous, any type) alone: other cached copies
  // stay. For parameters that are gathered again and again into reused memory (ZeRO stage 3).
  virtual void weights_changed(TensorView range) = 0;

  // -- normalisation, with the residual add fused in ---------------------------------------------
  // r[N,C] = residual[N,C] + x[N,C] (r may alias residual; x empty: r is not written and residual
  // is normalised); y = norm(r) * gamma[C] + beta[C] (beta only for LayerNorm, may be empty).
  // RMSNorm (Zhang & Sennrich 2019): y = r / sqrt(mean(r^2) + eps). stats[N,2] (accumulator type)
  // keeps (mean, 1/std); the mean is 0 for RMSNorm.
  virtual void norm_forward(NormKind kind, TensorView y, TensorView r, TensorView stats,
                            TensorView residual, TensorView x, TensorView gamma, TensorView beta,
                            double eps) = 0;
  // dr[N,C] (in: the gradient of r from the residual stream) += d(norm)/dr; dgamma, dbeta (may be
  // empty) are added to. r is the normalised input that forward saw.
  virtual void norm_backward(NormKind kind, TensorView dr, TensorView dgamma, TensorView dbeta,
                             TensorView dy, TensorView r, TensorView stats, TensorView gamma) = 0;

  // -- position, attention
  // ------------------------------------------------------------------------- Rotary embedding in
  // place (Su et al. 2021) in Llama's half-split form: x[N,H,D], pair (d, d + D/2) turned by
  // positions[N] (int32) * theta^(-2d/D). `inverse` turns back: that is the backward.
  virtual void rope(TensorView x, TensorView positions, double theta, bool inverse) = 0;
  // o[B,Q,H,D] = softmax(scale q k^T, masked) v for q[B,Q,H,D], k and v[B,S,K,D], Q queries and S
  // keys; query head h reads key head h / (H/K). lse[B,H,Q] (accumulator type) is the log-sum-exp
  // of the scaled scores. A query that sees none of these keys has o = 0 and lse = -inf. o is of
  // q's type or its accumulator type. Blocked with online softmax (Dao et al. 2022): no Q x S
  // object. Dropout acts on the normalised probabilities; element index
  // ((first_head + h)*seq + query's position)*seq + key's position.
  virtual void attention_forward(TensorView o, TensorView lse, TensorView q, TensorView k,
                                 TensorView v, const AttentionShape& shape,
                                 const Dropout& dropout) = 0;
  // o[B,Q,H,D] and lse[B,H,Q] of some keys, and the same of others, become those of all: o and
  // lse are replaced. All in the accumulator type (Liu et al. 2023, ring attention).
  virtual void attention_merge(TensorView o, TensorView lse, TensorView other_o,
                               TensorView other_lse) = 0;
  // Gradients by these keys alone; o and lse are those of all the keys that the queries see. dq,
  // dk, dv are of q's type or its accumulator type; with `accumulate` they are added to.
  virtual void attention_backward(TensorView dq, TensorView dk, TensorView dv, TensorView d_o,
                                  TensorView q, TensorView k, TensorView v, TensorView o,
                                  TensorView lse, const AttentionShape& shape,
                                  const Dropout& dropout, bool accumulate = false) = 0;

  // -- mixture of experts: routing ---------------------------------------------------------------

  // E experts. A micro-batch's routing is dense arrays over [N,E], of which a token's few entries
  // count; N = B*R tokens in order, R of each sequence. Probabilities, gates and their gradients
  // are in the accumulator type, masks are uint8, statistics fp64.

  // logits[N,E] = x[N,C] w[E,C]^T, computed in the accumulator type whatever x and w are stored in.
  virtual void moe_logits(TensorView logits, TensorView x, TensorView w) = 0;
  // dw[E,C] += dlogits^T x; dx[N,C] (of x's type) += dlogits w, unless empty.
  virtual void moe_logits_backward(TensorView dx, TensorView dw, TensorView dlogits, TensorView x,
                                   TensorView w) = 0;
  // probs[N,E] = softmax of logits[N,E] over the experts; lse[N] = its log-sum-exp.
  virtual void moe_softmax(TensorView probs, TensorView lse, TensorView logits) = 0;
  // dlogits[N,E] = gradient of sum(dprobs * probs) + z_scale * sum(lse^2):
  // p (dp - sum_e p dp) + 2 z_scale lse p.
  virtual void moe_softmax_backward(TensorView dlogits, TensorView dprobs, TensorView probs,
                                    TensorView lse, double z_scale) = 0;
  // Token choice: chosen[N,E] = 1 at the k experts of the largest probs + bias, ties to the lowest
  // expert; bias[E] may be empty.
  virtual void moe_choose_experts(TensorView chosen, TensorView probs, TensorView bias,
                                  std::int64_t k) = 0;
  // Expert choice (Zhou et al. 2022): chosen[B,T,E] = 1 at the `count` tokens t of each sequence
  // with the largest scores[B,T,E] for expert e, ties to the lowest position. Scores are compared
  // after rounding to half of their significant bits: a token that is repeated at the start of a
  // sequence has equal scores in exact arithmetic, and rounding, which differs by grid, must not
  // choose between them. Whole sequences in true order.
  virtual void moe_choose_tokens(TensorView chosen, TensorView scores, std::int64_t count) = 0;
  // counts[B,E] (fp64) = set entries of mask[B,R,E] (strided rows allowed) of each sequence.
  virtual void moe_count(TensorView counts, TensorView mask) = 0;
  // Clears mask[B,R,E] (strided rows allowed) wherever `capacity` or more tokens of the sequence
  // asked for the expert before: before[B,E] (fp64) ahead of this run, and those of the run itself,
  // in order.
  virtual void moe_drop(TensorView mask, TensorView before, std::int64_t capacity) = 0;
  // stats[B,2E+1] (fp64): for each sequence the set entries of chosen[N,E] by expert, the sums of
  // probs[N,E] by expert, the sum of lse[N]^2.
  virtual void moe_statistics(TensorView stats, TensorView chosen, TensorView probs,
                              TensorView lse) = 0;
  // gates[N,E] = probs where chosen, over their sum over the chosen when `renormalize`; 0 where not
  // chosen and where not kept (kept is a subset of chosen; the sum is over all the chosen).
  virtual void moe_gates(TensorView gates, TensorView probs, TensorView chosen, TensorView kept,
                         bool renormalize) = 0;
  // dprobs[N,E] += gradient through moe_gates of dgates[N,E] (read where kept).
  virtual void moe_gates_backward(TensorView dprobs, TensorView dgates, TensorView probs,
                                  TensorView chosen, TensorView kept, bool renormalize) = 0;
  // dprobs[N,E] += factor * counts[b,e] for the tokens of sequence b; counts[B,E] (fp64, rows may
  // be strided). The gradient of a load-balance loss by the probabilities.
  virtual void moe_balance_backward(TensorView dprobs, TensorView counts, double factor) = 0;
  // losses[B,1] (fp64) = factor * sum_e counts[b,e] * sums of probs[b,e] of stats[B,2E+1].
  virtual void moe_balance_loss(TensorView losses, TensorView stats, double factor) = 0;
  // sums[W] += over rows of x[B,W] (rows may be strided); fp64.
  virtual void sum_rows(TensorView sums, TensorView x) = 0;

  // -- mixture of experts: moving tokens ---------------------------------------------------------

  // rows[N,E] (int32): the rank of each kept pair (token, expert) when sorted by expert, then by
  // token; -1 where kept is 0. counts[E] (host): pairs of each expert; complete on return.
  virtual void moe_rows(TensorView rows, std::span<std::int64_t> counts, TensorView kept) = 0;
  // Row rows[n,e] of to[A,C] = x[n,C], times gates[n,e] unless gates is empty.
  virtual void moe_dispatch(TensorView to, TensorView x, TensorView rows, TensorView gates) = 0;
  // y[N,C] = sum over e in ascending order of from[rows[n,e]], each times gates[n,e] unless gates
  // is empty; summed in the accumulator type; y += with `accumulate`. A token without a row: 0.
  virtual void moe_combine(TensorView y, TensorView from, TensorView rows, TensorView gates,
                           bool accumulate) = 0;
  // dgates[N,E] = dy[n] . from[rows[n,e]], 0 where there is no row.
  virtual void moe_gate_gradient(TensorView dgates, TensorView dy, TensorView from,
                                 TensorView rows) = 0;

  // -- grouped products --------------------------------------------------------------------------

  // G experts, one weight each: rows [begin[g], begin[g+1]) of x[R,I] meet w[g][O,I]; begin has G+1
  // ascending entries from 0 to R, groups may be empty. `bias` and `dbias` are empty or have G
  // entries. Otherwise as linear_*. A row's result depends on no other row, nor on where in its
  // group it stands: bitwise.
  virtual void grouped_linear_forward(TensorView y, TensorView x, std::span<const TensorView> w,
                                      std::span<const TensorView> bias,
                                      std::span<const std::int64_t> begin) = 0;
  virtual void grouped_linear_backward_input(TensorView dx, TensorView dy,
                                             std::span<const TensorView> w,
                                             std::span<const std::int64_t> begin) = 0;
  virtual void grouped_linear_backward_weight(std::span<const TensorView> dw,
                                              std::span<const TensorView> dbias, TensorView dy,
                                              TensorView x,
                                              std::span<const std::int64_t> begin) = 0;

  // -- feed-forward activations
  // ---------------------------------------------------------------------- y[N,F] = silu(gate) *
  // up, both [N,F] views of packed [N,2F].
  virtual void swiglu_forward(TensorView y, TensorView gate, TensorView up) = 0;
  virtual void swiglu_backward(TensorView dgate, TensorView dup, TensorView dy, TensorView gate,
                               TensorView up) = 0;
  // GELU by tanh (Hendrycks & Gimpel 2016), as GPT-2 uses it.
  virtual void gelu_forward(TensorView y, TensorView x) = 0;
  virtual void gelu_backward(TensorView dx, TensorView dy, TensorView x) = 0;  // dx may be dy

  // -- dropout
  // -----------------------------------------------------------------------------------------
  // x[n,C] in place, its own backward. Row i is row R = first_row + i of the whole [B*T, C], B =
  // samples.size(): element index (R % T)*C + channel of sequence samples[R / T]. The rows may
  // begin and end inside sequences; they must lie in [0, B*T).
  virtual void dropout(TensorView x, const Dropout& dropout) = 0;

  // -- embedding
  // -----------------------------------------------------------------------------------------
  // x[N,C] = token_table[V,C][tokens[N] - first_id] + position_table[P,C][positions[N]];
  // position_table may be empty. The token table holds the rows of vocabulary ids [first_id,
  // first_id + V), V >= 1; an id outside contributes zeros, so that the sum over the ranks of a
  // split vocabulary is the whole embedding (the positions' rows then belong to one rank alone).
  // tokens, positions: int32, already checked to be in the whole vocabulary and in range of P.
  virtual void embedding_forward(TensorView x, TensorView tokens, TensorView positions,
                                 TensorView token_table, TensorView position_table,
                                 std::int64_t first_id = 0) = 0;
  // Adds into both tables' gradients (the second may be empty), in token order: deterministic. An
  // id outside the token table adds nothing to it.
  virtual void embedding_backward(TensorView d_token_table, TensorView d_position_table,
                                  TensorView dx, TensorView tokens, TensorView positions,
                                  std::int64_t first_id = 0) = 0;

  // -- loss
  // ------------------------------------------------------------------------------------------------
  // For each row of logits[n,V] (accumulator type): losses[n] (fp64) = log-sum-exp - logit of
  // targets[n] (int32), 0 where the target is -1 (ignored). dlogits[n,V] (any type, may alias
  // logits when the types agree, may be empty) = scale * (softmax - onehot), 0 in ignored rows.
  virtual void cross_entropy(TensorView losses, TensorView dlogits, TensorView logits,
                             TensorView targets, double scale) = 0;

  // The same over a vocabulary split between R ranks in rows of any width (Shoeybi et al. 2019,
  // section 3): stats of the local columns, an all-gather, combine, gradient of the local columns.
  // A NaN or +inf in any rank's part of a row makes its loss, and its gradient on all ranks, NaN.
  // logits[n,w] are the columns of ids [first_id, first_id + w); stats[n,3] (fp64) = their maximum,
  // the sum of exp(x - maximum), and the logit of targets[n] (whole vocabulary's id) if it is one
  // of them, else 0. NaN never is the maximum but enters the sum; only -inf: (-inf, 0).
  virtual void cross_entropy_stats(TensorView stats, TensorView logits, TensorView targets,
                                   std::int64_t first_id) = 0;
  // all_stats[R,n,3] in rank order -> losses[n] (fp64), 0 where the target is ignored, and
  // merged[n,2] (fp64): the maximum over all ranks and the sum relative to it.
  virtual void cross_entropy_combine(TensorView losses, TensorView merged, TensorView all_stats,
                                     TensorView targets) = 0;
  // dlogits[n,w] (any type, may alias logits when the types agree) = scale * (exp(x - maximum) /
  // sum - onehot), 0 in ignored rows.
  virtual void cross_entropy_gradient(TensorView dlogits, TensorView logits, TensorView merged,
                                      TensorView targets, std::int64_t first_id, double scale) = 0;

  // -- reductions and the optimizer
  // --------------------------------------------------------------------------- Flat views. Both
  // sum in fp64 in fixed blocks, independent of the thread count, and add to total[1] (fp64).
  virtual void sum(TensorView total, TensorView x) = 0;
  virtual void sum_of_squares(TensorView total, std::span<const TensorView> parts) = 0;
  // AdamW (Loshchilov & Hutter 2019) over all these parameters, which share one compute type.
  virtual void adamw(std::span<const AdamWTensors> tensors, const AdamWStep& step) = 0;
};

// Computes on the host. `threads` OpenMP threads (0: what OpenMP would take).
std::unique_ptr<Kernels> make_cpu_kernels(int threads);
// cuDNN's attention keeps the gradient of the scores as a whole for its deterministic backward
// (seen with 9.19 on an H100): bf16 [sequences, heads, positions, positions], and a little more. A
// call for which it wants more than this is made by our own kernel, which needs next to none. (4
// GiB are 32 heads of one sequence of 8,192; this lies between those of 40 and of 48.)
inline constexpr std::int64_t kMostAttentionWorkspace = std::int64_t{11} << 29;
// Computes on `gpu`, which must outlive it, in order on its compute stream: every operation returns
// at once, except moe_rows and copies to the host. A bug in a build without CUDA.
std::unique_ptr<Kernels> make_cuda_kernels(comm::Gpu& gpu);
// Computes nothing: for dry runs that measure memory.
std::unique_ptr<Kernels> make_dry_kernels(Device device = Device::kCpu);

}  // namespace pg::model

// Matrix products by cuBLASLt, with bf16 operands summed in fp32, fp32 in true fp32 (no TF32) and
// fp64, bias and GELU in the product's epilogue, and the choice among cuBLASLt's candidates made
// once for each kind of product.
//
// What is guaranteed: one kind of product (types, sizes, strides, transposes, epilogue, alignment
// up to 16 bytes) takes one algorithm as long as the object lives, so its bits are the same at
// every call, wherever the operands lie. With choices kept from another run on this kind of GPU and
// this cuBLASLt (choices_text, set_choices) they are that run's. Without kept choices: the
// heuristics' first where nothing is timed, which is the same in every run; or the fastest of a few
// that are timed at their first use, which may differ from run to run and from rank to rank, as
// what else runs on the GPU disturbs the clock. Partial sums are never held in less than the type
// that products accumulate in, and never meet by atomics; a product with an epilogue, or one
// that is added to bf16, is not split (cuBLASLt 13 rounds some split ones to the result's type
// before it adds the bias).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "comm/gpu.h"
#include "model/tensor.h"

namespace pg::model::cuda {

enum class Gelu { kNone, kForward, kBackward };

// An axis whose size differs from call to call and must not influence the algorithm, which is then
// one that takes any size and does not split the sum: with kRows (of c) a row's bits depend on no
// other row; with kTerms (of each sum) a new number of them needs no new choice.
enum class Varies { kNothing, kRows, kTerms };

// c[M,N] (+)= a'[M,K] b'[K,N] + bias[N], where a' and b' are the stored matrices or their
// transposes, with rows that may be strided. a and b of one type, c of it or its accumulator type;
// bias of c's type, 16-byte aligned.
struct Product {
  TensorView c, a, b;
  TensorView bias{};         // or empty
  bool transpose_a = false;  // a is stored [K,M]
  bool transpose_b = false;  // b is stored [N,K]
  bool accumulate = false;   // c += instead of c =
  // kForward: aux[M,N] = the right-hand side, c = gelu(aux); kBackward: c = gelu'(aux) times it.
  // GELU by tanh. See gelu_fits().
  Gelu gelu = Gelu::kNone;
  TensorView aux{};
  Varies varies = Varies::kNothing;
};

// Whether cuBLASLt may be asked for `product` with its GELU: bf16 throughout, aux 16-byte aligned
// with rows of a multiple of 8 elements.
bool gelu_fits(const Product& product);

struct MatmulPolicy {
  int candidates = 8;  // that the heuristics are asked for
  int timed_runs = 3;  // of each candidate at the first use of a kind; 0: take the first, untimed
};

class CudaMatmul {
 public:
  // Timing needs room for results that it may write more than once; beyond this, or when the GPU
  // has no such room left, the heuristics' first is taken.
  static constexpr std::size_t kTimingBytes = std::size_t{4} << 30;

  explicit CudaMatmul(comm::Gpu& gpu, MatmulPolicy policy = {});
  ~CudaMatmul();

  // What run() needs as `workspace`, whatever the product: parts of split sums, for as many tiles
  // as the GPU has processors (66 MiB on an H100).
  std::size_t workspace_bytes() const;

  // `workspace` is 256-byte aligned and nobody else's on the stream meanwhile.
  // False, and nothing done: cuBLASLt has no algorithm for this product (an epilogue that it does
  // not take; without one it is an error of the environment). Later calls say the same.
  [[nodiscard]] bool run(const Product& product, void* workspace);

  // All choices made or set so far, a line for each kind, for set_choices() of another object.
  std::string choices_text() const;
  // Takes them over for kinds not met yet. Returns why not, a note for the user, when they are of
  // another GPU or another cuBLASLt or are damaged: then all are ignored. Empty: taken.
  [[nodiscard]] std::string set_choices(std::string_view text);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace pg::model::cuda

// The CPU's matrix products: oneDNN for fp32 and bf16, plain loops for fp64 (which is for proof,
// not speed).
//
// c[M,N] (+)= a'[M,K] b'[K,N] + bias[N], where a' and b' are the stored matrices or their
// transposes. Products accumulate in at least fp32. oneDNN likes the second operand in blocks of
// its own choice: a weight is reordered once and kept until `forget_packed`, anything else is
// reordered for the call.
#pragma once

#include <memory>
#include <span>

#include "model/tensor.h"

namespace pg::model {

struct MatmulArgs {
  TensorView c, a, b, bias;  // two axes each (bias one, or empty), rows may be strided
  bool transpose_a = false;  // a is stored [K,M]
  bool transpose_b = false;  // b is stored [N,K]
  bool accumulate = false;   // c += instead of c =
  bool keep_packed = false;  // b is a weight: keep its packed copy
};

class MatmulEngine {
 public:
  MatmulEngine();
  ~MatmulEngine();

  // a and b of one type; c of that type or its accumulator type. Error(kDeck) naming run.precision
  // when this processor has no product of that type.
  void run(const MatmulArgs& args);
  // Many small products with weights (keep_packed), none of which writes what another touches: each
  // is one thread's, so that its bits do not depend on the number of threads.
  void run_each(std::span<const MatmulArgs> products);
  // Weights changed: packed copies are made anew at their next use.
  void forget_packed();
  // The same for the weights that touch memory [begin, begin + bytes).
  void forget_packed(const void* begin, std::size_t bytes);
  // Bytes of packed copies held now.
  std::size_t packed_bytes() const;
  // Of those, the ones that their next use takes as they are.
  std::size_t current_bytes() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// The fp64 product, single and simple.
void matmul_f64(const MatmulArgs& args);

}  // namespace pg::model

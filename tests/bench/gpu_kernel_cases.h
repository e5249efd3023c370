// What bench_gpu_kernels times: each operation with the bytes that it must move at the least
// (every input read once, every output written once) and the arithmetic of its products.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "bench/operands.h"
#include "model/config.h"

namespace pg::bench {

using Call = std::function<void()>;

struct KernelCase {
  std::string name, shape;
  double bytes = 0;
  double flops = 0;  // of products and attention; 0: bytes are all there is to it
  // Makes one set of operands; what it returns does the operation on them.
  std::function<Call(Operands&)> prepare;
};

// The letters of model/kernels/kernels.h: sizes of one micro-batch of a model on one rank.
struct ModelSizes {
  std::string name;
  std::int64_t B, T, C, H, K, D, F, V;
  bool llama;          // RMSNorm, rotary, SwiGLU; else LayerNorm, positions, GELU, biases
  std::int64_t chunk;  // tokens whose logits there are at once
  std::int64_t N() const { return B * T; }
};
// 64 experts, 8 a token: tokens move as in OLMoE.
struct ExpertSizes {
  std::string name;
  std::int64_t N, C, F, E, top_k;
};

std::vector<KernelCase> model_cases(const ModelSizes& sizes);
std::vector<KernelCase> expert_cases(const ExpertSizes& sizes);

}  // namespace pg::bench

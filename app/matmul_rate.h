// The best matrix-product rate of this machine, measured: what model FLOP/s are compared with.
#pragma once

#include "model/kernels/kernels.h"

namespace pg::app {

// FLOP/s of products in `type` on this rank: on a CPU of [1024, 768] x [768, 3072], best of a few
// within about 0.1 s; on a GPU of square matrices that keep it busy for a millisecond. 0 for fp64,
// whose products are plain loops on the CPU.
double measure_matmul_rate(model::Kernels& kernels, DType type);

}  // namespace pg::app

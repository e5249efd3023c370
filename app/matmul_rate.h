// The best matrix-product rate of this machine, measured: what model FLOP/s are compared with.
#pragma once

#include "model/kernels/kernels.h"

namespace pg::app {

// FLOP/s of a [1024, 768] x [768, 3072] product in `type` on this rank, best of a few within about
// 0.1 s; 0 for fp64, whose products are plain loops.
double measure_matmul_rate(model::Kernels& kernels, DType type);

}  // namespace pg::app

#include "comm/error.h"
#include "model/kernels/kernels.h"

namespace pg::model {

std::unique_ptr<Kernels> make_cuda_kernels(comm::Gpu& /*gpu*/) {
  throw fail(ExitCode::kBug, "CUDA kernels were asked for, but {}", comm::gpu_missing());
}

}  // namespace pg::model

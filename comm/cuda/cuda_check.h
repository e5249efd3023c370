// CUDA's return codes as the program's errors. Only for files of the CUDA backend.
#pragma once

#include <cuda_runtime_api.h>

#include "comm/error.h"

namespace pg::comm {

// Error(kComm) naming `operation`, host and GPU when `status` is an error.
void cuda_check(cudaError_t status, const char* operation);

}  // namespace pg::comm

#define PG_CUDA(call) ::pg::comm::cuda_check((call), #call)

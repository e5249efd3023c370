#include "comm/gpu.h"

#include "comm/error.h"

namespace pg::comm {

namespace {

[[noreturn]] void no_gpu() {
  throw fail(ExitCode::kBug, "a GPU was asked for, but {}", gpu_missing());
}

}  // namespace

std::string gpu_missing() {
  return "this program was built without CUDA (PG_CUDA)";
}
int gpu_count() {
  return 0;
}

Gpu::Gpu(int /*ordinal*/) {
  no_gpu();
}
Gpu::~Gpu() = default;
void Gpu::synchronize() const {}

void* gpu_allocate(std::size_t /*bytes*/) {
  no_gpu();
}
void gpu_free(void* /*data*/) noexcept {}
void* gpu_allocate_on(GpuStream /*stream*/, std::size_t /*bytes*/) {
  no_gpu();
}
void gpu_free_on(GpuStream /*stream*/, void* /*data*/) noexcept {}
std::int64_t gpu_allocated_bytes() {
  return 0;
}
std::int64_t gpu_peak_bytes() {
  return 0;
}
void* pinned_allocate(std::size_t /*bytes*/) {
  no_gpu();
}
void pinned_free(void* /*data*/) noexcept {}
void gpu_copy(void* /*to*/, const void* /*from*/, std::size_t /*bytes*/) {
  no_gpu();
}
void gpu_copy_on(GpuStream /*stream*/, void* /*to*/, const void* /*from*/, std::size_t /*bytes*/) {
  no_gpu();
}

}  // namespace pg::comm

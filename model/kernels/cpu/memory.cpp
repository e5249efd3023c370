// fill_zero, copy, add: views of at most four axes whose last axis is contiguous. Contiguous views
// are cut into equal pieces, others into their rows.
#include <cstring>

#include "model/kernels/cpu/cpu_kernels.h"
#include "model/kernels/cpu/elements.h"

namespace pg::model {

namespace {

// Offset in elements of row `row`, counted over all axes but the last.
std::int64_t row_offset(const TensorView& view, std::int64_t row) {
  std::int64_t offset = 0;
  for (int axis = view.rank() - 2; axis >= 0; --axis) {
    offset += row % view.dim(axis) * view.stride(axis);
    row /= view.dim(axis);
  }
  return offset;
}

// work(offset in a, offset in b, length) for runs that cover two views of one shape, in parallel.
template <class Work>
void for_runs(const TensorView& a, const TensorView& b, const Work& work) {
  const std::int64_t n = a.elements();
  if (n == 0) return;
  if (a.contiguous() && b.contiguous()) {
    cpu::for_pieces(n,
                    [&](std::int64_t begin, std::int64_t end) { work(begin, begin, end - begin); });
  } else {
    const std::int64_t width = a.dim(a.rank() - 1);
    cpu::for_rows(n / width, width,
                  [&](std::int64_t row) { work(row_offset(a, row), row_offset(b, row), width); });
  }
}

}  // namespace

void CpuKernels::fill_zero(TensorView x) {
  auto* base = static_cast<char*>(x.raw());
  const std::size_t size = dtype_size(x.dtype());
  for_runs(x, x, [&](std::int64_t offset, std::int64_t, std::int64_t length) {
    std::memset(base + offset * size, 0, length * size);
  });
}

void CpuKernels::copy(TensorView to, TensorView from) {
  PG_ASSERT(cpu::same_shape(to, from), "to {} from {}", to.text(), from.text());
  if (to.dtype() == from.dtype()) {
    auto* target = static_cast<char*>(to.raw());
    const auto* source = static_cast<const char*>(from.raw());
    const std::size_t size = dtype_size(to.dtype());
    for_runs(to, from, [&](std::int64_t t, std::int64_t f, std::int64_t length) {
      std::memcpy(target + t * size, source + f * size, length * size);
    });
    return;
  }
  cpu::dispatch(to.dtype(), [&]<class To>() {
    cpu::dispatch(from.dtype(), [&]<class From>() {
      To* const target = to.data<To>();
      const From* const source = from.data<From>();
      for_runs(to, from, [&](std::int64_t t, std::int64_t f, std::int64_t length) {
#pragma omp simd
        for (std::int64_t i = 0; i < length; ++i) cpu::convert(target[t + i], source[f + i]);
      });
    });
  });
}

void CpuKernels::add(TensorView inout, TensorView x) {
  PG_ASSERT(cpu::same_shape(inout, x) && inout.dtype() == x.dtype(), "inout {} x {}", inout.text(),
            x.text());
  cpu::dispatch(inout.dtype(), [&]<class T>() {
    T* const sum = inout.data<T>();
    const T* const term = x.data<T>();
    for_runs(inout, x, [&](std::int64_t s, std::int64_t t, std::int64_t length) {
#pragma omp simd
      for (std::int64_t i = 0; i < length; ++i) {
        cpu::put(sum[s + i], cpu::load(sum[s + i]) + cpu::load(term[t + i]));
      }
    });
  });
}

}  // namespace pg::model

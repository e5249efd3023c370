// Table lookups and their gradients. Backward gives each row of a table to one task, which walks
// over all tokens in order: an element's additions happen in token order whatever the number of
// tasks, so the cut may follow the thread count here.
#include <omp.h>

#include <bit>
#include <cstring>
#include <vector>

#include "model/kernels/cpu/cpu_kernels.h"
#include "model/kernels/cpu/elements.h"

namespace pg::model {

namespace {

const std::int32_t* indices(const TensorView& view, std::int64_t n) {
  PG_ASSERT(view.elements() == n && view.contiguous(), "{} for {} rows", view.text(), n);
  return view.data<std::int32_t>();
}

// table[ids[n] - first_id] += rows[n], in the order of n; ids outside the table add nothing.
template <class T>
void scatter_add(const cpu::Rows<cpu::acc_t<T>>& table, const cpu::Rows<T>& rows,
                 const std::int32_t* ids, std::int64_t first_id) {
  // Several buckets a thread, as some tokens are frequent; a power of two, so that choosing is
  // cheap.
  const std::uint32_t buckets =
      std::bit_ceil(8 * static_cast<std::uint32_t>(omp_get_max_threads()));
#pragma omp parallel for schedule(dynamic) if (rows.n * rows.width > cpu::kWorthATeam)
  for (std::uint32_t bucket = 0; bucket < buckets; ++bucket) {
    for (std::int64_t n = 0; n < rows.n; ++n) {
      const std::int64_t id = ids[n] - first_id;
      if ((static_cast<std::uint32_t>(id) & (buckets - 1)) != bucket) continue;
      if (id < 0 || id >= table.n) continue;
      cpu::acc_t<T>* const sum = table[id];
      const T* const row = rows[n];
#pragma omp simd
      for (std::int64_t c = 0; c < rows.width; ++c) sum[c] += cpu::load(row[c]);
    }
  }
}

}  // namespace

void CpuKernels::embedding_forward(TensorView x, TensorView tokens, TensorView positions,
                                   TensorView token_table, TensorView position_table,
                                   std::int64_t first_id) {
  PG_ASSERT(x.rank() == 2 && token_table.rank() == 2 && x.dim(1) == token_table.dim(1),
            "x {} table {}", x.text(), token_table.text());
  PG_ASSERT(
      position_table.empty() || (position_table.rank() == 2 && position_table.dim(1) == x.dim(1)),
      "x {} position table {}", x.text(), position_table.text());
  const std::int64_t n = x.dim(0), width = x.dim(1);
  const std::int32_t* const token = indices(tokens, n);
  const std::int32_t* const position = position_table.empty() ? nullptr : indices(positions, n);
  cpu::dispatch(x.dtype(), [&]<class T>() {
    const cpu::Rows<T> out(x), by_token(token_table), by_position(position_table);
    const std::vector<T> zeros(width);  // the row of an id that another rank holds
    cpu::for_rows(n, width, [&](std::int64_t row) {
      T* const to = out[row];
      const std::int64_t id = token[row] - first_id;
      const T* const from = id >= 0 && id < by_token.n ? by_token[id] : zeros.data();
      if (position == nullptr) {
        std::memcpy(to, from, width * sizeof(T));
        return;
      }
      const T* const place = by_position[position[row]];
#pragma omp simd
      for (std::int64_t c = 0; c < width; ++c) {
        cpu::put(to[c], cpu::load(from[c]) + cpu::load(place[c]));
      }
    });
  });
}

void CpuKernels::embedding_backward(TensorView d_token_table, TensorView d_position_table,
                                    TensorView dx, TensorView tokens, TensorView positions,
                                    std::int64_t first_id) {
  PG_ASSERT(dx.rank() == 2 && d_token_table.rank() == 2 && dx.dim(1) == d_token_table.dim(1),
            "dx {} table {}", dx.text(), d_token_table.text());
  PG_ASSERT(d_position_table.empty() ||
                (d_position_table.rank() == 2 && d_position_table.dim(1) == dx.dim(1)),
            "dx {} position table {}", dx.text(), d_position_table.text());
  const std::int64_t n = dx.dim(0);
  cpu::dispatch(dx.dtype(), [&]<class T>() {
    using A = cpu::acc_t<T>;
    const cpu::Rows<T> rows(dx);
    scatter_add<T>(cpu::Rows<A>(d_token_table), rows, indices(tokens, n), first_id);
    if (!d_position_table.empty()) {
      scatter_add<T>(cpu::Rows<A>(d_position_table), rows, indices(positions, n), 0);
    }
  });
}

}  // namespace pg::model

#include "model/param_store.h"

#include <algorithm>

#include "comm/random.h"
#include "model/kernels/cpu/dispatch.h"

namespace pg::model {

namespace {

constexpr std::int64_t kPackAlignment = 32;  // elements: a cache line of bf16

std::int64_t round_up(std::int64_t n) {
  return (n + kPackAlignment - 1) / kPackAlignment * kPackAlignment;
}

template <class T>
void fill_initial(T* x, const ParamSpec& spec, comm::RandomKey key) {
  const std::int64_t n = spec.elements();
#pragma omp parallel for schedule(static)
  for (std::int64_t e = 0; e < n; ++e) {
    double value = 0.0;
    if (spec.init == Init::kOnes) value = 1.0;
    if (spec.init == Init::kNormal) {
      value = spec.std * comm::random_normal(key, static_cast<std::uint64_t>(e));
    }
    x[e] = static_cast<T>(value);
  }
}

}  // namespace

ParamStore::ParamStore(const ParamTable& table, DType compute, Buffer::Kind kind)
    : table_(table), compute_(compute) {
  std::int64_t next = 0;
  for (const auto& spec : table_.specs()) {
    if (spec.starts_pack) next = round_up(next);
    offset_.push_back(next);
    next += spec.elements();
  }
  offset_.push_back(round_up(next));

  const auto elements = static_cast<std::size_t>(offset_.back());
  const auto exact_bytes = elements * dtype_size(accumulator());
  weights_ = Buffer(elements * dtype_size(compute_), kind);
  grads_ = Buffer(exact_bytes, kind);
  m_ = Buffer(exact_bytes, kind);
  v_ = Buffer(exact_bytes, kind);
  if (has_master()) masters_ = Buffer(exact_bytes, kind);
}

TensorView ParamStore::view(const Buffer& buffer, DType type, std::size_t first,
                            std::size_t last) const {
  const auto& shape = table_[first].shape;
  void* data = buffer.at(static_cast<std::size_t>(offset_[first]) * dtype_size(type));
  std::int64_t rows = 0;
  for (std::size_t id = first; id <= last; ++id) {
    PG_ASSERT(id == first ||
                  (!table_[id].starts_pack && table_[id].shape.size() == shape.size() &&
                   table_[id].shape.back() == (shape.size() == 2 ? shape[1] : table_[id].shape[0])),
              "{} does not continue {}", table_[id].name, table_[first].name);
    rows += table_[id].shape[0];
  }
  if (shape.size() == 1) return TensorView(data, type, {rows});
  return TensorView(data, type, {rows, shape[1]});
}

TensorView ParamStore::grads_of_place(std::int64_t place) const {
  std::int64_t begin = -1, end = 0;
  for (std::size_t id = 0; id < table_.size(); ++id) {
    if (table_[id].place != place) continue;
    if (begin < 0) begin = offset_[id];
    end = offset_[id] + table_[id].elements();
  }
  PG_ASSERT(begin >= 0, "place {}", place);
  return TensorView(grads_.at(static_cast<std::size_t>(begin) * dtype_size(accumulator())),
                    accumulator(), {end - begin});
}

TensorView ParamStore::all_grads() const {
  return TensorView(grads_.at(0), accumulator(), {offset_.back()});
}

void ParamStore::initialise(std::int64_t seed) {
  for (std::size_t id = 0; id < table_.size(); ++id) {
    const auto& spec = table_[id];
    const auto key = comm::random_key(static_cast<std::uint64_t>(seed), "init/" + spec.name);
    cpu::dispatch(accumulator(), [&]<class T>() {
      fill_initial(exact(id).data<T>(), spec, key);
      std::fill_n(m(id).data<T>(), spec.elements(), T{});
      std::fill_n(v(id).data<T>(), spec.elements(), T{});
    });
  }
  round_weights();
}

void ParamStore::round_weights() {
  if (!has_master()) return;
  for (std::size_t id = 0; id < table_.size(); ++id) {
    const auto* from = master(id).data<float>();
    auto* to = weight(id).data<bf16>();
    const std::int64_t n = table_[id].elements();
#pragma omp parallel for schedule(static)
    for (std::int64_t e = 0; e < n; ++e) to[e] = bf16(from[e]);
  }
}

std::vector<comm::TensorRecord> ParamStore::records(bool owner) const {
  std::vector<comm::TensorRecord> all;
  const auto add = [&](const std::string& name, const ParamSpec& spec, TensorView values) {
    comm::Slab slab;
    slab.offset.assign(spec.shape.size(), 0);
    slab.extent = spec.shape;
    slab.data = values.raw();
    slab.owner = owner;
    all.push_back({name, values.dtype(), spec.shape, {slab}});
  };
  for (std::size_t id = 0; id < table_.size(); ++id) {
    const auto& spec = table_[id];
    add(spec.name, spec, exact(id));
    add(spec.name + ".adam_m", spec, m(id));
    add(spec.name + ".adam_v", spec, v(id));
  }
  return all;
}

}  // namespace pg::model

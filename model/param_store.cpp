#include "model/param_store.h"

#include <algorithm>
#include <cstring>

#include "comm/activity.h"
#include "comm/random.h"
#include "model/kernels/cpu/dispatch.h"

namespace pg::model {

ParamStore::ParamStore(ParamLayout layout, DType compute, Buffer::Kind kind, Device device)
    : layout_(std::move(layout)), compute_(compute) {
  const auto buffer = [&](std::int64_t elements, DType type) {
    return Buffer(static_cast<std::size_t>(elements) * dtype_size(type), kind, device);
  };
  const auto full = layout_.full_elements(), shard = layout_.shard_elements();
  const auto slots = layout_.slot_elements();
  if (!gathers_weights()) weights_ = buffer(full, compute_);
  if (exact_apart()) exact_ = buffer(shard, accumulator());
  m_ = buffer(shard, accumulator());
  v_ = buffer(shard, accumulator());
  grads_ = buffer(scatters_grads() ? shard : full, accumulator());
  if (gathers_weights()) weight_slots_ = buffer(slots, compute_);
  if (scatters_grads()) grad_slots_ = buffer(slots, accumulator());
  for (int slot = 1; slot < ParamLayout::kSlots; ++slot) {
    slot_begin_[slot] = slot_begin_[slot - 1] + layout_.slot_elements(slot - 1);
  }
  if (const auto& moe = layout_.rank_config().moe; moe.bias_update > 0.0) {
    biased_blocks_ = layout_.expert_blocks();
    router_biases_ =
        buffer(static_cast<std::int64_t>(biased_blocks_.size()) * moe.experts, accumulator());
  }
  weights_in_slot_.fill(-1);
  grads_in_slot_.fill(-1);
}

void* ParamStore::at(const Buffer& buffer, DType type, Space space, std::int64_t place,
                     std::int64_t offset) const {
  const auto& range = layout_.place(place);
  PG_ASSERT(range.held, "place {} is not on stage {}", place, layout_.sharding().stage);
  switch (space) {
    case Space::kFull:
      offset += range.begin;
      break;
    case Space::kShard:
      offset += range.shard_begin;
      break;
    case Space::kSlot:
      offset += slot_begin_[layout_.slot_of(place)];
      break;
  }
  return buffer.at(static_cast<std::size_t>(offset) * dtype_size(type));
}

TensorView ParamStore::pack(void* data, DType type, std::size_t first, std::size_t last) const {
  const auto& head = layout_.part(first);
  std::int64_t rows = 0;
  for (std::size_t id = first; id <= last; ++id) {
    const auto& part = layout_.part(id);
    PG_ASSERT(id == first || (!table()[id].starts_pack && part.cols == head.cols &&
                              table()[id].shape.size() == table()[first].shape.size()),
              "{} does not continue {}", table()[id].name, table()[first].name);
    rows += part.rows;
  }
  if (table()[first].shape.size() == 1) return TensorView(data, type, {rows}, device());
  return TensorView(data, type, {rows, head.cols}, device());
}

TensorView ParamStore::weight_pack(std::size_t first, std::size_t last) const {
  const auto place = table()[first].place, offset = layout_.part(first).offset;
  if (!gathers_weights()) {
    return pack(at(weights_, compute_, Space::kFull, place, offset), compute_, first, last);
  }
  PG_ASSERT(weights_in_slot(layout_.slot_of(place)) == place, "{} is not gathered",
            table()[first].name);
  return pack(at(weight_slots_, compute_, Space::kSlot, place, offset), compute_, first, last);
}

TensorView ParamStore::grad_pack(std::size_t first, std::size_t last) const {
  const auto place = table()[first].place, offset = layout_.part(first).offset;
  const auto type = accumulator();
  if (!scatters_grads()) {
    return pack(at(grads_, type, Space::kFull, place, offset), type, first, last);
  }
  PG_ASSERT(grads_in_slot(layout_.slot_of(place)) == place, "no slot for the gradient of {}",
            table()[first].name);
  return pack(at(grad_slots_, type, Space::kSlot, place, offset), type, first, last);
}

TensorView ParamStore::kept(const Buffer& buffer, DType type, Space space, std::size_t id) const {
  const auto range = layout_.kept(id);
  if (range.elements() == 0) return TensorView(buffer.at(0), type, {0}, device());
  const auto place = table()[id].place;
  auto offset = layout_.part(id).offset + range.begin;
  if (space == Space::kShard) offset -= layout_.shard(place) * layout_.place(place).piece;
  return TensorView(at(buffer, type, space, place, offset), type, {range.elements()}, device());
}

TensorView ParamStore::kept_exact(std::size_t id) const {
  return exact_apart() ? kept(exact_, accumulator(), Space::kShard, id)
                       : kept(weights_, compute_, Space::kFull, id);
}
TensorView ParamStore::kept_m(std::size_t id) const {
  return kept(m_, accumulator(), Space::kShard, id);
}
TensorView ParamStore::kept_v(std::size_t id) const {
  return kept(v_, accumulator(), Space::kShard, id);
}
TensorView ParamStore::kept_grad(std::size_t id) const {
  return kept(grads_, accumulator(), scatters_grads() ? Space::kShard : Space::kFull, id);
}
TensorView ParamStore::kept_rounded(std::size_t id) const {
  if (gathers_weights() || !exact_apart()) return {};
  return kept(weights_, compute_, Space::kFull, id);
}

TensorView ParamStore::place_weights(std::int64_t place) const {
  const auto n = layout_.place(place).piece * layout_.shards(place);
  void* data = gathers_weights() ? at(weight_slots_, compute_, Space::kSlot, place, 0)
                                 : at(weights_, compute_, Space::kFull, place, 0);
  return TensorView(data, compute_, {n}, device());
}

TensorView ParamStore::place_grads(std::int64_t place) const {
  const auto n = layout_.place(place).piece * layout_.shards(place);
  const auto type = accumulator();
  void* data = scatters_grads() ? at(grad_slots_, type, Space::kSlot, place, 0)
                                : at(grads_, type, Space::kFull, place, 0);
  return TensorView(data, type, {n}, device());
}

TensorView ParamStore::own_piece(std::int64_t place, TensorView whole) const {
  const auto piece = whole.elements() / layout_.shards(place);
  return whole.slice(0, layout_.shard(place) * piece, piece);
}

TensorView ParamStore::kept_exact_of_place(std::int64_t place) const {
  if (!exact_apart()) return own_piece(place, place_weights(place));
  return TensorView(at(exact_, accumulator(), Space::kShard, place, 0), accumulator(),
                    {layout_.place(place).piece}, device());
}

TensorView ParamStore::kept_grads_of_place(std::int64_t place) const {
  if (!scatters_grads()) return own_piece(place, place_grads(place));
  return TensorView(at(grads_, accumulator(), Space::kShard, place, 0), accumulator(),
                    {layout_.place(place).piece}, device());
}

TensorView ParamStore::all_grads() const {
  const auto n = static_cast<std::int64_t>(grads_.bytes() / dtype_size(accumulator()));
  return TensorView(grads_.at(0), accumulator(), {n}, device());
}

TensorView ParamStore::router_bias(std::int64_t block) const {
  const auto found = std::lower_bound(biased_blocks_.begin(), biased_blocks_.end(), block);
  if (found == biased_blocks_.end() || *found != block) return {};
  const auto experts = layout_.rank_config().moe.experts;
  const auto first = (found - biased_blocks_.begin()) * experts;
  return TensorView(router_biases_.at(static_cast<std::size_t>(first) * dtype_size(accumulator())),
                    accumulator(), {experts}, device());
}

namespace {

double initial_value(const ParamSpec& spec, comm::RandomKey key, std::int64_t element) {
  switch (spec.init) {
    case Init::kZeros:
      return 0.0;
    case Init::kOnes:
      return 1.0;
    case Init::kNormal:
      return spec.std * comm::random_normal(key, static_cast<std::uint64_t>(element));
  }
  return 0.0;
}

void clear(const Buffer& buffer) {
  if (buffer.bytes() == 0) return;
  if (buffer.device() == Device::kCpu) {
    std::memset(buffer.at(0), 0, buffer.bytes());
    return;
  }
  const std::vector<char> zeros(std::min(buffer.bytes(), std::size_t{1} << 26));
  for (std::size_t at = 0; at < buffer.bytes(); at += zeros.size()) {
    comm::gpu_copy(buffer.at(at), zeros.data(), std::min(zeros.size(), buffer.bytes() - at));
  }
}

// Elements [begin, end) of this rank's part, by their index in the global tensor.
template <class T>
void fill_initial(T* to, const ParamSpec& spec, const ParamPart& part, ParamLayout::Kept kept,
                  comm::RandomKey key) {
  const auto width = spec.shape.size() == 2 ? spec.shape[1] : 1;
#pragma omp parallel for schedule(static)
  for (std::int64_t e = kept.begin; e < kept.end; ++e) {
    const auto row = part.row_begin + e / part.cols, col = part.col_begin + e % part.cols;
    to[e - kept.begin] = static_cast<T>(initial_value(spec, key, row * width + col));
  }
}

}  // namespace

void ParamStore::initialise(std::int64_t seed) {
  // On the GPU's behalf the host draws into memory of its own, a piece at a time.
  const bool on_gpu = device() == Device::kCuda;
  std::vector<char> drawn, rounded_on_host;
  const auto put = [](TensorView to, const std::vector<char>& from) {
    comm::gpu_copy(to.raw(), from.data(), to.bytes());
  };
  for (std::size_t id = 0; id < table().size(); ++id) {
    const auto kept = layout_.kept(id);
    if (kept.elements() == 0) continue;
    comm::note_progress();
    const auto& spec = table()[id];
    const auto key = comm::random_key(static_cast<std::uint64_t>(seed), "init/" + spec.name);
    const auto exact = kept_exact(id), rounded = kept_rounded(id);
    cpu::dispatch(accumulator(), [&]<class T>() {
      if (on_gpu) drawn.resize(exact.bytes());
      auto* const to = on_gpu ? reinterpret_cast<T*>(drawn.data()) : exact.data<T>();
      fill_initial(to, spec, layout_.part(id), kept, key);
      if (!rounded.empty()) {
        if (on_gpu) rounded_on_host.resize(rounded.bytes());
        auto* const low =
            on_gpu ? reinterpret_cast<bf16*>(rounded_on_host.data()) : rounded.data<bf16>();
        const std::int64_t n = rounded.elements();
#pragma omp parallel for schedule(static)
        for (std::int64_t e = 0; e < n; ++e) low[e] = bf16(static_cast<float>(to[e]));
      }
      if (on_gpu) {
        put(exact, drawn);
        if (!rounded.empty()) put(rounded, rounded_on_host);
      }
    });
  }
  clear(m_);
  clear(v_);
  clear(router_biases_);
}

void ParamStore::round_weights(Kernels& kernels) {
  for (std::size_t id = 0; id < table().size(); ++id) {
    if (layout_.kept(id).elements() == 0) continue;
    if (const auto rounded = kept_rounded(id); !rounded.empty()) {
      kernels.copy(rounded, kept_exact(id));
    }
  }
}

// Rounded weights and gradients are in no checkpoint.
bool ParamStore::saved(const Buffer& buffer) const {
  return &buffer != &grads_ && (&buffer != &weights_ || !exact_apart());
}

void ParamStore::pin_host_copy() {
  if (device() == Device::kCpu) return;
  pins_mirrors_ = true;
  mirrors_.clear();
}

void* ParamStore::on_host(void* data) const {
  if (device() == Device::kCpu || data == nullptr) return data;
  if (mirrors_.empty()) {
    for (const auto* buffer : state()) {
      const bool pinned = pins_mirrors_ && saved(*buffer);
      mirrors_.push_back({buffer, Buffer(buffer->bytes(), pinned ? Buffer::Kind::kPinned
                                                                 : Buffer::Kind::kReserved)});
    }
  }
  for (const auto& mirror : mirrors_) {
    const auto* const first = static_cast<const char*>(mirror.of->at(0));
    const auto offset = static_cast<const char*>(data) - first;
    if (first != nullptr && offset >= 0 && static_cast<std::size_t>(offset) < mirror.of->bytes()) {
      return mirror.copy.at(static_cast<std::size_t>(offset));
    }
  }
  throw fail(ExitCode::kBug, "bug: no part of the state at {}", data);
}

void ParamStore::to_host() {
  if (device() == Device::kCpu) return;
  on_host(m_.at(0));
  for (const auto& [of, copy] : mirrors_) {
    if (saved(*of) && of->bytes() > 0) comm::gpu_copy(copy.at(0), of->at(0), of->bytes());
  }
}

void ParamStore::from_host() {
  if (device() == Device::kCpu) return;
  on_host(m_.at(0));
  for (const auto& [of, copy] : mirrors_) {
    if (saved(*of) && of->bytes() > 0) comm::gpu_copy(of->at(0), copy.at(0), of->bytes());
  }
}

namespace {

// A run of elements [begin, end) of this rank's part in row-major order, as hyperslabs of the
// global tensor: the end of a row, whole rows, the start of a row.
std::vector<comm::Slab> slabs_of(const ParamSpec& spec, const ParamPart& part,
                                 ParamLayout::Kept kept, DType type, char* base, bool owner) {
  std::vector<comm::Slab> slabs;
  const auto add = [&](std::int64_t begin, std::int64_t rows, std::int64_t cols) {
    if (rows == 0 || cols == 0) return;
    comm::Slab slab;
    slab.offset = {part.row_begin + begin / part.cols};
    slab.extent = {rows};
    if (spec.shape.size() == 2) {
      slab.offset.push_back(part.col_begin + begin % part.cols);
      slab.extent.push_back(cols);
    }
    slab.data = base == nullptr
                    ? nullptr
                    : base + static_cast<std::size_t>(begin - kept.begin) * dtype_size(type);
    slab.owner = owner;
    slabs.push_back(std::move(slab));
  };
  auto at = kept.begin;
  if (at < kept.end && at % part.cols != 0) {
    const auto n = std::min(part.cols - at % part.cols, kept.end - at);
    add(at, 1, n);
    at += n;
  }
  const auto rows = (kept.end - at) / part.cols;
  add(at, rows, part.cols);
  at += rows * part.cols;
  if (at < kept.end) add(at, 1, kept.end - at);
  return slabs;
}

}  // namespace

comm::TensorRecord ParamStore::record(std::size_t id, const std::string& name,
                                      TensorView values) const {
  const auto& part = layout_.part(id);
  const auto& cut = layout_.sharding();
  const bool first =
      layout_.is_experts(table()[id].place) ? cut.expert_replica == 0 : cut.replica == 0;
  // Without ZeRO the first replica writes; with it each writes its piece.
  const bool owner = part.counts && (cut.zero > 0 || first);
  comm::TensorRecord record{name, accumulator(), table()[id].shape, {}};
  record.slabs =
      slabs_of(table()[id], part, layout_.kept(id), values.dtype(),
               values.empty() || values.elements() == 0 ? nullptr
                                                        : static_cast<char*>(on_host(values.raw())),
               owner);
  return record;
}

std::vector<comm::TensorRecord> ParamStore::records() const {
  std::vector<comm::TensorRecord> all;
  for (std::size_t id = 0; id < table().size(); ++id) {
    const bool held = layout_.part(id).held;
    const auto& name = table()[id].name;
    all.push_back(record(id, name, held ? kept_exact(id) : TensorView()));
    all.push_back(record(id, name + ".adam_m", held ? kept_m(id) : TensorView()));
    all.push_back(record(id, name + ".adam_v", held ? kept_v(id) : TensorView()));
  }
  const auto& config = layout_.rank_config();
  for (std::int64_t block = 0; block < config.layers && config.moe.bias_update > 0.0; ++block) {
    if (!config.has_experts(block)) continue;
    comm::TensorRecord biases{
        ParamTable::router_bias_name(block), accumulator(), {config.moe.experts}, {}};
    if (const auto bias = router_bias(block); !bias.empty()) {
      const auto& cut = layout_.sharding();
      biases.slabs.push_back(
          {{0}, {config.moe.experts}, on_host(bias.raw()), cut.replica == 0 && cut.tp_rank == 0});
    }
    all.push_back(std::move(biases));
  }
  return all;
}

std::vector<comm::TensorRecord> ParamStore::gradient_records() const {
  if (device() == Device::kCuda && grads_.bytes() > 0) {
    comm::gpu_copy(on_host(grads_.at(0)), grads_.at(0), grads_.bytes());
  }
  std::vector<comm::TensorRecord> all;
  for (std::size_t id = 0; id < table().size(); ++id) {
    all.push_back(
        record(id, table()[id].name, layout_.part(id).held ? kept_grad(id) : TensorView()));
  }
  return all;
}

ParamStore::Bytes ParamStore::bytes() const {
  const auto of = [](const Buffer& b) { return static_cast<std::int64_t>(b.bytes()); };
  Bytes bytes;
  bytes.weights = of(weights_) + (compute_ == accumulator() ? of(exact_) : 0);
  bytes.master = (compute_ == accumulator() ? 0 : of(exact_)) + of(router_biases_);
  bytes.gradients = of(grads_);
  bytes.moments = of(m_) + of(v_);
  bytes.slots = of(weight_slots_) + of(grad_slots_);
  return bytes;
}

}  // namespace pg::model

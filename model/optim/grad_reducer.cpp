#include "model/optim/grad_reducer.h"

#include <algorithm>

#include "model/buffer_view.h"

namespace pg::model {

namespace {

constexpr std::int64_t kSmall = 1 << 16;  // elements

}  // namespace

GradReducer::GradReducer(ParamStore& params, Kernels& kernels, Groups groups)
    : params_(params), kernels_(kernels), groups_(std::move(groups)) {
  if (params.device() == Device::kCuda) {  // no allocation inside a step
    packed_ =
        Buffer(4 * kSmall * dtype_size(params.accumulator()), Buffer::Kind::kReal, params.device());
  }
}

bool GradReducer::dropped(std::int64_t place) const {
  return sabotage_.drop_replica_sum ||
         (sabotage_.drop_one_bucket && place == ParamTable::block_place(0));
}

comm::Group& GradReducer::replicas_of(std::int64_t place) const {
  const bool apart = params_.layout().is_experts(place) && !sabotage_.sum_experts_over_all;
  return apart ? *groups_.expert_replicas : *groups_.replicas;
}

void GradReducer::begin_step() {
  kernels_.fill_zero(params_.all_grads());
}

void GradReducer::begin(std::int64_t place) {
  if (!params_.scatters_grads()) return;
  const int slot = params_.layout().slot_of(place);
  if (params_.grads_in_slot(slot) == place) return;  // a tied table, after the head
  const auto in_this_slot = [&](const Flight& flight) {
    return params_.layout().slot_of(flight.place) == slot;
  };
  while (std::any_of(flights_.begin(), flights_.end(), in_this_slot)) settle_oldest();
  params_.set_grads_in_slot(slot, place);
  kernels_.fill_zero(params_.place_grads(place));
}

// Of the negative controls.
void GradReducer::poison(std::int64_t place, bool last) {
  for (const auto id : params_.layout().params_of(place)) {
    if (params_.table()[id].name != sabotage_.poisoned_gradient) continue;
    const auto grad = params_.grad(id);
    const TensorView first(grad.raw(), grad.dtype(), {1}, grad.device());
    if (grad.dtype() == DType::kF64) {
      double value = sabotage_.poison;
      kernels_.copy(first, TensorView(&value, DType::kF64, {1}));
    } else {
      auto value = static_cast<float>(sabotage_.poison);
      kernels_.copy(first, TensorView(&value, DType::kF32, {1}));
    }
    if (last) sabotage_.poisoned_gradient = {};
    return;
  }
}

void GradReducer::done(std::int64_t place, bool last) {
  if (!sabotage_.poisoned_gradient.empty()) poison(place, last);
  if (params_.scatters_grads()) {
    const int slot = params_.layout().slot_of(place);
    PG_ASSERT(params_.grads_in_slot(slot) == place, "place {} has no gradients", place);
    params_.set_grads_in_slot(slot, -1);
    launch(place);
  } else if (last && replicas_of(place).size() > 1) {
    launch(place);
  }
}

void GradReducer::launch(std::int64_t place) {
  if (flights_.size() == kInFlight) settle_oldest();
  Flight flight{place, {}};
  if (!dropped(place)) {
    const auto whole = params_.place_grads(place);
    flight.pending = params_.layout().shards(place) > 1
                         ? replicas_of(place).reduce_scatter(
                               buffer_view(whole), buffer_view(params_.own_piece(place, whole)),
                               comm::ReduceOp::kSum)
                         : replicas_of(place).all_reduce(buffer_view(whole), comm::ReduceOp::kSum);
  }
  flights_.push_back(std::move(flight));
}

// A slot's reduced piece joins what earlier micro-batches left.
void GradReducer::settle_oldest() {
  auto& flight = flights_.front();
  flight.pending.wait();
  if (params_.scatters_grads()) {
    kernels_.add(params_.kept_grads_of_place(flight.place),
                 params_.own_piece(flight.place, params_.place_grads(flight.place)));
  }
  flights_.pop_front();
}

// Small tensors travel together: a norm's few kilobytes are all latency.
void GradReducer::sum_over(comm::Group& group, std::span<const TensorView> parts) {
  std::vector<TensorView> small;
  std::int64_t packed = 0;
  const auto flush = [&] {
    if (packed == 0) return;
    const auto bytes = static_cast<std::size_t>(packed) * dtype_size(params_.accumulator());
    if (packed_.bytes() < bytes) packed_ = Buffer(bytes, Buffer::Kind::kReal, params_.device());
    const TensorView all(packed_.at(0), params_.accumulator(), {packed}, params_.device());
    std::int64_t at = 0;
    const auto each = [&](auto move) {
      at = 0;
      for (const auto& part : small) {
        move(part, all.slice(0, at, part.elements()));
        at += part.elements();
      }
    };
    each([&](TensorView part, TensorView in) { kernels_.copy(in, part); });
    group.all_reduce(buffer_view(all), comm::ReduceOp::kSum).wait();
    each([&](TensorView part, TensorView in) { kernels_.copy(part, in); });
    small.clear();
    packed = 0;
  };
  for (const auto& part : parts) {
    if (part.elements() == 0) continue;
    if (part.elements() > kSmall) {
      group.all_reduce(buffer_view(part), comm::ReduceOp::kSum).wait();
      continue;
    }
    if (packed + part.elements() > 4 * kSmall) flush();
    small.push_back(part);
    packed += part.elements();
  }
  flush();
}

void GradReducer::finish() {
  while (!flights_.empty()) settle_oldest();

  const auto& layout = params_.layout();
  const auto select = [&](auto wanted) {
    std::vector<TensorView> parts;
    for (std::size_t id = 0; id < params_.table().size(); ++id) {
      if (layout.part(id).held && wanted(params_.table()[id])) {
        parts.push_back(params_.kept_grad(id));
      }
    }
    return parts;
  };
  if (layout.sharding().sequence && groups_.tensor->size() > 1 && !sabotage_.drop_stream_sum) {
    sum_over(*groups_.tensor, select([](const ParamSpec& spec) { return spec.acts_on_stream; }));
  }
  if (groups_.kv_copies->size() > 1 && !sabotage_.drop_kv_copy) {
    sum_over(*groups_.kv_copies,
             select([](const ParamSpec& spec) { return spec.cut == TensorCut::kKvRows; }));
  }
  if (layout.tied() && groups_.ends->size() > 1 && !sabotage_.drop_tied_sum) {
    const auto tokens = params_.kept_grads_of_place(ParamTable::kTokenPlace);
    groups_.ends->all_reduce(buffer_view(tokens), comm::ReduceOp::kSum).wait();
  }
}

}  // namespace pg::model

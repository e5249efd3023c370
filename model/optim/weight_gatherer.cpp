#include "model/optim/weight_gatherer.h"

#include <vector>

#include "model/buffer_view.h"

namespace pg::model {

void WeightGatherer::start(std::int64_t place) {
  const int slot = params_.layout().slot_of(place);
  auto& flight = flights_[static_cast<std::size_t>(slot)];
  if (flight.place == place || params_.weights_in_slot(slot) == place) return;
  arrive(slot);  // an earlier place's, if nobody came for it
  params_.set_weights_in_slot(slot, -1);
  const auto whole = params_.place_weights(place);
  const auto own = params_.own_piece(place, whole);
  kernels_.copy(own, params_.kept_exact_of_place(place));  // rounds under bf16
  flight = {place, replicas_of(place).all_gather(buffer_view(own), buffer_view(whole))};
}

void WeightGatherer::arrive(int slot) {
  auto& flight = flights_[static_cast<std::size_t>(slot)];
  if (flight.place < 0) return;
  flight.pending.wait();
  params_.set_weights_in_slot(slot, flight.place);
  if (!sabotage_.keep_stale_packs) {
    kernels_.weights_changed(params_.place_weights(flight.place));
  }
  flight.place = -1;
}

void WeightGatherer::need(std::int64_t place, std::int64_t next) {
  if (!params_.gathers_weights()) return;
  start(place);
  arrive(params_.layout().slot_of(place));
  if (next >= 0) start(next);
}

void WeightGatherer::publish() {
  if (params_.gathers_weights()) {
    for (int slot = 0; slot < ParamLayout::kSlots; ++slot) {
      arrive(slot);
      if (!sabotage_.keep_stale_slots) params_.set_weights_in_slot(slot, -1);
    }
    return;
  }
  if (params_.layout().cuts() && !sabotage_.drop_publish) {
    std::vector<comm::Pending> pending;
    for (std::int64_t place = 0; place < params_.layout().places(); ++place) {
      if (!params_.layout().place(place).held) continue;
      const auto whole = params_.place_weights(place);
      pending.push_back(replicas_of(place).all_gather(buffer_view(params_.own_piece(place, whole)),
                                                      buffer_view(whole)));
    }
    for (auto& call : pending) call.wait();
  }
  kernels_.weights_changed();
}

}  // namespace pg::model

// ZeRO seen from the layers: before a place is used its weights are there, and what its backward
// left is reduced.
#pragma once

#include "model/model_chunk.h"
#include "model/optim/grad_reducer.h"
#include "model/optim/weight_gatherer.h"

namespace pg::model {

class ZeroPlaceUse final : public PlaceUse {
 public:
  // Both must outlive it.
  ZeroPlaceUse(WeightGatherer& weights, GradReducer& grads) : weights_(weights), grads_(grads) {}

  void micro_batch(bool last) override { last_ = last; }
  void need_weights(std::int64_t place, std::int64_t next) override { weights_.need(place, next); }
  void begin_grads(std::int64_t place) override { grads_.begin(place); }
  void grads_done(std::int64_t place) override { grads_.done(place, last_); }

 private:
  WeightGatherer& weights_;
  GradReducer& grads_;
  bool last_ = false;
};

}  // namespace pg::model

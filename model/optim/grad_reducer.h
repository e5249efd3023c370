// Sums gradients over the ranks that hold copies of the parameters, place by place, as soon as the
// backward of the last micro-batch has completed each. A group whose calls complete later then
// carries them while earlier layers still compute; MPI's on the CPU do not (comm/mpi_group.cpp).
#pragma once

#include <cstdint>
#include <vector>

#include "comm/group.h"
#include "model/param_store.h"

namespace pg::model {

class GradReducer {
 public:
  // Both must outlive it.
  GradReducer(ParamStore& params, comm::Group& replicas) : params_(params), replicas_(replicas) {}

  // The gradients of this place are complete on this rank. Every rank calls in the same order.
  void place_done(std::int64_t place);
  // All sums have arrived.
  void finish();

 private:
  ParamStore& params_;
  comm::Group& replicas_;
  std::vector<comm::Pending> pending_;
};

}  // namespace pg::model

#include "comm/later_min.h"

#include "comm/activity.h"
#include "comm/error.h"
#include "comm/mpi_internal.h"

namespace pg::comm {

struct LaterMin::State {
  Communicator ranks;
  std::int64_t mine = 0, least = 0;
  MPI_Request request = MPI_REQUEST_NULL;
};

LaterMin::LaterMin(const Communicator& ranks) : state_(std::make_unique<State>()) {
  state_->ranks = ranks.split(0, ranks.rank());
}

LaterMin::~LaterMin() {
  if (given()) MPI_Wait(&state_->request, MPI_STATUS_IGNORE);
}

bool LaterMin::given() const {
  return state_->request != MPI_REQUEST_NULL;
}

void LaterMin::give(std::int64_t mine) {
  PG_ASSERT(!given(), "the last result was not taken");
  state_->mine = mine;
  mpi::check(MPI_Iallreduce(&state_->mine, &state_->least, 1, mpi::datatype(DType::kI64), MPI_MIN,
                            mpi::handle(state_->ranks), &state_->request),
             "later minimum", "MPI_Iallreduce");
}

std::int64_t LaterMin::take() {
  PG_ASSERT(given(), "nothing was given");
  const Waiting waiting("MPI_Wait for a minimum given before");
  mpi::check(MPI_Wait(&state_->request, MPI_STATUS_IGNORE), "later minimum", "MPI_Wait");
  return state_->least;
}

}  // namespace pg::comm

#include "comm/later_min.h"

#include <utility>

#include "comm/activity.h"
#include "comm/error.h"
#include "comm/mpi_internal.h"

namespace pg::comm {

struct LaterMin::State {
  Communicator ranks;
  GroupActivity activity;
  std::uint64_t number = 0;  // of the one on its way, for reports of who has not given yet
  std::int64_t mine = 0, least = 0;
  MPI_Request request = MPI_REQUEST_NULL;

  explicit State(Communicator r)
      : ranks(std::move(r)), activity("later minimum", ranks.world_ranks()) {}
};

LaterMin::LaterMin(const Communicator& ranks)
    : state_(std::make_unique<State>(ranks.split(0, ranks.rank()))) {}

LaterMin::~LaterMin() {
  if (!given()) return;
  const Waiting waiting(state_->activity, "MPI_Iallreduce", state_->number);
  MPI_Wait(&state_->request, MPI_STATUS_IGNORE);
}

bool LaterMin::given() const {
  return state_->request != MPI_REQUEST_NULL;
}

void LaterMin::give(std::int64_t mine) {
  PG_ASSERT(!given(), "the last result was not taken");
  state_->mine = mine;
  state_->number = state_->activity.issue();
  mpi::check(MPI_Iallreduce(&state_->mine, &state_->least, 1, mpi::datatype(DType::kI64), MPI_MIN,
                            mpi::handle(state_->ranks), &state_->request),
             "later minimum", "MPI_Iallreduce");
}

std::int64_t LaterMin::take() {
  PG_ASSERT(given(), "nothing was given");
  const Waiting waiting(state_->activity, "MPI_Iallreduce", state_->number);
  mpi::check(MPI_Wait(&state_->request, MPI_STATUS_IGNORE), "later minimum", "MPI_Wait");
  return state_->least;
}

}  // namespace pg::comm

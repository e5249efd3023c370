#include "comm/mpi_session.h"

#include <cstdlib>

#include "comm/error.h"
#include "comm/mpi_internal.h"

namespace pg::comm {

namespace mpi {

void check(int code, std::string_view group, std::string_view operation) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(code, text, &length);
  int rank = -1;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  throw fail(ExitCode::kComm, "rank {} ({}): {} on group {} failed: {}", rank, host_name(),
             operation, group, std::string_view(text, static_cast<std::size_t>(length)));
}

}  // namespace mpi

MpiSession::MpiSession(int& argc, char**& argv) {
  int provided = MPI_THREAD_SINGLE;
  mpi::check(MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided), "world", "MPI_Init");
  // OpenMP threads run beside the one thread that calls MPI.
  if (provided < MPI_THREAD_FUNNELED) {
    throw fail(ExitCode::kComm, "this MPI gives no MPI_THREAD_FUNNELED support");
  }
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  MPI_Comm_set_errhandler(MPI_COMM_SELF, MPI_ERRORS_RETURN);
}

MpiSession::~MpiSession() {
  MPI_Finalize();
}

void abort_job(int code) {
  MPI_Abort(MPI_COMM_WORLD, code);
  std::abort();
}

std::string host_name() {
  char name[MPI_MAX_PROCESSOR_NAME] = "";
  int length = 0;
  MPI_Get_processor_name(name, &length);
  return {name, static_cast<std::size_t>(length)};
}

struct Communicator::Impl {
  MPI_Comm comm = MPI_COMM_NULL;
  bool owned = false;

  Impl(MPI_Comm c, bool own) : comm(c), owned(own) {
    if (owned) MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN);
  }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;
  ~Impl() {
    if (owned) MPI_Comm_free(&comm);
  }
};

Communicator Communicator::world() {
  Communicator c;
  c.impl_ = std::make_shared<Impl>(MPI_COMM_WORLD, false);
  return c;
}

Communicator Communicator::self() {
  Communicator c;
  c.impl_ = std::make_shared<Impl>(MPI_COMM_SELF, false);
  return c;
}

int Communicator::size() const {
  int size = 0;
  mpi::check(MPI_Comm_size(impl_->comm, &size), "?", "MPI_Comm_size");
  return size;
}

int Communicator::rank() const {
  int rank = 0;
  mpi::check(MPI_Comm_rank(impl_->comm, &rank), "?", "MPI_Comm_rank");
  return rank;
}

const void* Communicator::raw() const {
  return &impl_->comm;
}

Communicator Communicator::split(int color, int key) const {
  MPI_Comm part = MPI_COMM_NULL;
  mpi::check(MPI_Comm_split(impl_->comm, color < 0 ? MPI_UNDEFINED : color, key, &part), "?",
             "MPI_Comm_split");
  Communicator c;
  if (part != MPI_COMM_NULL) c.impl_ = std::make_shared<Impl>(part, true);
  return c;
}

Communicator Communicator::split_by_host() const {
  MPI_Comm part = MPI_COMM_NULL;
  mpi::check(MPI_Comm_split_type(impl_->comm, MPI_COMM_TYPE_SHARED, rank(), MPI_INFO_NULL, &part),
             "?", "MPI_Comm_split_type");
  Communicator c;
  c.impl_ = std::make_shared<Impl>(part, true);
  return c;
}

Communicator Communicator::cartesian(const std::vector<int>& dims) const {
  const std::vector<int> periods(dims.size(), 0);
  MPI_Comm grid = MPI_COMM_NULL;
  mpi::check(MPI_Cart_create(impl_->comm, static_cast<int>(dims.size()), dims.data(),
                             periods.data(), /*reorder=*/0, &grid),
             "?", "MPI_Cart_create");
  Communicator c;
  c.impl_ = std::make_shared<Impl>(grid, true);
  return c;
}

Communicator Communicator::cut(const std::vector<bool>& keep) const {
  const std::vector<int> remain(keep.begin(), keep.end());
  MPI_Comm part = MPI_COMM_NULL;
  mpi::check(MPI_Cart_sub(impl_->comm, remain.data(), &part), "?", "MPI_Cart_sub");
  Communicator c;
  c.impl_ = std::make_shared<Impl>(part, true);
  return c;
}

}  // namespace pg::comm

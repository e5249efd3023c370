#include "comm/mpi_session.h"

#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <numeric>
#include <thread>

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
  throw fail(ExitCode::kComm, "rank {} ({}): {}{}{} failed: {}", rank, host_name(), operation,
             group.empty() ? "" : " on group ", group,
             std::string_view(text, static_cast<std::size_t>(length)));
}

namespace {
bool running() {
  int began = 0, ended = 0;
  MPI_Initialized(&began);
  MPI_Finalized(&ended);
  return began != 0 && ended == 0;
}
}  // namespace

}  // namespace mpi

MpiSession::MpiSession(int& argc, char**& argv) : exceptions_(std::uncaught_exceptions()) {
  int provided = MPI_THREAD_SINGLE;
  // No mpi::check: there is neither an error text nor a rank before MPI runs.
  if (MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS) {
    throw fail(ExitCode::kComm, "{}: MPI_Init_thread failed", host_name());
  }
  // OpenMP threads run beside the one thread that calls MPI.
  if (provided < MPI_THREAD_FUNNELED) {
    MPI_Finalize();
    throw fail(ExitCode::kComm, "this MPI gives no MPI_THREAD_FUNNELED support");
  }
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  MPI_Comm_set_errhandler(MPI_COMM_SELF, MPI_ERRORS_RETURN);
}

MpiSession::~MpiSession() {
  if (std::uncaught_exceptions() > exceptions_) {
    std::fprintf(stderr, "%s: bug: an exception left the MPI session\n", host_name().c_str());
    abort_job(static_cast<int>(ExitCode::kBug));
  }
  MPI_Finalize();
}

void abort_job(int code) {
  std::fflush(nullptr);  // what was said on the way down
  if (mpi::running()) MPI_Abort(MPI_COMM_WORLD, code);
  std::_Exit(code);
}

std::string host_name() {
  std::array<char, 257> name{};  // POSIX: at most 255, and perhaps not terminated
  if (gethostname(name.data(), name.size() - 1) != 0) return "unknown host";
  return name.data();
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

  // A communicator just made, or nothing for a rank outside it.
  static std::shared_ptr<Impl> adopt(MPI_Comm comm) {
    return comm == MPI_COMM_NULL ? nullptr : std::make_shared<Impl>(comm, true);
  }
};

const Communicator::Impl& Communicator::impl() const {
  PG_ASSERT(impl_ != nullptr, "an empty communicator");
  return *impl_;
}

Communicator Communicator::world() {
  return {std::make_shared<Impl>(MPI_COMM_WORLD, false)};
}

Communicator Communicator::self() {
  return {std::make_shared<Impl>(MPI_COMM_SELF, false)};
}

int Communicator::size() const {
  int size = 0;
  mpi::check(MPI_Comm_size(impl().comm, &size), "", "MPI_Comm_size");
  return size;
}

int Communicator::rank() const {
  int rank = 0;
  mpi::check(MPI_Comm_rank(impl().comm, &rank), "", "MPI_Comm_rank");
  return rank;
}

std::vector<int> Communicator::world_ranks() const {
  std::vector<int> ranks(static_cast<std::size_t>(size()));
  std::iota(ranks.begin(), ranks.end(), 0);
  MPI_Group mine = MPI_GROUP_NULL, all = MPI_GROUP_NULL;
  mpi::check(MPI_Comm_group(impl().comm, &mine), "", "MPI_Comm_group");
  mpi::check(MPI_Comm_group(MPI_COMM_WORLD, &all), "", "MPI_Comm_group");
  std::vector<int> there(ranks.size());
  const int code = MPI_Group_translate_ranks(mine, static_cast<int>(ranks.size()), ranks.data(),
                                             all, there.data());
  MPI_Group_free(&mine);
  MPI_Group_free(&all);
  mpi::check(code, "", "MPI_Group_translate_ranks");
  return there;
}

const void* Communicator::raw() const {
  return &impl().comm;
}

Communicator Communicator::split(int color, int key) const {
  MPI_Comm part = MPI_COMM_NULL;
  mpi::check(MPI_Comm_split(impl().comm, color < 0 ? MPI_UNDEFINED : color, key, &part), "",
             "MPI_Comm_split");
  return {Impl::adopt(part)};
}

Communicator Communicator::split_by_host() const {
  MPI_Comm part = MPI_COMM_NULL;
  mpi::check(MPI_Comm_split_type(impl().comm, MPI_COMM_TYPE_SHARED, rank(), MPI_INFO_NULL, &part),
             "", "MPI_Comm_split_type");
  return {Impl::adopt(part)};
}

Communicator Communicator::cartesian(const std::vector<int>& dims) const {
  const std::vector<int> periods(dims.size(), 0);
  MPI_Comm grid = MPI_COMM_NULL;
  mpi::check(MPI_Cart_create(impl().comm, static_cast<int>(dims.size()), dims.data(),
                             periods.data(), /*reorder=*/0, &grid),
             "", "MPI_Cart_create");
  return {Impl::adopt(grid)};
}

Communicator Communicator::cut(const std::vector<bool>& keep) const {
  int dims = 0;
  mpi::check(MPI_Cartdim_get(impl().comm, &dims), "", "MPI_Cartdim_get");
  PG_ASSERT(static_cast<int>(keep.size()) == dims, "{} flags for {} axes", keep.size(), dims);
  const std::vector<int> remain(keep.begin(), keep.end());
  MPI_Comm part = MPI_COMM_NULL;
  mpi::check(MPI_Cart_sub(impl().comm, remain.data(), &part), "", "MPI_Cart_sub");
  return {Impl::adopt(part)};
}

void Communicator::barrier_asleep(std::chrono::milliseconds pause) const {
  MPI_Request request = MPI_REQUEST_NULL;
  mpi::check(MPI_Ibarrier(impl().comm, &request), "", "MPI_Ibarrier");
  for (;;) {
    int done = 0;
    mpi::check(MPI_Test(&request, &done, MPI_STATUS_IGNORE), "", "MPI_Test");
    if (done != 0) return;
    std::this_thread::sleep_for(pause);
  }
}

}  // namespace pg::comm

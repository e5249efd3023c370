#include "harness/wire_bytes.h"

#include <dlfcn.h>
#include <mpi.h>

#include <numeric>
#include <vector>

#include "comm/error.h"

namespace pg::testing {

namespace {

constexpr const char* kVariable = "pml_monitoring_messages_size";

void check(int code, const char* operation) {
  if (code != MPI_SUCCESS) throw fail(ExitCode::kComm, "{} failed: {}", operation, code);
}

// Open MPI 4.1 registers the variable, then declares it invalid when it closes the component that
// did so (which stays in use, wrapped round the real transport). Registering again brings it back.
void register_again() {
  using Register = void (*)(void*);
  void* const library = dlopen("libmca_common_monitoring.so.50", RTLD_NOW | RTLD_NOLOAD);
  if (library == nullptr) return;
  if (void* const symbol = dlsym(library, "mca_common_monitoring_register"); symbol != nullptr) {
    reinterpret_cast<Register>(symbol)(nullptr);
  }
  dlclose(library);
}

int index_of_variable() {
  int index = 0;
  const auto find = [&] {
    return MPI_T_pvar_get_index(kVariable, MPI_T_PVAR_CLASS_SIZE, &index) == MPI_SUCCESS;
  };
  if (find()) return index;
  register_again();
  if (find()) return index;
  throw fail(ExitCode::kComm,
             "no MPI_T variable {}: this needs Open MPI with its monitoring components and "
             "OMPI_MCA_pml_monitoring_enable=1 in the environment",
             kVariable);
}

}  // namespace

struct WireBytes::Impl {
  MPI_T_pvar_session session = MPI_T_PVAR_SESSION_NULL;
  MPI_T_pvar_handle handle = MPI_T_PVAR_HANDLE_NULL;
  int peers = 0;
  std::int64_t start = 0;

  Impl() {
    int provided = 0;
    check(MPI_T_init_thread(MPI_THREAD_SINGLE, &provided), "MPI_T_init_thread");
    try {
      const int index = index_of_variable();
      check(MPI_T_pvar_session_create(&session), "MPI_T_pvar_session_create");
      MPI_Comm world = MPI_COMM_WORLD;  // one count for each of its ranks
      check(MPI_T_pvar_handle_alloc(session, index, &world, &handle, &peers),
            "MPI_T_pvar_handle_alloc");
      check(MPI_T_pvar_start(session, handle), "MPI_T_pvar_start");
    } catch (...) {
      close();
      throw;
    }
  }
  ~Impl() { close(); }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  void close() {
    if (handle != MPI_T_PVAR_HANDLE_NULL) MPI_T_pvar_handle_free(session, &handle);
    if (session != MPI_T_PVAR_SESSION_NULL) MPI_T_pvar_session_free(&session);
    MPI_T_finalize();
  }

  std::int64_t total() const {
    // Open MPI declares an unsigned and writes 64 bits.
    std::vector<std::uint64_t> sizes(static_cast<std::size_t>(peers));
    check(MPI_T_pvar_read(session, handle, sizes.data()), "MPI_T_pvar_read");
    return static_cast<std::int64_t>(std::accumulate(sizes.begin(), sizes.end(), std::uint64_t{0}));
  }
};

WireBytes::WireBytes() : impl_(std::make_unique<Impl>()) {
  reset();
}
WireBytes::~WireBytes() = default;

std::int64_t WireBytes::sent() const {
  return impl_->total() - impl_->start;
}
void WireBytes::reset() {
  impl_->start = impl_->total();
}

}  // namespace pg::testing

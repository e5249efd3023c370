// MPI's lifetime and communicators, without <mpi.h> in sight: the handles are opaque here.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "comm/group.h"

namespace pg::comm {

// MPI_Init_thread(FUNNELED) .. MPI_Finalize. Without a launcher it is a world of one rank.
class MpiSession {
 public:
  MpiSession(int& argc, char**& argv);
  ~MpiSession();
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;
};

// Ends every rank of the job with `code`, from one rank, when agreement is impossible.
[[noreturn]] void abort_job(int code);

// A communicator that is freed with the last copy of the handle. Errors return codes, which the
// groups turn into Error(kComm).
class Communicator {
 public:
  static Communicator world();
  static Communicator self();

  int size() const;
  int rank() const;
  // MPI_Comm_split; ranks with color < 0 get an empty handle.
  Communicator split(int color, int key) const;
  Communicator split_by_host() const;                          // MPI_COMM_TYPE_SHARED
  Communicator cartesian(const std::vector<int>& dims) const;  // no periods, no reordering
  Communicator cut(const std::vector<bool>& keep) const;       // MPI_Cart_sub
  explicit operator bool() const { return impl_ != nullptr; }

  // The MPI_Comm behind, for the few files that include <mpi.h>: *static_cast<const
  // MPI_Comm*>(raw()).
  const void* raw() const;

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

// Collectives over `communicator` on host buffers.
std::unique_ptr<Group> make_mpi_group(Communicator communicator, std::string name);

std::string host_name();

}  // namespace pg::comm

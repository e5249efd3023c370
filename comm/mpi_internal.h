// What the files that include <mpi.h> share. Not for anyone else.
#pragma once

#include <mpi.h>

#include <string_view>

#include "comm/group.h"
#include "comm/mpi_session.h"

namespace pg::comm::mpi {

// Error(kComm) naming the group, operation, rank and host when `code` is not MPI_SUCCESS.
void check(int code, std::string_view group, std::string_view operation);

inline MPI_Comm handle(const Communicator& communicator) {
  return *static_cast<const MPI_Comm*>(communicator.raw());
}

MPI_Datatype datatype(DType type);

}  // namespace pg::comm::mpi

// What the files that include <mpi.h> share. Not for anyone else.
#pragma once

#include <mpi.h>

#include <string_view>

#include "comm/group.h"
#include "comm/mpi_session.h"

namespace pg::comm::mpi {

// Error(kComm) naming operation, group (unless empty), rank and host when `code` is not
// MPI_SUCCESS.
void check(int code, std::string_view group, std::string_view operation);

inline MPI_Comm handle(const Communicator& communicator) {
  return *static_cast<const MPI_Comm*>(communicator.raw());
}

MPI_Datatype datatype(DType type);

// A reduction of our own, freed with its owner.
class Operation {
 public:
  explicit Operation(MPI_User_function* function) {
    check(MPI_Op_create(function, /*commute=*/1, &op_), "", "MPI_Op_create");
  }
  ~Operation() { MPI_Op_free(&op_); }
  Operation(const Operation&) = delete;
  Operation& operator=(const Operation&) = delete;
  MPI_Op get() const { return op_; }

 private:
  MPI_Op op_ = MPI_OP_NULL;
};

// The MPI_Op of each (type, operation): MPI's own where it has one that keeps our contract.
class Reductions {
 public:
  Reductions();
  MPI_Op op(DType type, ReduceOp op) const;

 private:
  Operation bf16_sum_, bf16_max_, bf16_min_;
  Operation f32_max_, f32_min_, f64_max_, f64_min_;
};

}  // namespace pg::comm::mpi

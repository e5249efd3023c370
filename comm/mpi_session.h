// MPI's lifetime and communicators, without <mpi.h> in sight: the handles are opaque here.
#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "comm/group.h"

namespace pg::comm {

// MPI_Init_thread(FUNNELED) .. MPI_Finalize. Without a launcher it is a world of one rank.
//
// Exceptions are caught while it lives: one that unwinds through it ends the job by abort_job(1),
// because MPI_Finalize would wait for ranks that know nothing of it. main() has this shape:
//
//   MpiSession mpi(argc, argv);
//   try {
//     return work();
//   } catch (const Error& error) {
//     const auto world = Communicator::world();
//     const bool everyone = error.ranks() == world.size();  // `together` agreed on it
//     if (!everyone || world.rank() == 0) print(error);
//     if (!everyone) abort_job(static_cast<int>(error.code()));
//     return static_cast<int>(error.code());
//   }
class MpiSession {
 public:
  MpiSession(int& argc, char**& argv);
  ~MpiSession();
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;

 private:
  int exceptions_;  // in flight when it began
};

// Ends every rank of the job with `code`, from one rank, when agreement is impossible. No core
// dump; without a session it ends this process.
[[noreturn]] void abort_job(int code);

// A communicator that is freed with the last copy of the handle, which must be before MPI_Finalize.
// A failed call throws Error(kComm). A default-made handle, and that of a rank which has no place
// in the new communicator, is empty.
class Communicator {
 public:
  Communicator() = default;
  static Communicator world();
  static Communicator self();

  int size() const;
  int rank() const;
  // The members' ranks in the job (MPI_COMM_WORLD), in this communicator's order. Local.
  std::vector<int> world_ranks() const;
  // MPI_Comm_split: ranks in the order of `key`; those with color < 0 get an empty handle.
  Communicator split(int color, int key) const;
  Communicator split_by_host() const;  // MPI_COMM_TYPE_SHARED
  // MPI_Cart_create without periods or reordering; ranks past the product get an empty handle.
  Communicator cartesian(const std::vector<int>& dims) const;
  Communicator cut(const std::vector<bool>& keep) const;  // MPI_Cart_sub
  // Collective. A barrier whose waiting takes no processor time: it looks again after each `pause`.
  void barrier_asleep(std::chrono::milliseconds pause) const;
  explicit operator bool() const { return impl_ != nullptr; }

  // The MPI_Comm behind, for the few files that include <mpi.h>: *static_cast<const
  // MPI_Comm*>(raw()).
  const void* raw() const;

 private:
  struct Impl;
  Communicator(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}
  const Impl& impl() const;  // PG_ASSERTs that there is one
  std::shared_ptr<Impl> impl_;
};

// An MPI count is an int; longer buffers travel in pieces.
inline constexpr std::size_t kLongestMessage = std::size_t{1} << 30;

// Collectives over `communicator` on host buffers, at most `longest_message` elements an MPI call
// (the same on all ranks; tests make it small). Local. Two groups over one communicator share its
// order of calls.
std::unique_ptr<Group> make_mpi_group(Communicator communicator, std::string name,
                                      std::size_t longest_message = kLongestMessage);

std::string host_name();  // with or without a session

}  // namespace pg::comm

// The least of one number over ranks, found while they go on: each gives its number at one moment
// and takes the result at a later one. So ranks that agree at the same places of their program need
// not wait for each other (an asynchronous save asks after each step whether all have written).
#pragma once

#include <cstdint>
#include <memory>

#include "comm/mpi_session.h"

namespace pg::comm {

class LaterMin {
 public:
  // Collective: takes a communicator of its own, so that calls on others need no order with it.
  explicit LaterMin(const Communicator& ranks);
  // Waits for a result not taken: all ranks have given, or will before their next wait for this.
  ~LaterMin();
  LaterMin(const LaterMin&) = delete;
  LaterMin& operator=(const LaterMin&) = delete;

  void give(std::int64_t mine);  // not while one is on its way
  bool given() const;
  std::int64_t take();  // Error(kComm)

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace pg::comm

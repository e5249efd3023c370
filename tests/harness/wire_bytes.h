// Bytes that this process has sent over MPI, as Open MPI's monitoring counts them below everything
// of ours: messages and the messages inside its collectives, to every rank, without headers. What a
// run claims to send is held against this.
//
// Needs OMPI_MCA_pml_monitoring_enable=1 in the environment before MPI starts. Sees Open MPI's
// point-to-point layer; collectives that go round it (hcoll, coll/sm) would not be counted, so use
// it with a lower bound too.
#pragma once

#include <cstdint>
#include <memory>

namespace pg::testing {

class WireBytes {
 public:
  // Between MPI_Init and MPI_Finalize; Error(kComm) when the monitoring is not there, with why.
  WireBytes();
  ~WireBytes();
  WireBytes(const WireBytes&) = delete;
  WireBytes& operator=(const WireBytes&) = delete;

  // Since this object was made or last reset. A send counts when it starts.
  std::int64_t sent() const;
  void reset();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace pg::testing

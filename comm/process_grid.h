// The live grid: GridShape cut out of an MPI communicator, one Group an axis and the groups that
// have names of their own, made once. All of them count what they carry in traffic(). Move-only;
// must die before MPI_Finalize.
//
// With a GPU its groups carry buffers on it too: over NCCL when every rank has a GPU of its own,
// through pinned memory when ranks share one (comm/gpu_groups.h). Messages on the GPU: on pp and
// cp.
#pragma once

#include <memory>
#include <string>

#include "comm/gpu.h"
#include "comm/grid_shape.h"
#include "comm/group.h"
#include "comm/mpi_session.h"
#include "comm/traffic.h"

namespace pg::comm {

class ProcessGrid {
 public:
  // Collective over `world`, whose size must be shape.world() (Error kDeck otherwise). `gpu`: on
  // every rank or on none; it must outlive the grid and its subgroups.
  ProcessGrid(const Communicator& world, const GridShape& shape, const Gpu* gpu = nullptr);
  ProcessGrid(ProcessGrid&&) noexcept;
  ProcessGrid& operator=(ProcessGrid&&) noexcept;
  ~ProcessGrid();

  const GridShape& shape() const;
  const Coord& coord() const;
  WorldRank rank() const;
  bool root() const { return to_int(rank()) == 0; }

  Group& world();
  Group& axis(Axis axis);
  Group& dense_replicas();   // dp*ep*cp: ranks with the same dense parameters
  Group& expert_replicas();  // dp*cp: ranks with the same expert parameters
  Group& batch();            // dp*ep: ranks with different sequences
  // "pp ends": the first and the last pipeline stage with otherwise equal coordinates (0 and 1 in
  // the group), where tied embeddings lie. One rank on the stages between, and when pp is 1.
  Group& pipeline_ends();

  // "tp/SIZE": this rank's block of `size` consecutive tp ranks, in tp order, with its own order of
  // calls; e.g. the ranks that hold copies of one KV head. Collective: all ranks of the world call
  // it alike. `size` divides tp (PG_ASSERT). The caller's; may outlive the grid.
  std::unique_ptr<Group> tensor_subgroup(int size);

  // What carries buffers, for the banner: "MPI", "NCCL 2.28.9" or "MPI through pinned memory (ranks
  // share a GPU)".
  const std::string& transport() const;

  // What this rank's groups, subgroups included, have carried since the grid was made.
  Traffic& traffic();

  const Communicator& communicator() const;  // the Cartesian one, for io
  const std::string& host() const;
  int local_rank() const;  // among the ranks of this host
  int local_size() const;
  bool tensor_ranks_share_host() const;  // every tp group lies inside one node

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace pg::comm

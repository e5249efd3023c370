#include "comm/process_grid.h"

#include <array>
#include <cstdint>
#include <vector>

#include "comm/error.h"

namespace pg::comm {

struct ProcessGrid::Impl {
  GridShape shape;
  Coord coord;
  Communicator cartesian;
  std::string host = host_name();
  int local_rank = 0, local_size = 1;
  bool tensor_ranks_share_host = true;
  std::unique_ptr<Group> world, dense_replicas, expert_replicas, batch;
  std::array<std::unique_ptr<Group>, kAxes> axes;

  std::unique_ptr<Group> cut(AxisSet kept, std::string name) const {
    if (shape.size(kept) == 1) return make_self_group(std::move(name));
    std::vector<bool> keep;
    for (int a = 0; a < kAxes; ++a) keep.push_back(kept.has(static_cast<Axis>(a)));
    return make_mpi_group(cartesian.cut(keep), std::move(name));
  }
};

ProcessGrid::ProcessGrid(const Communicator& world, const GridShape& shape)
    : impl_(std::make_unique<Impl>()) {
  if (world.size() != shape.world()) {
    throw fail(ExitCode::kDeck, "grid: {} needs {} ranks, the job has {}", shape.text(),
               shape.world(), world.size());
  }
  auto& g = *impl_;
  g.shape = shape;
  const auto dims = shape.dims();
  g.cartesian = world.cartesian({dims.begin(), dims.end()});
  g.coord = shape.coord(WorldRank{g.cartesian.rank()});

  // Every rank makes every group in this order: MPI_Cart_sub is collective.
  g.world = g.shape.world() == 1 ? make_self_group("world") : make_mpi_group(g.cartesian, "world");
  for (int a = 0; a < kAxes; ++a) {
    const auto axis = static_cast<Axis>(a);
    g.axes[a] = g.cut({axis}, axis_name(axis));
  }
  g.dense_replicas = g.cut(kDenseReplicas, "dp*ep*cp");
  g.expert_replicas = g.cut(kExpertReplicas, "dp*cp");
  g.batch = g.cut(kBatch, "dp*ep");

  const auto node = make_mpi_group(g.cartesian.split_by_host(), "node");
  g.local_rank = node->rank();
  g.local_size = node->size();
  // A node is known by its lowest rank (names may repeat); a tp group lies inside one when all its
  // ranks know the same.
  const std::int64_t me = g.cartesian.rank();
  const auto node_id = all_reduce(*node, me, ReduceOp::kMin);
  auto& tensor = *g.axes[static_cast<int>(Axis::kTP)];
  const std::int64_t inside =
      all_reduce(tensor, node_id, ReduceOp::kMin) == all_reduce(tensor, node_id, ReduceOp::kMax);
  g.tensor_ranks_share_host = all_reduce(*g.world, inside, ReduceOp::kMin) == 1;
}

ProcessGrid::ProcessGrid(ProcessGrid&&) noexcept = default;
ProcessGrid& ProcessGrid::operator=(ProcessGrid&&) noexcept = default;
ProcessGrid::~ProcessGrid() = default;

const GridShape& ProcessGrid::shape() const {
  return impl_->shape;
}
const Coord& ProcessGrid::coord() const {
  return impl_->coord;
}
WorldRank ProcessGrid::rank() const {
  return impl_->shape.rank(impl_->coord);
}
Group& ProcessGrid::world() {
  return *impl_->world;
}
Group& ProcessGrid::axis(Axis axis) {
  return *impl_->axes[static_cast<int>(axis)];
}
Group& ProcessGrid::dense_replicas() {
  return *impl_->dense_replicas;
}
Group& ProcessGrid::expert_replicas() {
  return *impl_->expert_replicas;
}
Group& ProcessGrid::batch() {
  return *impl_->batch;
}
const Communicator& ProcessGrid::communicator() const {
  return impl_->cartesian;
}
const std::string& ProcessGrid::host() const {
  return impl_->host;
}
int ProcessGrid::local_rank() const {
  return impl_->local_rank;
}
int ProcessGrid::local_size() const {
  return impl_->local_size;
}
bool ProcessGrid::tensor_ranks_share_host() const {
  return impl_->tensor_ranks_share_host;
}

}  // namespace pg::comm

#include "comm/process_grid.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "comm/error.h"
#include "comm/gpu_choice.h"
#include "comm/gpu_groups.h"

namespace pg::comm {

struct ProcessGrid::Impl {
  GridShape shape;
  Coord coord;
  Communicator cartesian;
  std::string host = host_name();
  int local_rank = 0, local_size = 1;
  bool tensor_ranks_share_host = true;
  Traffic traffic;
  std::unique_ptr<Group> world, dense_replicas, expert_replicas, batch, pipeline_ends;
  std::array<std::unique_ptr<Group>, kAxes> axes;

  const Gpu* gpu = nullptr;
  bool nccl = false;
  NcclBlocks blocks;
  std::string transport = "MPI";

  // Collective: which carrier all ranks take.
  void choose_transport() {
    const auto mpi = make_mpi_group(cartesian, "world");
    const auto ids = all_gather(*mpi, gpu ? gpu->info().id : "");
    const auto with = std::ranges::count_if(ids, [](const auto& id) { return !id.empty(); });
    PG_ASSERT(with == (gpu ? shape.world() : 0), "{} of {} ranks have a GPU", with, shape.world());
    if (gpu == nullptr || shape.world() == 1) return;
    nccl = !gpus_are_shared(ids);
    transport = nccl ? "NCCL " + nccl_version() : "MPI through pinned memory (ranks share a GPU)";
    const auto processors = all_reduce(*mpi, std::int64_t{gpu->info().processors}, ReduceOp::kMin);
    blocks = share_blocks(static_cast<int>(processors), communicators(),
                          lanes_of(shape.size(Axis::kPP)) + lanes_of(shape.size(Axis::kCP)));
  }

  // Groups of more than one rank that a rank may be in, one block of tp ranks included.
  int communicators() const {
    int count = 1;  // the world
    for (int a = 0; a < kAxes; ++a) count += shape.size(static_cast<Axis>(a)) > 1;
    for (const auto kept : {kDenseReplicas, kExpertReplicas, kBatch}) count += shape.size(kept) > 1;
    return count + (shape.size(Axis::kPP) > 1) + (shape.size(Axis::kTP) > 1);
  }

  std::unique_ptr<Group> counted(Communicator members, std::string name, bool messages = false) {
    auto group =
        gpu == nullptr ? make_mpi_group(std::move(members), std::move(name))
        : nccl ? make_nccl_group(std::move(members), std::move(name), *gpu, {blocks, messages})
               : make_staged_group(std::move(members), std::move(name), *gpu);
    return make_counted_group(std::move(group), traffic);
  }

  std::unique_ptr<Group> alone(std::string name) { return make_self_group(std::move(name), gpu); }

  std::unique_ptr<Group> cut(AxisSet kept, std::string name, bool messages = false) {
    if (shape.size(kept) == 1) return alone(std::move(name));
    std::vector<bool> keep;
    for (int a = 0; a < kAxes; ++a) keep.push_back(kept.has(static_cast<Axis>(a)));
    return counted(cartesian.cut(keep), std::move(name), messages);
  }

  std::unique_ptr<Group> ends() {
    const int stages = shape.size(Axis::kPP);
    const std::string name = "pp ends";
    if (stages == 1) return alone(name);
    // The rank of the stage-0 member tells the other four coordinates.
    Coord first = coord;
    first[Axis::kPP] = 0;
    const bool end = coord[Axis::kPP] == 0 || coord[Axis::kPP] == stages - 1;
    auto pair = cartesian.split(end ? to_int(shape.rank(first)) : -1, cartesian.rank());
    return end ? counted(std::move(pair), name) : alone(name);
  }
};

ProcessGrid::ProcessGrid(const Communicator& world, const GridShape& shape, const Gpu* gpu)
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

  g.gpu = gpu;
  g.choose_transport();

  // Every rank makes every group in this order: MPI_Cart_sub is collective.
  g.world = g.shape.world() == 1 ? g.alone("world") : g.counted(g.cartesian, "world");
  for (int a = 0; a < kAxes; ++a) {
    const auto axis = static_cast<Axis>(a);
    g.axes[a] = g.cut({axis}, axis_name(axis), axis == Axis::kPP || axis == Axis::kCP);
  }
  g.dense_replicas = g.cut(kDenseReplicas, "dp*ep*cp");
  g.expert_replicas = g.cut(kExpertReplicas, "dp*cp");
  g.batch = g.cut(kBatch, "dp*ep");
  g.pipeline_ends = g.ends();

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
  g.traffic.reset();  // of this constructor
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
Group& ProcessGrid::pipeline_ends() {
  return *impl_->pipeline_ends;
}
std::unique_ptr<Group> ProcessGrid::tensor_subgroup(int size) {
  auto& g = *impl_;
  const int tp = g.shape.size(Axis::kTP);
  PG_ASSERT(size >= 1 && tp % size == 0, "tp {} in blocks of {}", tp, size);
  auto name = fmt::format("tp/{}", size);
  if (size == 1) return g.alone(std::move(name));
  // tp is the fastest axis, so that its blocks are blocks of world ranks too.
  const int me = g.cartesian.rank();
  return g.counted(g.cartesian.split(me / size, me), std::move(name));
}
const std::string& ProcessGrid::transport() const {
  return impl_->transport;
}
Traffic& ProcessGrid::traffic() {
  return impl_->traffic;
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

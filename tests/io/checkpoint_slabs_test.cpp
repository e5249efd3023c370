// The plan of transfers, without files.
#include "io/checkpoint_slabs.h"

#include <numeric>

#include "checkpoint_state.h"

namespace pg::io {
namespace {

// Global row-major indices that a transfer covers, in the order HDF5 walks a selection.
std::vector<std::int64_t> file_order(const comm::TensorRecord& tensor, const Transfer& transfer) {
  std::vector<std::int64_t> indices;
  for (std::int64_t index = 0; index < tensor.elements(); ++index) {
    for (const auto& slab : transfer.slabs) {
      std::int64_t rest = index;
      bool inside = true;
      for (std::size_t a = tensor.shape.size(); a-- > 0;) {
        const auto at = rest % tensor.shape[a];
        inside &= at >= slab.offset[a] && at < slab.offset[a] + slab.extent[a];
        rest /= tensor.shape[a];
      }
      if (inside) indices.push_back(index);
    }
  }
  return indices;
}

TEST(CheckpointSlabs, every_element_moves_once_in_file_order_within_the_limit) {
  for (const auto cut : {Cut::kRows, Cut::kColumns, Cut::kFlat, Cut::kReplicated}) {
    for (const int size : {1, 2, 3, 5}) {
      for (const std::int64_t limit : {4, 12, 100, 1 << 20}) {
        std::vector<int> seen(9 * 13, 0);
        for (int rank = 0; rank < size; ++rank) {
          TestState state({{"t", DType::kF32, {9, 13}, cut}}, rank, size);
          auto& tensor = state.tensors()[0];
          // Each element holds its own global index.
          for (auto& slab : tensor.slabs) {
            auto* data = static_cast<std::int32_t*>(slab.data);
            for (std::int64_t i = 0; i < slab_elements(slab); ++i) {
              data[i] = static_cast<std::int32_t>((slab.offset[0] + i / slab.extent[1]) * 13 +
                                                  slab.offset[1] + i % slab.extent[1]);
            }
          }
          for (const auto& transfer : plan_transfers(tensor, tensor.slabs, limit)) {
            EXPECT_LE(transfer.elements * 4, limit);
            std::vector<std::int64_t> in_memory;
            for (const auto& slab : transfer.slabs) {
              const auto* data = static_cast<const std::int32_t*>(slab.data);
              in_memory.insert(in_memory.end(), data, data + slab_elements(slab));
            }
            EXPECT_EQ(in_memory, file_order(tensor, transfer));
            for (const auto index : in_memory) ++seen[static_cast<std::size_t>(index)];
          }
        }
        const int copies = cut == Cut::kReplicated ? size : 1;
        EXPECT_EQ(std::count(seen.begin(), seen.end(), copies), 9 * 13)
            << "cut " << static_cast<int>(cut) << " size " << size << " limit " << limit;
      }
    }
  }
}

TEST(CheckpointSlabs, a_flat_share_of_a_matrix_is_one_transfer) {
  TestState state({{"t", DType::kF32, {9, 13}, Cut::kFlat}}, 1, 2);
  const auto& tensor = state.tensors()[0];
  ASSERT_GT(tensor.slabs.size(), 1u);
  EXPECT_EQ(plan_transfers(tensor, tensor.slabs, 1 << 20).size(), 1u);
}

TEST(CheckpointSlabs, a_slab_outside_the_tensor_is_a_bug) {
  TestState state({{"t", DType::kF32, {4, 3}, Cut::kRows}}, 0, 2);
  auto& tensor = state.tensors()[0];
  tensor.slabs[0].offset[0] = 3;
  expect_contains(error_of(ExitCode::kBug, [&] { plan_transfers(tensor, tensor.slabs, 1 << 20); }),
                  "axis 0");
}

}  // namespace
}  // namespace pg::io

// state.h5: the tensors of a checkpoint in one HDF5 file, /tensors/NAME a contiguous dataset each.
//
// Rank 0 lays the file out alone: every dataset, every byte of metadata and all disk blocks exist
// before any other rank opens it. Then all ranks open it through MPI-IO and write their slabs in
// place. So a full disk is one rank's ordinary error, and the same state gives the same bytes on
// every grid.
//
// Transfers are independent, not collective: with Open MPI 4.1 (OMPIO, vulcan) a write that fails
// inside a collective one is reported to no rank, or leaves the others waiting for ever; and slabs
// of rows, which most are, gain nothing from collective buffers.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <vector>

#include "comm/group.h"
#include "comm/mpi_session.h"
#include "comm/tensor_record.h"

namespace pg::io {

inline constexpr const char* kStateName = "state.h5";

// Serial. Creates the file for these tensors (global shapes) and reserves its blocks. Returns its
// size, which writing does not change. Error(kSave).
std::int64_t lay_out_state(const std::filesystem::path& path,
                           std::span<const comm::TensorRecord> tensors);

// Collective over `world` (`group` is the same ranks). Owners write their slabs. `before_tensor`
// runs on every rank before each tensor; what it throws is a failure of the save. Error(kSave) on
// all ranks when any rank failed; kBug when the owned slabs do not add up to the tensors.
void write_state(const comm::Communicator& world, comm::Group& group,
                 const std::filesystem::path& path, std::span<const comm::TensorRecord> tensors,
                 const std::function<void()>& before_tensor);

// A tensor of the file, without slabs, and the byte at which its data begins.
struct StoredTensor {
  comm::TensorRecord tensor;
  std::int64_t offset = 0;
};

// Serial. The tensors in the file, by name. Accepts only what lay_out_state makes: hard links,
// contiguous storage inside the file, known types, nothing shared, nothing else. So whoever reads
// at these offsets reads this file's data. Error(kCheckpoint).
std::vector<StoredTensor> locate_state(const std::filesystem::path& path);
// The same without the offsets.
std::vector<comm::TensorRecord> list_state(const std::filesystem::path& path);

// Error(kCheckpoint) that lists every tensor in which `stored` and `wanted` differ.
void compare_tensors(const std::filesystem::path& path, std::span<const comm::TensorRecord> stored,
                     std::span<const comm::TensorRecord> wanted);

// Serial, this process alone: fills the slabs. The list is exactly the file's. Error(kCheckpoint).
void read_state(const std::filesystem::path& path, std::span<const comm::TensorRecord> tensors);

// At least the size of the file that lay_out_state makes, within the bounds of checkpoint_bytes.
std::int64_t state_bytes(std::span<const comm::TensorRecord> tensors);

}  // namespace pg::io

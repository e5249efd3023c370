// state.h5: the tensors of a checkpoint in one HDF5 file, /tensors/NAME a contiguous dataset each.
//
// Writing: where each tensor lies, and every byte that is not a tensor's, depends on the list of
// tensors alone. HDF5 lays that out once, in memory; a save then is bytes at known places, written
// by positional writes of every rank, in any thread, without HDF5 or MPI. Rank 0 has the file and
// its disk blocks made before any other rank writes, so that a full disk is one rank's ordinary
// error; and the same state gives the same bytes on every grid.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "comm/tensor_record.h"

namespace pg::io {

inline constexpr const char* kStateName = "state.h5";

// Where tensors begin, when they are a MiB or more.
inline constexpr std::int64_t kAlignment = 4096;

struct StateLayout {
  struct Part {
    std::int64_t offset = 0;
    std::string bytes;
  };
  std::int64_t size = 0;              // of the file
  std::vector<std::int64_t> offsets;  // of each tensor's first byte, in the order of the list
  std::vector<Part> metadata;         // all other bytes that are not zero
};

// Serial. For tensors of these names, types and global shapes. Error(kSave) that names `path`.
StateLayout make_layout(const std::filesystem::path& path,
                        std::span<const comm::TensorRecord> tensors,
                        std::int64_t alignment = kAlignment);

// Serial. Creates an empty file by MPI-IO with these hints ("NAME=VALUE"), which parallel file
// systems heed only then. Error(kSave).
void create_with_hints(const std::filesystem::path& path, const std::vector<std::string>& hints);
// Serial, any thread. Creates the file if it does not exist, reserves its blocks and writes its
// metadata. Error(kSave).
void lay_out_state(const std::filesystem::path& path, const StateLayout& layout);
// Serial, any thread. The file is as large as it was laid out, and its metadata is what was
// written, as the system returns it: after the ranks' data, whatever wrote over it meanwhile. Its
// page cache may answer. Error(kSave).
void check_metadata(const std::filesystem::path& path, const StateLayout& layout);

// What goes on between the pieces of a long piece of work; what it throws ends that.
using BetweenPieces = std::function<void()>;

// Each rank for itself, any thread. Writes the slabs that this rank owns; `offsets` as in the
// layout. `before_tensor` runs before each tensor. Error(kSave) naming the tensor, kNumerical when
// it holds a value that is not finite. Nothing is synced.
void write_owned(const std::filesystem::path& path, std::span<const std::int64_t> offsets,
                 std::span<const comm::TensorRecord> tensors, const BetweenPieces& before_tensor,
                 const BetweenPieces& between);
// The same bytes onto storage, piece by piece with progress noted (one fsync of a large share would
// look like a hang), then fsync. Error(kSave).
void sync_owned(const std::filesystem::path& path, std::span<const std::int64_t> offsets,
                std::span<const comm::TensorRecord> tensors, const BetweenPieces& between);
// The same bytes back from storage, past the page cache where the system allows (sync first), and
// compared with memory. Error(kSave) naming the tensor and the byte in the file.
void verify_owned(const std::filesystem::path& path, std::span<const std::int64_t> offsets,
                  std::span<const comm::TensorRecord> tensors, const BetweenPieces& between);

// A tensor of the file, without slabs, and the byte at which its data begins.
struct StoredTensor {
  comm::TensorRecord tensor;
  std::int64_t offset = 0;
};

// Serial. The tensors in the file, by name. Accepts only what make_layout plans: hard links,
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

// At least the size of the file that make_layout plans, within the bounds of checkpoint_bytes.
std::int64_t state_bytes(std::span<const comm::TensorRecord> tensors,
                         std::int64_t alignment = kAlignment);

}  // namespace pg::io

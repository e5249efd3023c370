// Laying out state.h5 and writing it: see io/checkpoint_state.h.
#include <fcntl.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <cstring>

#include "comm/agree.h"
#include "comm/mpi_internal.h"
#include "io/checkpoint_format.h"
#include "io/checkpoint_state.h"
#include "io/files.h"

namespace pg::io {

using comm::TensorRecord;
using h5::Handle;
using h5::Place;

Handle select_in_file(const Place& place, hid_t dataset, const Transfer& transfer) {
  Handle space(place, H5Dget_space(dataset), H5Sclose, "H5Dget_space");
  for (const auto& slab : transfer.slabs) {
    const auto offset = dims_of(slab.offset), extent = dims_of(slab.extent);
    const auto how = &slab == &transfer.slabs.front() ? H5S_SELECT_SET : H5S_SELECT_OR;
    h5::check(place,
              H5Sselect_hyperslab(space.id(), how, offset.data(), nullptr, extent.data(), nullptr),
              "H5Sselect_hyperslab");
  }
  return space;
}

Handle memory_space(const Place& place, const Transfer& transfer) {
  const auto elements = static_cast<hsize_t>(transfer.elements);
  return Handle(place, H5Screate_simple(1, &elements, nullptr), H5Sclose, "H5Screate_simple");
}

namespace {

// Whole pages for large tensors, so that ranks rarely share one.
constexpr hsize_t kAlignFrom = hsize_t{1} << 20, kAlignTo = 4096;

std::size_t metadata_block(std::size_t tensors) {
  return std::bit_ceil(std::size_t{2048} + 512 * tensors);
}

// Creation options without the time of day: the same state is the same bytes.
Handle untimed(const Place& place, hid_t what) {
  Handle options(place, H5Pcreate(what), H5Pclose, "H5Pcreate");
  h5::check(place, H5Pset_obj_track_times(options.id(), false), "H5Pset_obj_track_times");
  return options;
}

void create_dataset(const Place& place, hid_t group, const TensorRecord& tensor) {
  PG_ASSERT(!tensor.shape.empty() && tensor.shape.size() <= H5S_MAX_RANK && tensor.elements() > 0,
            "{}: {} axes, {} elements", tensor.name, tensor.shape.size(), tensor.elements());
  PG_ASSERT(!tensor.name.empty() && tensor.name != "." && tensor.name != ".." &&
                tensor.name.find('/') == std::string::npos,
            "tensor name '{}'", tensor.name);
  const auto options = untimed(place, H5P_DATASET_CREATE);
  h5::check(place, H5Pset_layout(options.id(), H5D_CONTIGUOUS), "H5Pset_layout");
  h5::check(place, H5Pset_alloc_time(options.id(), H5D_ALLOC_TIME_EARLY), "H5Pset_alloc_time");
  h5::check(place, H5Pset_fill_time(options.id(), H5D_FILL_TIME_NEVER), "H5Pset_fill_time");
  const auto dims = dims_of(tensor.shape);
  const Handle space(place, H5Screate_simple(static_cast<int>(dims.size()), dims.data(), nullptr),
                     H5Sclose, "H5Screate_simple");
  const auto type = h5::storage_type(tensor.dtype);
  const Handle dataset(place,
                       H5Dcreate2(group, tensor.name.c_str(), type, space.id(), H5P_DEFAULT,
                                  options.id(), H5P_DEFAULT),
                       H5Dclose, "creating dataset " + tensor.name);
  h5::write_text_attribute(place, dataset.id(), kDtypeAttribute, dtype_name(tensor.dtype));
}

// A file with nothing but the group for tensors: less than kEmptyBytes.
constexpr std::size_t kEmptyBytes = 16 << 10;

void create_empty(const Place& place) {
  const auto access = h5::file_access(place);
  const auto options = untimed(place, H5P_FILE_CREATE);
  Handle file(place, H5Fcreate(place.path.c_str(), H5F_ACC_EXCL, options.id(), access.id()),
              H5Fclose, "H5Fcreate");
  h5::write_text_attribute(place, file.id(), kFormatAttribute, kStateFormat);
  const auto group_options = untimed(place, H5P_GROUP_CREATE);
  Handle group(place,
               H5Gcreate2(file.id(), kTensorGroup, H5P_DEFAULT, group_options.id(), H5P_DEFAULT),
               H5Gclose, "H5Gcreate2");
  group.close(place, "H5Gclose");
  h5::close_written_file(place, file);
}

// Disk blocks for the whole file now, where the file system can promise them; a look at the free
// space where it cannot.
void reserve_blocks(const Place& place, std::int64_t size) {
  const int fd = ::open(place.path.c_str(), O_RDWR | O_CLOEXEC);
  int reason = errno;
  if (fd >= 0) {
    reason = ::fallocate(fd, 0, 0, size) == 0 ? 0 : errno;
    ::close(fd);
  }
  if (reason == EOPNOTSUPP || reason == ENOSYS) {
    const auto free = free_bytes(place.path);
    reason = free >= 0 && free < size ? ENOSPC : 0;
  }
  if (reason != 0) {
    throw fail(place.code, "{}: reserving {} failed: {}", place.path.string(), readable_bytes(size),
               std::strerror(reason));
  }
}

void add_datasets(const Place& place, std::span<const TensorRecord> tensors) {
  const auto access = h5::file_access(place);
  h5::check(place, H5Pset_alignment(access.id(), kAlignFrom, kAlignTo), "H5Pset_alignment");
  h5::check(place, H5Pset_meta_block_size(access.id(), metadata_block(tensors.size())),
            "H5Pset_meta_block_size");
  Handle file(place, H5Fopen(place.path.c_str(), H5F_ACC_RDWR, access.id()), H5Fclose, "H5Fopen");
  {
    const Handle group(place, H5Gopen2(file.id(), kTensorGroup, H5P_DEFAULT), H5Gclose, "H5Gopen2");
    for (const auto& tensor : tensors) create_dataset(place, group.id(), tensor);
  }
  h5::close_written_file(place, file);
}

// Opens the file on all ranks or on none. A file open on some ranks only cannot be closed (closing
// is collective): then the job must end.
Handle open_to_write(const Place& place, const comm::Communicator& world, comm::Group& group) {
  Handle file;
  std::exception_ptr failure;
  try {
    const auto access = h5::file_access(place);
    h5::check(place, H5Pset_fapl_mpio(access.id(), comm::mpi::handle(world), MPI_INFO_NULL),
              "H5Pset_fapl_mpio");
    file = Handle(place, H5Fopen(place.path.c_str(), H5F_ACC_RDWR, access.id()), H5Fclose,
                  "H5Fopen with MPI-IO");
  } catch (const Error&) {
    failure = std::current_exception();
  }
  const auto opened = comm::all_reduce(group, std::int64_t{file ? 1 : 0}, comm::ReduceOp::kSum);
  if (opened != 0 && opened != group.size()) {
    if (group.rank() == 0) {
      fmt::print(stderr, "pentagrid: {}: opened by {} of {} ranks only; the save cannot go on\n",
                 place.path.string(), opened, group.size());
    }
    comm::abort_job(static_cast<int>(ExitCode::kSave));
  }
  comm::together(group, [&] {
    if (failure) std::rethrow_exception(failure);
  });
  return file;
}

void check_owners(comm::Group& group, std::span<const TensorRecord> tensors) {
  std::vector<std::int64_t> owned(tensors.size(), 0);
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    for (const auto& slab : tensors[t].slabs) {
      if (slab.owner) owned[t] += slab_elements(slab);
    }
  }
  group.all_reduce({owned.data(), owned.size(), DType::kI64}, comm::ReduceOp::kSum).wait();
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    PG_ASSERT(owned[t] == tensors[t].elements(), "{}: owners hold {} elements of {}",
              tensors[t].name, owned[t], tensors[t].elements());
  }
}

std::vector<Transfer> owned_transfers(const TensorRecord& tensor) {
  std::vector<comm::Slab> owned;
  for (const auto& slab : tensor.slabs) {
    if (slab.owner) owned.push_back(slab);
  }
  return plan_transfers(tensor, owned, kTransferBytes);
}

const void* gather(const Transfer& transfer, std::size_t element_bytes,
                   std::vector<char>& staging) {
  if (transfer.slabs.size() == 1) return transfer.slabs.front().data;
  staging.resize(static_cast<std::size_t>(transfer.elements) * element_bytes);
  std::size_t at = 0;
  for (const auto& slab : transfer.slabs) {
    const auto bytes = static_cast<std::size_t>(slab_elements(slab)) * element_bytes;
    std::memcpy(staging.data() + at, slab.data, bytes);
    at += bytes;
  }
  return staging.data();
}

// This rank's part. Independent transfers: see the header.
void write_slabs(const Place& place, hid_t file, const TensorRecord& tensor,
                 std::vector<char>& staging) {
  const auto transfers = owned_transfers(tensor);
  if (transfers.empty()) return;
  const Handle independent(place, H5Pcreate(H5P_DATASET_XFER), H5Pclose, "H5Pcreate");
  h5::check(place, H5Pset_dxpl_mpio(independent.id(), H5FD_MPIO_INDEPENDENT), "H5Pset_dxpl_mpio");
  const auto name = fmt::format("{}/{}", kTensorGroup, tensor.name);
  const Handle dataset(place, H5Dopen2(file, name.c_str(), H5P_DEFAULT), H5Dclose, "H5Dopen");
  for (const auto& transfer : transfers) {
    const auto in_file = select_in_file(place, dataset.id(), transfer);
    const auto in_memory = memory_space(place, transfer);
    h5::check(place,
              H5Dwrite(dataset.id(), h5::storage_type(tensor.dtype), in_memory.id(), in_file.id(),
                       independent.id(), gather(transfer, dtype_size(tensor.dtype), staging)),
              "writing " + tensor.name);
  }
}

}  // namespace

std::int64_t lay_out_state(const std::filesystem::path& path,
                           std::span<const TensorRecord> tensors) {
  const h5::Quiet quiet;
  const Place place{path, ExitCode::kSave};
  // Ordinary system calls of ours find the disk full: a small file that stands in for the empty
  // one, then the reservation. HDF5 then writes into blocks that exist, and its closing cuts off
  // what was reserved too much.
  write_synced(path, std::string(kEmptyBytes, '\0'));
  std::filesystem::remove(path);
  create_empty(place);
  reserve_blocks(place, state_bytes(tensors));
  add_datasets(place, tensors);
  return regular_file_size(path, place.code);
}

void write_state(const comm::Communicator& world, comm::Group& group,
                 const std::filesystem::path& path, std::span<const TensorRecord> tensors,
                 const std::function<void()>& before_tensor) {
  const h5::Quiet quiet;
  const Place place{path, ExitCode::kSave};
  check_owners(group, tensors);
  Handle file = open_to_write(place, world, group);
  std::vector<char> staging;
  for (const auto& tensor : tensors) {
    comm::together(group, [&] {
      before_tensor();
      write_slabs(place, file.id(), tensor, staging);
    });
  }
  h5::close_written_file(place, file);
}

std::int64_t state_bytes(std::span<const TensorRecord> tensors) {
  // Measured with HDF5 1.10: a dataset costs its header (about 300 bytes) and a link; the file
  // about 3 KiB; metadata comes in blocks.
  auto bytes = static_cast<std::int64_t>(2 * metadata_block(tensors.size())) + 4096;
  for (const auto& tensor : tensors) {
    const auto data = tensor.elements() * static_cast<std::int64_t>(dtype_size(tensor.dtype));
    bytes += data + 512 + static_cast<std::int64_t>(tensor.name.size());
    if (data >= static_cast<std::int64_t>(kAlignFrom)) bytes += static_cast<std::int64_t>(kAlignTo);
  }
  return bytes;
}

}  // namespace pg::io

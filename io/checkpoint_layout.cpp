// Laying out state.h5: see io/checkpoint_state.h.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <optional>

#include "comm/activity.h"
#include "comm/mpi_internal.h"
#include "io/checkpoint_format.h"
#include "io/checkpoint_state.h"
#include "io/files.h"
#include "io/raw_file.h"

namespace pg::io {

using comm::TensorRecord;
using h5::Handle;
using h5::Place;

namespace {

// Smaller tensors would waste most of what alignment takes.
constexpr std::int64_t kAlignFrom = std::int64_t{1} << 20;

std::size_t metadata_block(std::size_t tensors) {
  return std::bit_ceil(std::size_t{2048} + 512 * tensors);
}

// Creation options without the time of day: the same state is the same bytes.
Handle untimed(const Place& place, hid_t what) {
  Handle options(place, H5Pcreate(what), H5Pclose, "H5Pcreate");
  h5::check(place, H5Pset_obj_track_times(options.id(), false), "H5Pset_obj_track_times");
  return options;
}

// The offset of its data in the file.
std::int64_t create_dataset(const Place& place, hid_t group, const TensorRecord& tensor) {
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
  const auto offset = H5Dget_offset(dataset.id());
  PG_ASSERT(offset != HADDR_UNDEF, "{} has no place in the file", tensor.name);
  return static_cast<std::int64_t>(offset);
}

// Of the file in memory, whose name is a link that leads to no path: HDF5's default driver asks for
// one, this does not.
Handle access_in_memory(const Place& place) {
  auto access = h5::file_access(place);
  h5::check(place, H5Pset_fapl_stdio(access.id()), "H5Pset_fapl_stdio");
  return access;
}

// A file with nothing but the group for tensors.
void create_empty(const Place& place) {
  const auto access = access_in_memory(place);
  const auto options = untimed(place, H5P_FILE_CREATE);
  Handle file(place, H5Fcreate(place.path.c_str(), H5F_ACC_TRUNC, options.id(), access.id()),
              H5Fclose, "H5Fcreate");
  h5::write_text_attribute(place, file.id(), kFormatAttribute, kStateFormat);
  const auto group_options = untimed(place, H5P_GROUP_CREATE);
  Handle group(place,
               H5Gcreate2(file.id(), kTensorGroup, H5P_DEFAULT, group_options.id(), H5P_DEFAULT),
               H5Gclose, "H5Gcreate2");
  group.close(place, "H5Gclose");
  h5::close_written_file(place, file);
}

std::vector<std::int64_t> add_datasets(const Place& place, std::span<const TensorRecord> tensors,
                                       std::int64_t alignment) {
  const auto access = access_in_memory(place);
  h5::check(place,
            H5Pset_alignment(access.id(), static_cast<hsize_t>(kAlignFrom),
                             static_cast<hsize_t>(alignment)),
            "H5Pset_alignment");
  h5::check(place, H5Pset_meta_block_size(access.id(), metadata_block(tensors.size())),
            "H5Pset_meta_block_size");
  Handle file(place, H5Fopen(place.path.c_str(), H5F_ACC_RDWR, access.id()), H5Fclose, "H5Fopen");
  std::vector<std::int64_t> offsets;
  {
    const Handle group(place, H5Gopen2(file.id(), kTensorGroup, H5P_DEFAULT), H5Gclose, "H5Gopen2");
    for (const auto& tensor : tensors) {
      offsets.push_back(create_dataset(place, group.id(), tensor));
    }
  }
  h5::close_written_file(place, file);
  return offsets;
}

std::int64_t data_bytes(const TensorRecord& tensor) {
  return tensor.elements() * static_cast<std::int64_t>(dtype_size(tensor.dtype));
}

// Adds the bytes of [begin, end) to `parts`, without pages that were never written.
void read_part(int fd, const RawFile& file, std::int64_t begin, std::int64_t end,
               std::vector<StateLayout::Part>& parts) {
  while (begin < end) {
    const auto data = ::lseek(fd, begin, SEEK_DATA);
    if (data < 0 || data >= end) return;
    const auto hole = std::min<std::int64_t>(::lseek(fd, data, SEEK_HOLE), end);
    auto& part = parts.emplace_back(StateLayout::Part{data, {}});
    part.bytes.resize(static_cast<std::size_t>(hole - data));
    const auto got = file.read_at(data, part.bytes.data(), part.bytes.size());
    PG_ASSERT(got == part.bytes.size(), "{} bytes of {} at {}", got, part.bytes.size(), data);
    begin = hole;
  }
}

// What is written and belongs to no tensor.
std::vector<StateLayout::Part> metadata_of(int fd, const RawFile& file, const StateLayout& layout,
                                           std::span<const TensorRecord> tensors) {
  std::vector<std::pair<std::int64_t, std::int64_t>> data;
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    data.emplace_back(layout.offsets[t], layout.offsets[t] + data_bytes(tensors[t]));
  }
  std::sort(data.begin(), data.end());
  std::vector<StateLayout::Part> parts;
  std::int64_t at = 0;
  for (const auto& [begin, end] : data) {
    PG_ASSERT(begin >= at && end <= layout.size, "data at {} to {} in a file of {}, after {}",
              begin, end, layout.size, at);
    read_part(fd, file, at, begin, parts);
    at = end;
  }
  read_part(fd, file, at, layout.size, parts);
  return parts;
}

// The file in memory would have the size, holes mostly; and where it may not be that large on disk
// either, this says it first.
void require_file_size(const std::filesystem::path& path, std::int64_t size) {
  rlimit limit{};
  if (::getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY &&
      static_cast<std::int64_t>(limit.rlim_cur) < size) {
    throw fail(ExitCode::kSave, "{}: reserving {} failed: {} (files may have {})", path.string(),
               readable_bytes(size), std::strerror(EFBIG),
               readable_bytes(static_cast<std::int64_t>(limit.rlim_cur)));
  }
}

}  // namespace

StateLayout make_layout(const std::filesystem::path& path, std::span<const TensorRecord> tensors,
                        std::int64_t alignment) {
  require_file_size(path, state_bytes(tensors, alignment));
  const int fd = ::memfd_create("state.h5", MFD_CLOEXEC);
  if (fd < 0) {
    throw fail(ExitCode::kSave, "{}: planning it: memfd_create failed: {}", path.string(),
               std::strerror(errno));
  }
  const std::filesystem::path in_memory = fmt::format("/proc/self/fd/{}", fd);
  const RawFile file(fd, in_memory, ExitCode::kSave);
  StateLayout layout;
  try {
    const h5::Quiet quiet;
    const Place place{in_memory, ExitCode::kSave};
    create_empty(place);
    layout.offsets = add_datasets(place, tensors, alignment);
  } catch (const Error& error) {
    throw fail(error.code(), "{}: planning it: {}", path.string(), error.what());
  }
  layout.size = file.size();
  layout.metadata = metadata_of(fd, file, layout, tensors);
  return layout;
}

void create_with_hints(const std::filesystem::path& path, const std::vector<std::string>& hints) {
  MPI_Info info = MPI_INFO_NULL;
  comm::mpi::check(MPI_Info_create(&info), "", "MPI_Info_create");
  for (const auto& hint : hints) {
    const auto equals = hint.find('=');
    PG_ASSERT(equals != std::string::npos, "hint {}", hint);
    comm::mpi::check(
        MPI_Info_set(info, hint.substr(0, equals).c_str(), hint.substr(equals + 1).c_str()), "",
        "MPI_Info_set");
  }
  MPI_File file = MPI_FILE_NULL;
  const int opened = MPI_File_open(MPI_COMM_SELF, path.c_str(),
                                   MPI_MODE_CREATE | MPI_MODE_EXCL | MPI_MODE_RDWR, info, &file);
  MPI_Info_free(&info);
  try {
    comm::mpi::check(opened, "", "MPI_File_open with checkpoint.hints");
    comm::mpi::check(MPI_File_close(&file), "", "MPI_File_close");
  } catch (const Error& error) {
    throw fail(ExitCode::kSave, "{}: {}", path.string(), error.what());
  }
}

void lay_out_state(const std::filesystem::path& path, const StateLayout& layout) {
  // Blocks for the whole file now, where the file system can promise them; a look at the free space
  // where it cannot.
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  const int open_reason = errno;
  if (fd < 0) {
    throw fail(ExitCode::kSave, "{}: creating it failed: {}", path.string(),
               std::strerror(open_reason));
  }
  RawFile file(fd, path, ExitCode::kSave);
  int reason = [&] {
    const comm::FileOperation mark("reserving", path.native());
    return ::fallocate(fd, 0, 0, layout.size) == 0 ? 0 : errno;
  }();
  if (reason == EOPNOTSUPP || reason == ENOSYS) {
    const auto free = free_bytes(path);
    reason = free >= 0 && free < layout.size ? ENOSPC : 0;
    if (reason == 0) file.resize(layout.size);
  }
  if (reason != 0) {
    throw fail(ExitCode::kSave, "{}: reserving {} failed: {}", path.string(),
               readable_bytes(layout.size), std::strerror(reason));
  }
  for (const auto& part : layout.metadata) {
    file.write_at(part.offset, part.bytes.data(), part.bytes.size());
  }
  file.close();
}

void check_metadata(const std::filesystem::path& path, const StateLayout& layout) {
  const auto file = RawFile::open(path, ExitCode::kSave);
  if (file.size() != layout.size) {
    throw fail(ExitCode::kSave, "{}: has {} after writing, {} were laid out", path.string(),
               readable_bytes(file.size()), readable_bytes(layout.size));
  }
  std::string back;
  for (const auto& part : layout.metadata) {
    back.resize(part.bytes.size());
    if (file.read_at(part.offset, back.data(), back.size()) != back.size() || back != part.bytes) {
      throw fail(ExitCode::kSave, "{}: metadata at byte {} is not what was written", path.string(),
                 part.offset);
    }
  }
}

std::int64_t state_bytes(std::span<const TensorRecord> tensors, std::int64_t alignment) {
  // Measured with HDF5 1.10: a dataset costs its header (about 300 bytes) and a link; the file
  // about 3 KiB; metadata comes in blocks.
  auto bytes = static_cast<std::int64_t>(2 * metadata_block(tensors.size())) + 4096;
  for (const auto& tensor : tensors) {
    const auto data = data_bytes(tensor);
    bytes += data + 512 + static_cast<std::int64_t>(tensor.name.size());
    if (data >= kAlignFrom) bytes += alignment;
  }
  return bytes;
}

}  // namespace pg::io

// Reading state.h5, which may come from anywhere: see io/checkpoint_state.h.
//
// Layout is looked at before anything that could make HDF5 open another file (external links,
// external storage, virtual datasets).
#include <algorithm>
#include <map>

#include "io/checkpoint_format.h"
#include "io/checkpoint_state.h"
#include "io/files.h"

namespace pg::io {

namespace {

using comm::TensorRecord;
using h5::Handle;
using h5::Place;

struct Link {
  std::string name;
  H5L_type_t type;
};

herr_t take_link(hid_t, const char* name, const H5L_info_t* info, void* out) {
  static_cast<std::vector<Link>*>(out)->push_back({name, info->type});
  return 0;
}

std::vector<Link> links_of(const Place& place, hid_t group) {
  std::vector<Link> links;
  h5::check(place, H5Literate(group, H5_INDEX_NAME, H5_ITER_INC, nullptr, take_link, &links),
            "listing links");
  for (const auto& link : links) {
    if (link.type != H5L_TYPE_HARD) {
      const char* kind = link.type == H5L_TYPE_SOFT       ? "a soft"
                         : link.type == H5L_TYPE_EXTERNAL ? "an external"
                                                          : "a user-defined";
      throw fail(place.code, "{}: '{}' is {} link; only plain datasets are accepted",
                 place.path.string(), link.name, kind);
    }
  }
  return links;
}

// Opens a hard link that must be a `wanted` kind of object.
Handle open_object(const Place& place, hid_t parent, const std::string& name, H5I_type_t wanted,
                   const char* kind) {
  Handle object(place, H5Oopen(parent, name.c_str(), H5P_DEFAULT), H5Oclose, "opening " + name);
  if (H5Iget_type(object.id()) != wanted) {
    throw fail(place.code, "{}: '{}' is not a {}", place.path.string(), name, kind);
  }
  return object;
}

DType dtype_of(const Place& place, hid_t dataset, const std::string& name) {
  const auto text = h5::read_text_attribute(place, dataset, kDtypeAttribute);
  const Handle type(place, H5Dget_type(dataset), H5Tclose, "H5Dget_type");
  for (const auto candidate :
       {DType::kF64, DType::kF32, DType::kBF16, DType::kI32, DType::kI64, DType::kU8}) {
    if (text == dtype_name(candidate) && H5Tequal(type.id(), h5::storage_type(candidate)) > 0) {
      return candidate;
    }
  }
  throw fail(place.code, "{}: '{}' is stored in a type that is not its dtype, '{}'",
             place.path.string(), name, text.substr(0, text.find('\0')));
}

// A byte range of the file that a dataset, or what describes one, claims.
struct Range {
  std::uint64_t begin = 0, end = 0;
  std::string name;
};

TensorRecord describe(const Place& place, hid_t dataset, const std::string& name,
                      std::int64_t file_size, Range& range) {
  const auto refuse = [&](const std::string& why) {
    return fail(place.code, "{}: '{}' {}", place.path.string(), name, why);
  };
  const Handle options(place, H5Dget_create_plist(dataset), H5Pclose, "H5Dget_create_plist");
  if (H5Pget_layout(options.id()) != H5D_CONTIGUOUS) throw refuse("is not stored contiguously");
  if (H5Pget_external_count(options.id()) != 0) throw refuse("is stored in another file");
  if (H5Pget_nfilters(options.id()) != 0) throw refuse("is stored through filters");

  TensorRecord tensor{
      .name = name, .dtype = dtype_of(place, dataset, name), .shape = {}, .slabs = {}};
  const Handle space(place, H5Dget_space(dataset), H5Sclose, "H5Dget_space");
  const int axes = H5Sget_simple_extent_ndims(space.id());
  if (H5Sget_simple_extent_type(space.id()) != H5S_SIMPLE || axes < 1) {
    throw refuse("has no axes");
  }
  std::vector<hsize_t> dims(static_cast<std::size_t>(axes)), most(dims.size());
  h5::check(place, H5Sget_simple_extent_dims(space.id(), dims.data(), most.data()),
            "H5Sget_simple_extent_dims");
  // The data must lie inside the file: no extent can then promise more than there is.
  std::uint64_t bytes = dtype_size(tensor.dtype);
  for (std::size_t a = 0; a < dims.size(); ++a) {
    if (dims[a] != most[a]) throw refuse("is extendible");
    if (dims[a] == 0 || dims[a] > static_cast<std::uint64_t>(file_size) / bytes) {
      throw refuse(fmt::format("claims extent {} on axis {} in a file of {}", dims[a], a,
                               readable_bytes(file_size)));
    }
    bytes *= dims[a];
    tensor.shape.push_back(static_cast<std::int64_t>(dims[a]));
  }
  const auto begin = H5Dget_offset(dataset);
  const auto size = static_cast<std::uint64_t>(file_size);
  if (begin == HADDR_UNDEF || begin > size || bytes > size - begin ||
      H5Dget_storage_size(dataset) != bytes) {
    throw refuse(fmt::format("has storage outside the file of {}", readable_bytes(file_size)));
  }
  range = {begin, begin + bytes, "'" + name + "'"};
  return tensor;
}

// The object header that describes an object, where it starts.
Range header_of(const Place& place, hid_t object, std::string name) {
  H5O_info_t info;
  h5::check(place, H5Oget_info(object, &info), "H5Oget_info");
  // Of a header in several pieces the first has at least its prefix here.
  constexpr hsize_t kLeastHeader = 16;
  const auto bytes = info.hdr.nchunks == 1 ? info.hdr.space.total : kLeastHeader;
  return {info.addr, info.addr + bytes, std::move(name)};
}

// Of one that io/hdf5_guard has looked at: version 2 or 3, at the file's beginning.
constexpr std::uint64_t kSuperblockBytes = 48;

void refuse_overlap(const Place& place, std::vector<Range> ranges) {
  std::sort(ranges.begin(), ranges.end(),
            [](const Range& a, const Range& b) { return a.begin < b.begin; });
  for (std::size_t i = 1; i < ranges.size(); ++i) {
    if (ranges[i].begin < ranges[i - 1].end) {
      throw fail(place.code, "{}: {} and {} share storage", place.path.string(), ranges[i - 1].name,
                 ranges[i].name);
    }
  }
}

std::string type_and_shape(const TensorRecord& tensor) {
  return fmt::format("{} {}", dtype_name(tensor.dtype), shape_text(tensor.shape));
}

}  // namespace

std::vector<StoredTensor> locate_state(const std::filesystem::path& path) {
  const h5::Quiet quiet;
  const Place place{path, ExitCode::kCheckpoint};
  const auto size = regular_file_size(path, place.code);
  const auto file = h5::open_to_read(place);
  const auto roots = links_of(place, file.id());
  if (roots.size() != 1 || roots.front().name != kTensorGroup) {
    throw fail(place.code, "{}: does not hold exactly the group /{}", path.string(), kTensorGroup);
  }
  if (h5::read_text_attribute(place, file.id(), kFormatAttribute) != kStateFormat) {
    throw fail(place.code, "{}: its format is not '{}'", path.string(), kStateFormat);
  }
  const auto group = open_object(place, file.id(), kTensorGroup, H5I_GROUP, "group");
  std::vector<Range> ranges = {{0, kSuperblockBytes, "the superblock"},
                               header_of(place, file.id(), "the root group"),
                               header_of(place, group.id(), "the group of tensors")};
  std::vector<StoredTensor> stored;
  for (const auto& link : links_of(place, group.id())) {
    const auto dataset = open_object(place, group.id(), link.name, H5I_DATASET, "dataset");
    Range range;
    auto tensor = describe(place, dataset.id(), link.name, size, range);
    stored.push_back({std::move(tensor), static_cast<std::int64_t>(range.begin)});
    ranges.push_back(std::move(range));
    ranges.push_back(header_of(place, dataset.id(), "the header of " + link.name));
  }
  refuse_overlap(place, std::move(ranges));
  return stored;
}

std::vector<TensorRecord> list_state(const std::filesystem::path& path) {
  std::vector<TensorRecord> tensors;
  for (auto& stored : locate_state(path)) tensors.push_back(std::move(stored.tensor));
  return tensors;
}

void compare_tensors(const std::filesystem::path& path, std::span<const TensorRecord> stored,
                     std::span<const TensorRecord> wanted) {
  std::map<std::string_view, const TensorRecord*> in_file;
  for (const auto& tensor : stored) in_file[tensor.name] = &tensor;
  std::vector<std::string> differences;
  for (const auto& tensor : wanted) {
    const auto found = in_file.find(tensor.name);
    if (found == in_file.end()) {
      differences.push_back(fmt::format("{} is missing", tensor.name));
      continue;
    }
    if (found->second->dtype != tensor.dtype || found->second->shape != tensor.shape) {
      differences.push_back(fmt::format("{} is {}, this run has {}", tensor.name,
                                        type_and_shape(*found->second), type_and_shape(tensor)));
    }
    in_file.erase(found);
  }
  for (const auto& [name, tensor] : in_file) {
    differences.push_back(fmt::format("{} is superfluous", name));
  }
  if (differences.empty()) return;
  throw fail(ExitCode::kCheckpoint, "{}: {} tensors do not fit this run: {}", path.string(),
             differences.size(), joined(differences, "; "));
}

}  // namespace pg::io

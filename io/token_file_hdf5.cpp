// Reads the structure of a token file that nobody vouches for.
#include "io/token_file_hdf5.h"

#include <fcntl.h>

#include <array>
#include <initializer_list>
#include <vector>

#include "io/hdf5_file.h"

namespace pg::io {

namespace {

class Structure {
 public:
  explicit Structure(const std::filesystem::path& path) : place_{path, ExitCode::kData} {
    // HDF5 must not be the first to find out that this is a pipe or a folder.
    RawFile::open(path, ExitCode::kData);
    file_ = h5::open_to_read(place_);
    root_ = h5::Handle(place_, H5Gopen2(file_.id(), "/", H5P_DEFAULT), H5Gclose, "opening /");
    raw_ = raw_file();
    bytes_ = raw_.size();
  }

  TokenFileLayout read() {
    TokenFileLayout layout;
    if (text("format") != "pentagrid-tokens") refuse("its format is not pentagrid-tokens");
    if (const auto version = number("version"); version != 1) {
      refuse(fmt::format("its version is {}, this program reads 1", version));
    }
    auto& attributes = layout.attributes;
    attributes.vocab = number("vocab");
    if (attributes.vocab < 1 || attributes.vocab > INT32_MAX) {
      refuse(fmt::format("vocab is {}", attributes.vocab));
    }
    attributes.tokens_digest = text("tokens_digest");
    attributes.documents_digest = text("documents_digest");
    attributes.tokenizer_digest = text("tokenizer_digest");
    attributes.source = text("source");

    check_links();
    layout.tokens = region("tokens", {H5T_STD_U8LE, H5T_STD_U16LE, H5T_STD_U32LE});
    layout.documents = region("documents", {H5T_STD_I64LE});
    layout.tokenizer = region("tokenizer", {H5T_STD_U8LE});
    layout.file = std::move(raw_);
    return layout;
  }

 private:
  [[noreturn]] void refuse(std::string_view what) const {
    throw fail(ExitCode::kData, "{}: {}", place_.path.string(), what);
  }
  void must(std::int64_t status, std::string_view operation) const {
    h5::check(place_, status, operation);
  }
  h5::Handle taken(hid_t id, h5::Handle::Close how, std::string_view operation) const {
    return h5::Handle(place_, id, how, operation);
  }

  // A descriptor of the very file that HDF5 has open.
  RawFile raw_file() const {
    void* handle = nullptr;
    must(H5Fget_vfd_handle(file_.id(), H5P_DEFAULT, &handle), "getting the descriptor");
    const int fd = ::fcntl(*static_cast<int*>(handle), F_DUPFD_CLOEXEC, 0);
    if (fd < 0) refuse("cannot copy its descriptor");
    return RawFile(fd, place_.path, ExitCode::kData);
  }

  // Exactly our three names, all hard links: a soft or external one is seen, not followed.
  void check_links() const {
    H5G_info_t group;
    must(H5Gget_info(root_.id(), &group), "reading the root group");
    for (const char* name : {"tokens", "documents", "tokenizer"}) {
      const auto exists = H5Lexists(root_.id(), name, H5P_DEFAULT);
      must(exists, fmt::format("looking for /{}", name));
      if (exists == 0) refuse(fmt::format("/{} is missing", name));
      H5L_info_t link;
      must(H5Lget_info(root_.id(), name, &link, H5P_DEFAULT), fmt::format("reading /{}", name));
      if (link.type != H5L_TYPE_HARD) {
        refuse(fmt::format("/{} is {}, not a dataset of this file", name,
                           link.type == H5L_TYPE_SOFT       ? "a soft link"
                           : link.type == H5L_TYPE_EXTERNAL ? "an external link"
                                                            : "a user-defined link"));
      }
    }
    if (group.nlinks != 3) {
      refuse(fmt::format("{} entries in the root group, not 3", group.nlinks));
    }
  }

  // The order matters: the layout is looked at before anything that would make HDF5 open the
  // sources of a virtual dataset.
  TokenFileRegion region(const std::string& name, std::initializer_list<hid_t> types) const {
    const auto where = "/" + name;
    const auto object =
        taken(H5Oopen(root_.id(), name.c_str(), H5P_DEFAULT), H5Oclose, "opening " + where);
    if (H5Iget_type(object.id()) != H5I_DATASET) refuse(where + " is not a dataset");
    const auto properties =
        taken(H5Dget_create_plist(object.id()), H5Pclose, "reading the properties of " + where);
    if (const auto filters = H5Pget_nfilters(properties.id()); filters != 0) {
      must(filters, "reading the filters of " + where);
      refuse(fmt::format("{} has {} filters; token files have none", where, filters));
    }
    const auto kind = H5Pget_layout(properties.id());
    must(kind, "reading the layout of " + where);
    if (kind != H5D_CONTIGUOUS) {
      refuse(fmt::format("{} is {}, not contiguous", where,
                         kind == H5D_VIRTUAL   ? "a virtual dataset"
                         : kind == H5D_CHUNKED ? "chunked"
                                               : "compact"));
    }
    const auto externals = H5Pget_external_count(properties.id());
    must(externals, "reading the storage of " + where);
    if (externals != 0) refuse(where + " is stored in another file");

    TokenFileRegion region;
    region.width = width_of(object.id(), where, types);
    const auto space = taken(H5Dget_space(object.id()), H5Sclose, "reading the shape of " + where);
    if (H5Sget_simple_extent_ndims(space.id()) != 1) refuse(where + " has not one dimension");
    hsize_t count = 0;
    must(H5Sget_simple_extent_dims(space.id(), &count, nullptr), "reading the shape of " + where);
    if (count == 0) return region;

    const haddr_t offset = H5Dget_offset(object.id());
    const auto bytes = static_cast<std::uint64_t>(bytes_);
    if (offset == HADDR_UNDEF) refuse(fmt::format("{} has {} elements and no data", where, count));
    if (offset > bytes || count > (bytes - offset) / static_cast<unsigned>(region.width)) {
      refuse(fmt::format("{} has {} elements of {} bytes from byte {} on, but the file ends at {}",
                         where, count, region.width, offset, bytes));
    }
    region.offset = static_cast<std::int64_t>(offset);
    region.count = static_cast<std::int64_t>(count);
    return region;
  }

  int width_of(hid_t dataset, const std::string& where, std::initializer_list<hid_t> types) const {
    const auto type = taken(H5Dget_type(dataset), H5Tclose, "reading the type of " + where);
    if (H5Tget_class(type.id()) == H5T_INTEGER) {
      for (const hid_t legal : types) {
        if (H5Tequal(type.id(), legal) > 0) return static_cast<int>(H5Tget_size(legal));
      }
    }
    refuse(where + " has another type than a token file's");
  }

  h5::Handle attribute(const char* name, H5T_class_t wanted, std::size_t limit) const {
    const auto exists = H5Aexists(root_.id(), name);
    must(exists, fmt::format("looking for the attribute {}", name));
    if (exists == 0) refuse(fmt::format("not a token file: it has no attribute {}", name));
    auto attribute = taken(H5Aopen(root_.id(), name, H5P_DEFAULT), H5Aclose,
                           fmt::format("opening the attribute {}", name));
    const auto type = taken(H5Aget_type(attribute.id()), H5Tclose, "reading attributes");
    const auto space = taken(H5Aget_space(attribute.id()), H5Sclose, "reading attributes");
    if (H5Tget_class(type.id()) != wanted ||
        (wanted == H5T_STRING && H5Tis_variable_str(type.id()) != 0) ||
        H5Tget_size(type.id()) > limit || H5Sget_simple_extent_type(space.id()) != H5S_SCALAR) {
      refuse(fmt::format("the attribute {} has the wrong type", name));
    }
    return attribute;
  }

  std::int64_t number(const char* name) const {
    const auto from = attribute(name, H5T_INTEGER, 8);
    std::int64_t value = 0;
    must(H5Aread(from.id(), H5T_NATIVE_INT64, &value), fmt::format("reading attribute {}", name));
    return value;
  }

  std::string text(const char* name) const {
    const auto from = attribute(name, H5T_STRING, 1 << 16);
    const auto type = taken(H5Aget_type(from.id()), H5Tclose, "reading attributes");
    std::string value(H5Tget_size(type.id()), '\0');
    must(H5Aread(from.id(), type.id(), value.data()), fmt::format("reading attribute {}", name));
    return value.substr(0, value.find('\0'));
  }

  h5::Place place_;
  h5::Handle file_, root_;
  RawFile raw_;
  std::int64_t bytes_ = 0;
};

}  // namespace

TokenFileLayout read_token_file_layout(const std::filesystem::path& path) {
  // For good: after a damaged file HDF5 would complain once more when the program ends.
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  return Structure(path).read();
}

}  // namespace pg::io

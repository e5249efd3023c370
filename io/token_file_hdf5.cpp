// Reads the structure of a token file that nobody vouches for.
#include "io/token_file_hdf5.h"

#include <fcntl.h>

#include <array>
#include <initializer_list>
#include <vector>

#include "io/token_file_hdf5_handle.h"

namespace pg::io {

namespace {

class Structure {
 public:
  explicit Structure(const std::filesystem::path& path) : path_(path) {
    // HDF5 must not be the first to find out that this is a pipe or a folder.
    RawFile::open(path, ExitCode::kData);
    Hdf5Id access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
    must(access.get(), "open");
    must(H5Pset_fapl_sec2(access.get()), "open");
#if (H5_VERS_MINOR == 10 && H5_VERS_RELEASE >= 7) || H5_VERSION_GE(1, 12, 1)
    // A finished file never changes under its name, and not every shared file system can lock.
    must(H5Pset_file_locking(access.get(), false, true), "open");
#endif
    // File before objects: an object that stays open must not keep the file open.
    must(H5Pset_fclose_degree(access.get(), H5F_CLOSE_STRONG), "open");
    file_ = Hdf5Id(H5Fopen(path.c_str(), H5F_ACC_RDONLY, access.get()), H5Fclose);
    must(file_.get(), "open as HDF5");
    root_ = Hdf5Id(H5Gopen2(file_.get(), "/", H5P_DEFAULT), H5Gclose);
    must(root_.get(), "open the root group");
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
    throw fail(ExitCode::kData, "{}: {}", path_.string(), what);
  }
  void must(std::int64_t status, std::string_view operation) const {
    if (status < 0) refuse(fmt::format("cannot {}: HDF5: {}", operation, hdf5_cause()));
  }

  // A descriptor of the very file that HDF5 has open.
  RawFile raw_file() const {
    void* handle = nullptr;
    must(H5Fget_vfd_handle(file_.get(), H5P_DEFAULT, &handle), "get the descriptor");
    const int fd = ::fcntl(*static_cast<int*>(handle), F_DUPFD_CLOEXEC, 0);
    if (fd < 0) refuse("cannot copy its descriptor");
    return RawFile(fd, path_, ExitCode::kData);
  }

  // Exactly our three names, all hard links: a soft or external one is seen, not followed.
  void check_links() const {
    H5G_info_t group;
    must(H5Gget_info(root_.get(), &group), "read the root group");
    for (const char* name : {"tokens", "documents", "tokenizer"}) {
      const auto exists = H5Lexists(root_.get(), name, H5P_DEFAULT);
      must(exists, fmt::format("look for /{}", name));
      if (exists == 0) refuse(fmt::format("/{} is missing", name));
      H5L_info_t link;
      must(H5Lget_info(root_.get(), name, &link, H5P_DEFAULT), fmt::format("read /{}", name));
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
    Hdf5Id object(H5Oopen(root_.get(), name.c_str(), H5P_DEFAULT), H5Oclose);
    must(object.get(), "open " + where);
    if (H5Iget_type(object.get()) != H5I_DATASET) refuse(where + " is not a dataset");
    Hdf5Id properties(H5Dget_create_plist(object.get()), H5Pclose);
    must(properties.get(), "read the properties of " + where);
    if (const auto filters = H5Pget_nfilters(properties.get()); filters != 0) {
      must(filters, "read the filters of " + where);
      refuse(fmt::format("{} has {} filters; token files have none", where, filters));
    }
    const auto kind = H5Pget_layout(properties.get());
    must(kind, "read the layout of " + where);
    if (kind != H5D_CONTIGUOUS) {
      refuse(fmt::format("{} is {}, not contiguous", where,
                         kind == H5D_VIRTUAL   ? "a virtual dataset"
                         : kind == H5D_CHUNKED ? "chunked"
                                               : "compact"));
    }
    const auto externals = H5Pget_external_count(properties.get());
    must(externals, "read the storage of " + where);
    if (externals != 0) refuse(where + " is stored in another file");

    TokenFileRegion region;
    region.width = width_of(object.get(), where, types);
    Hdf5Id space(H5Dget_space(object.get()), H5Sclose);
    must(space.get(), "read the shape of " + where);
    if (H5Sget_simple_extent_ndims(space.get()) != 1) refuse(where + " has not one dimension");
    hsize_t count = 0;
    must(H5Sget_simple_extent_dims(space.get(), &count, nullptr), "read the shape of " + where);
    if (count == 0) return region;

    const haddr_t offset = H5Dget_offset(object.get());
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
    Hdf5Id type(H5Dget_type(dataset), H5Tclose);
    must(type.get(), "read the type of " + where);
    if (H5Tget_class(type.get()) == H5T_INTEGER) {
      for (const hid_t legal : types) {
        if (H5Tequal(type.get(), legal) > 0) return static_cast<int>(H5Tget_size(legal));
      }
    }
    refuse(where + " has another type than a token file's");
  }

  Hdf5Id attribute(const char* name, H5T_class_t wanted, std::size_t limit) const {
    const auto exists = H5Aexists(root_.get(), name);
    must(exists, fmt::format("look for the attribute {}", name));
    if (exists == 0) refuse(fmt::format("not a token file: it has no attribute {}", name));
    Hdf5Id attribute(H5Aopen(root_.get(), name, H5P_DEFAULT), H5Aclose);
    must(attribute.get(), fmt::format("open the attribute {}", name));
    Hdf5Id type(H5Aget_type(attribute.get()), H5Tclose);
    Hdf5Id space(H5Aget_space(attribute.get()), H5Sclose);
    if (!type.ok() || !space.ok() || H5Tget_class(type.get()) != wanted ||
        (wanted == H5T_STRING && H5Tis_variable_str(type.get()) != 0) ||
        H5Tget_size(type.get()) > limit || H5Sget_simple_extent_type(space.get()) != H5S_SCALAR) {
      refuse(fmt::format("the attribute {} has the wrong type", name));
    }
    return attribute;
  }

  std::int64_t number(const char* name) const {
    const auto from = attribute(name, H5T_INTEGER, 8);
    std::int64_t value = 0;
    must(H5Aread(from.get(), H5T_NATIVE_INT64, &value), fmt::format("read attribute {}", name));
    return value;
  }

  std::string text(const char* name) const {
    const auto from = attribute(name, H5T_STRING, 1 << 16);
    Hdf5Id type(H5Aget_type(from.get()), H5Tclose);
    std::string value(H5Tget_size(type.get()), '\0');
    must(H5Aread(from.get(), type.get(), value.data()), fmt::format("read attribute {}", name));
    return value.substr(0, value.find('\0'));
  }

  std::filesystem::path path_;
  Hdf5Id file_, root_;
  RawFile raw_;
  std::int64_t bytes_ = 0;
};

}  // namespace

TokenFileLayout read_token_file_layout(const std::filesystem::path& path) {
  silence_hdf5();
  return Structure(path).read();
}

}  // namespace pg::io

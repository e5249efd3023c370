#include "io/hdf5_file.h"

#include <algorithm>
#include <cstdio>

#include "comm/mpi_session.h"
#include "io/hdf5_guard.h"

namespace pg::io::h5 {

namespace {

// The longest text an attribute of ours has; a hostile file may claim any size.
constexpr std::size_t kTextLimit = 64;

// Called from the innermost frame outwards: the first one is the reason.
herr_t take_first(unsigned, const H5E_error2_t* frame, void* out) {
  auto& text = *static_cast<std::string*>(out);
  text = frame->desc != nullptr ? frame->desc : "";
  return 1;
}

std::string innermost_reason() {
  std::string text;
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, take_first, &text);
  // The POSIX driver wraps the system's reason in a paragraph with buffer addresses.
  constexpr std::string_view kMark = "error message = '";
  if (const auto at = text.find(kMark); at != std::string::npos) {
    const auto begin = at + kMark.size();
    text = text.substr(begin, text.find('\'', begin) - begin);
  }
  std::replace(text.begin(), text.end(), '\n', ' ');
  return text.empty() ? "no reason given" : text;
}

}  // namespace

Quiet::Quiet() {
  H5Eget_auto2(H5E_DEFAULT, &function_, &data_);
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
}

Quiet::~Quiet() {
  H5Eset_auto2(H5E_DEFAULT, function_, data_);
}

Error failed(const Place& place, std::string_view operation) {
  return fail(place.code, "{}: {} failed: {}", place.path.string(), operation, innermost_reason());
}

hid_t storage_type(DType type) {
  switch (type) {
    case DType::kF64:
      return H5T_IEEE_F64LE;
    case DType::kF32:
      return H5T_IEEE_F32LE;
    case DType::kBF16:
      return H5T_STD_U16LE;
    case DType::kI32:
      return H5T_STD_I32LE;
    case DType::kI64:
      return H5T_STD_I64LE;
    case DType::kU8:
      return H5T_STD_U8LE;
  }
  return H5I_INVALID_HID;
}

Handle file_access(const Place& place) {
  Handle access(place, H5Pcreate(H5P_FILE_ACCESS), H5Pclose, "H5Pcreate");
  check(place, H5Pset_libver_bounds(access.id(), H5F_LIBVER_LATEST, H5F_LIBVER_LATEST),
        "H5Pset_libver_bounds");
  check(place, H5Pset_fclose_degree(access.id(), H5F_CLOSE_STRONG), "H5Pset_fclose_degree");
#if H5_VERSION_GE(1, 10, 7)
  check(place, H5Pset_file_locking(access.id(), false, true), "H5Pset_file_locking");
#endif
  return access;
}

Handle open_to_read(const Place& place) {
  require_plain(place);
  const auto access = file_access(place);
  // Column slabs are read through this buffer instead of row by row.
  check(place, H5Pset_sieve_buf_size(access.id(), std::size_t{1} << 20), "H5Pset_sieve_buf_size");
  return Handle(place, H5Fopen(place.path.c_str(), H5F_ACC_RDONLY, access.id()), H5Fclose,
                "H5Fopen");
}

void close_written_file(const Place& place, Handle& file) {
  try {
    file.close(place, "H5Fclose");
  } catch (const Error& error) {
    fmt::print(stderr, "pentagrid: {}: {}\n", comm::host_name(), error.what());
    comm::abort_job(static_cast<int>(place.code));
  }
}

void write_text_attribute(const Place& place, hid_t object, const char* name,
                          std::string_view text) {
  PG_ASSERT(!text.empty() && text.size() <= kTextLimit, "attribute {} of {} bytes", name,
            text.size());
  const Handle type(place, H5Tcopy(H5T_C_S1), H5Tclose, "H5Tcopy");
  check(place, H5Tset_size(type.id(), text.size()), "H5Tset_size");
  check(place, H5Tset_strpad(type.id(), H5T_STR_NULLPAD), "H5Tset_strpad");
  const Handle space(place, H5Screate(H5S_SCALAR), H5Sclose, "H5Screate");
  const Handle attribute(place,
                         H5Acreate2(object, name, type.id(), space.id(), H5P_DEFAULT, H5P_DEFAULT),
                         H5Aclose, "H5Acreate2");
  check(place, H5Awrite(attribute.id(), type.id(), text.data()), "H5Awrite");
}

std::string read_text_attribute(const Place& place, hid_t object, const char* name) {
  if (check(place, H5Aexists(object, name), "H5Aexists") == 0) {
    throw fail(place.code, "{}: the attribute {} is missing", place.path.string(), name);
  }
  const Handle attribute(place, H5Aopen(object, name, H5P_DEFAULT), H5Aclose, "H5Aopen");
  const Handle type(place, H5Aget_type(attribute.id()), H5Tclose, "H5Aget_type");
  const Handle space(place, H5Aget_space(attribute.id()), H5Sclose, "H5Aget_space");
  const auto size = H5Tget_size(type.id());
  if (H5Tget_class(type.id()) != H5T_STRING || H5Tis_variable_str(type.id()) != 0 ||
      H5Sget_simple_extent_npoints(space.id()) != 1 || size == 0 || size > kTextLimit) {
    throw fail(place.code, "{}: the attribute {} is not a short string", place.path.string(), name);
  }
  std::string text(size, '\0');
  check(place, H5Aread(attribute.id(), type.id(), text.data()), "H5Aread");
  return text;
}

}  // namespace pg::io::h5

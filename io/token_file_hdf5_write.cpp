// Writes a token file's HDF5. Every status counts: on a full disk H5Dwrite fails, but a close after
// it succeeds and leaves a file that opens.
#include <algorithm>
#include <vector>

#include "io/token_file_hdf5.h"
#include "io/token_file_hdf5_handle.h"

namespace pg::io {

namespace {

class Output {
 public:
  Output(const std::filesystem::path& path, std::filesystem::path final_name)
      : name_(std::move(final_name)) {
    Hdf5Id access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
    must(access.get(), "create");
    must(H5Pset_fapl_sec2(access.get()), "create");
    // With the latest format all metadata carries checksums.
    must(H5Pset_libver_bounds(access.get(), H5F_LIBVER_LATEST, H5F_LIBVER_LATEST), "create");
    must(H5Pset_fclose_degree(access.get(), H5F_CLOSE_STRONG), "create");
    file_ = Hdf5Id(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, access.get()), H5Fclose);
    must(file_.get(), "create");
  }

  void attribute(const char* name, std::int64_t value) {
    Hdf5Id space(H5Screate(H5S_SCALAR), H5Sclose);
    put_attribute(name, space.get(), H5T_STD_I64LE, H5T_NATIVE_INT64, &value);
  }

  void attribute(const char* name, const std::string& value) {
    Hdf5Id type(H5Tcopy(H5T_C_S1), H5Tclose);
    must(H5Tset_size(type.get(), value.size() + 1), "write attributes");
    must(H5Tset_cset(type.get(), H5T_CSET_UTF8), "write attributes");
    Hdf5Id space(H5Screate(H5S_SCALAR), H5Sclose);
    put_attribute(name, space.get(), type.get(), type.get(), value.c_str());
  }

  // `read(at, data, bytes)` hands out the bytes of the dataset from `at` on.
  void dataset(const char* name, hid_t type, std::int64_t bytes,
               const std::function<void(std::int64_t, char*, std::size_t)>& read) {
    const auto width = static_cast<std::int64_t>(H5Tget_size(type));
    const auto what = fmt::format("write /{}", name);
    const auto count = static_cast<hsize_t>(bytes / width);
    Hdf5Id space(H5Screate_simple(1, &count, nullptr), H5Sclose);
    Hdf5Id properties(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
    must(H5Pset_layout(properties.get(), H5D_CONTIGUOUS), what);
    must(H5Pset_fill_time(properties.get(), H5D_FILL_TIME_NEVER), what);
    Hdf5Id set(H5Dcreate2(file_.get(), name, type, space.get(), H5P_DEFAULT, properties.get(),
                          H5P_DEFAULT),
               H5Dclose);
    must(set.get(), what);
    std::vector<char> block(std::size_t{1} << 22);
    for (std::int64_t at = 0; at < bytes; at += static_cast<std::int64_t>(block.size())) {
      const auto part = std::min(static_cast<std::int64_t>(block.size()), bytes - at);
      read(at, block.data(), static_cast<std::size_t>(part));
      const auto start = static_cast<hsize_t>(at / width);
      const auto length = static_cast<hsize_t>(part / width);
      Hdf5Id memory(H5Screate_simple(1, &length, nullptr), H5Sclose);
      must(H5Sselect_hyperslab(space.get(), H5S_SELECT_SET, &start, nullptr, &length, nullptr),
           what);
      must(H5Dwrite(set.get(), type, memory.get(), space.get(), H5P_DEFAULT, block.data()), what);
    }
    must(set.close(), what);
  }

  void close() {
    must(H5Fflush(file_.get(), H5F_SCOPE_GLOBAL), "flush");
    must(file_.close(), "close");
  }

 private:
  void must(std::int64_t status, std::string_view operation) const {
    if (status >= 0) return;
    throw fail(ExitCode::kSave, "{}: cannot {}: HDF5: {}", name_.string(), operation, hdf5_cause());
  }
  void put_attribute(const char* name, hid_t space, hid_t type, hid_t memory, const void* value) {
    Hdf5Id made(H5Acreate2(file_.get(), name, type, space, H5P_DEFAULT, H5P_DEFAULT), H5Aclose);
    must(made.get(), "write attributes");
    must(H5Awrite(made.get(), memory, value), "write attributes");
    must(made.close(), "write attributes");
  }

  std::filesystem::path name_;
  Hdf5Id file_;
};

}  // namespace

void write_token_file(const std::filesystem::path& path, const std::filesystem::path& final_name,
                      const TokenFileContents& contents, const TokenFileAttributes& attributes) {
  const Hdf5Quiet quiet;
  Output out(path, final_name);
  out.attribute("format", "pentagrid-tokens");
  out.attribute("version", 1);
  out.attribute("vocab", attributes.vocab);
  out.attribute("tokens_digest", attributes.tokens_digest);
  out.attribute("documents_digest", attributes.documents_digest);
  out.attribute("tokenizer_digest", attributes.tokenizer_digest);
  out.attribute("source", attributes.source);
  const auto from_file = [&](const RawFile& file) {
    return [&](std::int64_t at, char* data, std::size_t bytes) {
      if (file.read_at(at, data, bytes) == bytes) return;
      throw fail(ExitCode::kSave, "{}: its scratch file is shorter than what was written",
                 final_name.string());
    };
  };
  out.dataset("tokens",
              contents.width == 1   ? H5T_STD_U8LE
              : contents.width == 2 ? H5T_STD_U16LE
                                    : H5T_STD_U32LE,
              contents.tokens->size(), from_file(*contents.tokens));
  out.dataset("documents", H5T_STD_I64LE, contents.documents->size(),
              from_file(*contents.documents));
  out.dataset("tokenizer", H5T_STD_U8LE, static_cast<std::int64_t>(contents.tokenizer->size()),
              [&](std::int64_t at, char* data, std::size_t bytes) {
                contents.tokenizer->copy(data, bytes, static_cast<std::size_t>(at));
              });
  out.close();
}

}  // namespace pg::io

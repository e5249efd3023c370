// Writes a token file. HDF5 makes only the structure, some kilobytes, with the datasets' places
// reserved; their bytes are then written there as to any file. For HDF5 1.10 cannot close a file
// whose metadata finds no room on the disk: it fails, and crashes when the program ends. So what it
// writes is rehearsed first, and a disk that fills up later is met by plain writes.
#include <algorithm>
#include <vector>

#include "io/token_file_hdf5.h"
#include "io/token_file_hdf5_handle.h"

namespace pg::io {

namespace {

constexpr std::int64_t kMostMetadata = std::int64_t{1} << 17;

class Skeleton {
 public:
  explicit Skeleton(const std::filesystem::path& path) : path_(path) {
    Hdf5Id access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
    must(access.get(), "create");
    must(H5Pset_fapl_sec2(access.get()), "create");
    // With the latest format all metadata carries checksums.
    must(H5Pset_libver_bounds(access.get(), H5F_LIBVER_LATEST, H5F_LIBVER_LATEST), "create");
    must(H5Pset_fclose_degree(access.get(), H5F_CLOSE_STRONG), "create");
    Hdf5Id creation(H5Pcreate(H5P_FILE_CREATE), H5Pclose);
    // Without times the same text gives the same bytes.
    must(H5Pset_obj_track_times(creation.get(), false), "create");
    file_ = Hdf5Id(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, creation.get(), access.get()), H5Fclose);
    must(file_.get(), "create");
  }

  void attribute(const char* name, std::int64_t value) {
    put_attribute(name, H5T_STD_I64LE, H5T_NATIVE_INT64, &value);
  }

  void attribute(const char* name, const std::string& value) {
    Hdf5Id type(H5Tcopy(H5T_C_S1), H5Tclose);
    must(H5Tset_size(type.get(), value.size() + 1), "write attributes");
    must(H5Tset_cset(type.get(), H5T_CSET_UTF8), "write attributes");
    put_attribute(name, type.get(), type.get(), value.c_str());
  }

  // Where `bytes` bytes of a contiguous dataset will lie.
  std::int64_t dataset(const char* name, hid_t type, std::int64_t bytes) {
    const auto what = fmt::format("create /{}", name);
    const auto count = static_cast<hsize_t>(bytes) / H5Tget_size(type);
    Hdf5Id space(H5Screate_simple(1, &count, nullptr), H5Sclose);
    must(space.get(), what);
    Hdf5Id properties(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
    must(H5Pset_layout(properties.get(), H5D_CONTIGUOUS), what);
    must(H5Pset_obj_track_times(properties.get(), false), what);
    must(H5Pset_alloc_time(properties.get(), H5D_ALLOC_TIME_EARLY), what);
    must(H5Pset_fill_time(properties.get(), H5D_FILL_TIME_NEVER), what);
    Hdf5Id set(H5Dcreate2(file_.get(), name, type, space.get(), H5P_DEFAULT, properties.get(),
                          H5P_DEFAULT),
               H5Dclose);
    must(set.get(), what);
    const haddr_t offset = count == 0 ? 0 : H5Dget_offset(set.get());
    if (offset == HADDR_UNDEF) must(-1, what);
    must(set.close(), what);
    return static_cast<std::int64_t>(offset);
  }

  void close() {
    must(H5Fflush(file_.get(), H5F_SCOPE_GLOBAL), "flush");
    must(file_.close(), "close");
  }

 private:
  void must(std::int64_t status, std::string_view operation) const {
    if (status >= 0) return;
    throw fail(ExitCode::kSave, "{}: cannot {}: HDF5: {}", path_.string(), operation, hdf5_cause());
  }
  void put_attribute(const char* name, hid_t type, hid_t memory, const void* value) {
    Hdf5Id space(H5Screate(H5S_SCALAR), H5Sclose);
    Hdf5Id made(H5Acreate2(file_.get(), name, type, space.get(), H5P_DEFAULT, H5P_DEFAULT),
                H5Aclose);
    must(made.get(), "write attributes");
    must(H5Awrite(made.get(), memory, value), "write attributes");
    must(made.close(), "write attributes");
  }

  std::filesystem::path path_;
  Hdf5Id file_;
};

// Fails where HDF5 would: too little room for its metadata, or a limit below the file's size.
void rehearse(const std::filesystem::path& path, std::int64_t bytes) {
  auto file = RawFile::create(path, ExitCode::kSave);
  const std::vector<char> metadata(static_cast<std::size_t>(kMostMetadata));
  file.append(metadata.data(), metadata.size());
  file.resize(bytes + kMostMetadata);
  file.close();
}

void copy(const RawFile& from, RawFile& to, std::int64_t offset) {
  std::vector<char> block(std::size_t{1} << 22);
  for (std::int64_t at = 0;;) {
    const auto got = from.read_at(at, block.data(), block.size());
    to.write_at(offset + at, block.data(), got);
    at += static_cast<std::int64_t>(got);
    if (got < block.size()) return;
  }
}

}  // namespace

void write_token_file(const std::filesystem::path& path, const TokenFileContents& contents,
                      const TokenFileAttributes& attributes) {
  silence_hdf5();
  const auto& [tokens, documents, tokenizer, width] = contents;
  const auto tokenizer_bytes = static_cast<std::int64_t>(tokenizer->size());
  rehearse(path, tokens->size() + documents->size() + tokenizer_bytes);

  Skeleton skeleton(path);
  skeleton.attribute("format", "pentagrid-tokens");
  skeleton.attribute("version", 1);
  skeleton.attribute("vocab", attributes.vocab);
  skeleton.attribute("tokens_digest", attributes.tokens_digest);
  skeleton.attribute("documents_digest", attributes.documents_digest);
  skeleton.attribute("tokenizer_digest", attributes.tokenizer_digest);
  skeleton.attribute("source", attributes.source);
  const hid_t ids = width == 1 ? H5T_STD_U8LE : width == 2 ? H5T_STD_U16LE : H5T_STD_U32LE;
  const auto tokens_at = skeleton.dataset("tokens", ids, tokens->size());
  const auto documents_at = skeleton.dataset("documents", H5T_STD_I64LE, documents->size());
  const auto tokenizer_at = skeleton.dataset("tokenizer", H5T_STD_U8LE, tokenizer_bytes);
  skeleton.close();

  auto file = RawFile::modify(path, ExitCode::kSave);
  copy(*tokens, file, tokens_at);
  copy(*documents, file, documents_at);
  file.write_at(tokenizer_at, tokenizer->data(), tokenizer->size());
  file.close();
}

}  // namespace pg::io

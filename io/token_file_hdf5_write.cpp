// Writes a token file. HDF5 makes only the structure, some kilobytes, with the datasets' places
// reserved; their bytes are then written there as to any file. For HDF5 1.10 cannot close a file
// whose metadata finds no room on the disk: it fails, and crashes when the program ends. So what it
// writes is rehearsed first, and a disk that fills up later is met by plain writes.
#include <algorithm>
#include <vector>

#include "io/hdf5_file.h"
#include "io/token_file_hdf5.h"

namespace pg::io {

namespace {

constexpr std::int64_t kMostMetadata = std::int64_t{1} << 17;

class Skeleton {
 public:
  explicit Skeleton(const std::filesystem::path& path) : place_{path, ExitCode::kSave} {
    // With the latest format all metadata carries checksums.
    const auto access = h5::file_access(place_);
    const auto creation = taken(H5Pcreate(H5P_FILE_CREATE), H5Pclose, "creating");
    // Without times the same text gives the same bytes.
    must(H5Pset_obj_track_times(creation.id(), false), "creating");
    file_ = taken(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, creation.id(), access.id()), H5Fclose,
                  "creating");
  }

  void attribute(const char* name, std::int64_t value) {
    put_attribute(name, H5T_STD_I64LE, H5T_NATIVE_INT64, &value);
  }

  void attribute(const char* name, const std::string& value) {
    const auto type = taken(H5Tcopy(H5T_C_S1), H5Tclose, "writing attributes");
    must(H5Tset_size(type.id(), value.size() + 1), "writing attributes");
    must(H5Tset_cset(type.id(), H5T_CSET_UTF8), "writing attributes");
    put_attribute(name, type.id(), type.id(), value.c_str());
  }

  // Where `bytes` bytes of a contiguous dataset will lie.
  std::int64_t dataset(const char* name, hid_t type, std::int64_t bytes) {
    const auto what = fmt::format("creating /{}", name);
    const auto count = static_cast<hsize_t>(bytes) / H5Tget_size(type);
    const auto space = taken(H5Screate_simple(1, &count, nullptr), H5Sclose, what);
    const auto properties = taken(H5Pcreate(H5P_DATASET_CREATE), H5Pclose, what);
    must(H5Pset_layout(properties.id(), H5D_CONTIGUOUS), what);
    must(H5Pset_obj_track_times(properties.id(), false), what);
    must(H5Pset_alloc_time(properties.id(), H5D_ALLOC_TIME_EARLY), what);
    must(H5Pset_fill_time(properties.id(), H5D_FILL_TIME_NEVER), what);
    auto set = taken(
        H5Dcreate2(file_.id(), name, type, space.id(), H5P_DEFAULT, properties.id(), H5P_DEFAULT),
        H5Dclose, what);
    const haddr_t offset = count == 0 ? 0 : H5Dget_offset(set.id());
    if (offset == HADDR_UNDEF) must(-1, what);
    set.close(place_, what);
    return static_cast<std::int64_t>(offset);
  }

  void close() {
    must(H5Fflush(file_.id(), H5F_SCOPE_GLOBAL), "flushing");
    file_.close(place_, "closing");
  }

 private:
  void must(std::int64_t status, std::string_view operation) const {
    h5::check(place_, status, operation);
  }
  h5::Handle taken(hid_t id, h5::Handle::Close how, std::string_view operation) const {
    return h5::Handle(place_, id, how, operation);
  }
  void put_attribute(const char* name, hid_t type, hid_t memory, const void* value) {
    const auto space = taken(H5Screate(H5S_SCALAR), H5Sclose, "writing attributes");
    auto made = taken(H5Acreate2(file_.id(), name, type, space.id(), H5P_DEFAULT, H5P_DEFAULT),
                      H5Aclose, "writing attributes");
    must(H5Awrite(made.id(), memory, value), "writing attributes");
    made.close(place_, "writing attributes");
  }

  h5::Place place_;
  h5::Handle file_;
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
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
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

// HDF5 files that are well-formed and not token files, some of them made to lead astray (FAULTS
// 24): refused with Error(kData) before anything that they name is opened.
#include <gtest/gtest.h>
#include <hdf5.h>
#include <poll.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <vector>

#include "io/token_file.h"
#include "tests/io/token_test_files.h"

namespace pg::io {
namespace {

// Tells whether a file has been opened since.
class OpenWatch {
 public:
  explicit OpenWatch(const std::filesystem::path& path)
      : fd_(::inotify_init1(IN_NONBLOCK | IN_CLOEXEC)) {
    EXPECT_GE(::inotify_add_watch(fd_, path.c_str(), IN_OPEN), 0);
  }
  ~OpenWatch() { ::close(fd_); }
  OpenWatch(const OpenWatch&) = delete;
  OpenWatch& operator=(const OpenWatch&) = delete;
  bool opened() const {
    pollfd wait{fd_, POLLIN, 0};
    return ::poll(&wait, 1, 0) > 0;
  }

 private:
  int fd_;
};

// Changes a good token file through HDF5 itself. Every call must succeed, or the test is void.
class Changed {
 public:
  explicit Changed(const std::filesystem::path& path)
      : file_(must(H5Fopen(path.c_str(), H5F_ACC_RDWR, H5P_DEFAULT))) {}
  ~Changed() { must(H5Fclose(file_)); }
  Changed(const Changed&) = delete;
  Changed& operator=(const Changed&) = delete;

  hid_t id() const { return file_; }
  void unlink(const char* name) const { must(H5Ldelete(file_, name, H5P_DEFAULT)); }
  // A dataset in place of an old one. `data` may be null: nothing is written.
  void replace(const char* name, hid_t type, const std::vector<hsize_t>& dims, const void* data,
               hid_t properties = H5P_DEFAULT) const {
    unlink(name);
    const auto space = must(H5Screate_simple(static_cast<int>(dims.size()), dims.data(), nullptr));
    const auto set =
        must(H5Dcreate2(file_, name, type, space, H5P_DEFAULT, properties, H5P_DEFAULT));
    if (data != nullptr) must(H5Dwrite(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data));
    must(H5Dclose(set));
    must(H5Sclose(space));
  }
  void attribute(const char* name, hid_t type, const void* value) const {
    must(H5Adelete(file_, name));
    const auto space = must(H5Screate(H5S_SCALAR));
    const auto made = must(H5Acreate2(file_, name, type, space, H5P_DEFAULT, H5P_DEFAULT));
    must(H5Awrite(made, type, value));
    must(H5Aclose(made));
    must(H5Sclose(space));
  }
  static hid_t must(hid_t status) {
    EXPECT_GE(status, 0);
    return status;
  }

 private:
  hid_t file_;
};

class HostileTokenFile : public testing::Test {
 protected:
  void SetUp() override {
    write(path_);
    write(canary_);  // a good token file: whoever follows a way to it succeeds
  }
  static void write(const std::filesystem::path& path) {
    TokenFileWriter writer(path, 1000, "a model", "a test");
    writer.add_document(std::vector<std::int32_t>(100, 7));
    writer.finish();
  }
  void expect_refused(std::string_view why) const {
    const OpenWatch watch(canary_);
    expect_error(ExitCode::kData, {path_.native(), why}, [&] { TokenFile{path_}; });
    EXPECT_FALSE(watch.opened()) << "the canary was opened";
  }
  static hid_t created(H5D_layout_t layout) {
    const auto properties = Changed::must(H5Pcreate(H5P_DATASET_CREATE));
    Changed::must(H5Pset_layout(properties, layout));
    return properties;
  }

  TemporaryFolder folder_;
  const std::filesystem::path path_ = folder_ / "tokens.h5", canary_ = folder_ / "canary.h5";
  const std::vector<std::uint16_t> ids_ = std::vector<std::uint16_t>(100, 7);
};

TEST_F(HostileTokenFile, the_canary_would_be_noticed) {
  const OpenWatch watch(canary_);
  EXPECT_EQ(TokenFile(canary_).tokens(), 100);
  EXPECT_TRUE(watch.opened());
}

TEST_F(HostileTokenFile, external_links_are_refused_unopened) {
  for (const char* name : {"tokens", "documents", "tokenizer"}) {
    write(path_);
    {
      const Changed file(path_);
      file.unlink(name);
      Changed::must(
          H5Lcreate_external(canary_.c_str(), name, file.id(), name, H5P_DEFAULT, H5P_DEFAULT));
    }
    expect_refused("an external link");
  }
}

TEST_F(HostileTokenFile, soft_links_and_loops_of_them_are_refused) {
  {
    const Changed file(path_);
    file.unlink("tokens");
    Changed::must(H5Lcreate_soft("/tokens", file.id(), "tokens", H5P_DEFAULT, H5P_DEFAULT));
  }
  expect_refused("a soft link");
  write(path_);
  {
    const Changed file(path_);
    Changed::must(H5Lmove(file.id(), "tokens", file.id(), "elsewhere", H5P_DEFAULT, H5P_DEFAULT));
    Changed::must(H5Lcreate_soft("/elsewhere", file.id(), "tokens", H5P_DEFAULT, H5P_DEFAULT));
  }
  expect_refused("a soft link");
}

TEST_F(HostileTokenFile, external_storage_is_refused_unopened) {
  {
    const Changed file(path_);
    const auto properties = created(H5D_CONTIGUOUS);
    Changed::must(H5Pset_external(properties, canary_.c_str(), 0, 200));
    file.replace("tokens", H5T_STD_U16LE, {100}, nullptr, properties);
    H5Pclose(properties);
  }
  expect_refused("stored in another file");
}

TEST_F(HostileTokenFile, virtual_datasets_are_refused_unopened) {
  {
    const Changed file(path_);
    const auto properties = created(H5D_VIRTUAL);
    const hsize_t count = 100;
    const auto space = Changed::must(H5Screate_simple(1, &count, nullptr));
    Changed::must(H5Pset_virtual(properties, space, canary_.c_str(), "tokens", space));
    file.replace("tokens", H5T_STD_U16LE, {100}, nullptr, properties);
    H5Sclose(space);
    H5Pclose(properties);
  }
  expect_refused("a virtual dataset");
}

// Its extent is that of its source, which HDF5 opens when asked for the extent.
TEST_F(HostileTokenFile, unlimited_virtual_datasets_are_refused_unopened) {
  {
    const Changed file(path_);
    const auto properties = created(H5D_VIRTUAL);
    const hsize_t count = 100, most = H5S_UNLIMITED, start = 0, stride = 1, block = 1;
    const auto space = Changed::must(H5Screate_simple(1, &count, &most));
    Changed::must(H5Sselect_hyperslab(space, H5S_SELECT_SET, &start, &stride, &most, &block));
    Changed::must(H5Pset_virtual(properties, space, canary_.c_str(), "tokens", space));
    file.unlink("tokens");
    const auto set = Changed::must(H5Dcreate2(file.id(), "tokens", H5T_STD_U16LE, space,
                                              H5P_DEFAULT, properties, H5P_DEFAULT));
    H5Dclose(set);
    H5Sclose(space);
    H5Pclose(properties);
  }
  expect_refused("a virtual dataset");
}

TEST_F(HostileTokenFile, dimensions_past_the_file_are_refused) {
  for (const char* name : {"tokens", "documents", "tokenizer"}) {
    write(path_);
    const auto type = name == std::string("tokens")      ? H5T_STD_U16LE
                      : name == std::string("documents") ? H5T_STD_I64LE
                                                         : H5T_STD_U8LE;
    {
      const Changed file(path_);  // late allocation: nothing is reserved
      file.replace(name, type, {hsize_t{1} << 60}, nullptr);
    }
    expect_refused("no data");
  }
}

// The extent in the object header made 2^60 while the data stays: the header's checksum must say
// so.
TEST_F(HostileTokenFile, an_altered_extent_is_refused) {
  auto bytes = read_bytes(path_);
  const std::uint64_t extent = 100, huge = std::uint64_t{1} << 60;
  const std::string_view pattern(reinterpret_cast<const char*>(&extent), 8);
  std::size_t altered = 0;
  for (auto at = bytes.find(pattern); at != std::string::npos; at = bytes.find(pattern, at + 1)) {
    auto changed = bytes;
    changed.replace(at, 8, reinterpret_cast<const char*>(&huge), 8);
    write_bytes(path_, changed);
    expect_refused("");
    ++altered;
  }
  EXPECT_GE(altered, 1u);
}

TEST_F(HostileTokenFile, chunked_filtered_and_compact_data_are_refused) {
  const hsize_t chunk = 10;
  {
    const Changed file(path_);
    const auto properties = created(H5D_CHUNKED);
    Changed::must(H5Pset_chunk(properties, 1, &chunk));
    file.replace("tokens", H5T_STD_U16LE, {100}, ids_.data(), properties);
    H5Pclose(properties);
  }
  expect_refused("chunked");
  write(path_);
  {
    const Changed file(path_);
    const auto properties = created(H5D_CHUNKED);
    Changed::must(H5Pset_chunk(properties, 1, &chunk));
    // No such filter exists here; as an optional one it may be named all the same.
    Changed::must(H5Pset_filter(properties, 511, H5Z_FLAG_OPTIONAL, 0, nullptr));
    file.replace("tokens", H5T_STD_U16LE, {100}, nullptr, properties);
    H5Pclose(properties);
  }
  expect_refused("1 filters");
  write(path_);
  {
    const Changed file(path_);
    const auto properties = created(H5D_COMPACT);
    file.replace("tokens", H5T_STD_U16LE, {100}, ids_.data(), properties);
    H5Pclose(properties);
  }
  expect_refused("compact");
}

TEST_F(HostileTokenFile, other_element_types_are_refused) {
  const auto text = H5Tcopy(H5T_C_S1), sequence = H5Tvlen_create(H5T_STD_U16LE);
  H5Tset_size(text, H5T_VARIABLE);
  for (const hid_t type : {H5T_STD_I16LE, H5T_STD_I32LE, H5T_STD_U64LE, H5T_STD_U16BE,
                           H5T_IEEE_F32LE, text, sequence}) {
    write(path_);
    {
      const Changed file(path_);
      const auto properties = Changed::must(H5Pcreate(H5P_DATASET_CREATE));
      Changed::must(H5Pset_alloc_time(properties, H5D_ALLOC_TIME_EARLY));
      file.replace("tokens", type, {100}, nullptr, properties);
      H5Pclose(properties);
    }
    expect_refused("another type");
  }
  H5Tclose(text);
  H5Tclose(sequence);
}

TEST_F(HostileTokenFile, other_shapes_and_objects_are_refused) {
  {
    const Changed file(path_);
    file.replace("tokens", H5T_STD_U16LE, {10, 10}, ids_.data());
  }
  expect_refused("one dimension");
  write(path_);
  {
    const Changed file(path_);
    file.unlink("tokens");
    H5Gclose(H5Gcreate2(file.id(), "tokens", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
  }
  expect_refused("not a dataset");
  write(path_);
  {
    const Changed file(path_);
    file.unlink("tokens");
  }
  expect_refused("/tokens is missing");
  write(path_);
  {
    const Changed file(path_);
    H5Gclose(H5Gcreate2(file.id(), "more", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
  }
  expect_refused("4 entries");
}

TEST_F(HostileTokenFile, documents_that_do_not_ascend_from_first_to_last_token_are_refused) {
  const std::vector<std::vector<std::int64_t>> cases = {
      {0},          {1, 100},         {0, 99},
      {0, 101},     {0, 50, 50, 100}, {0, 60, 50, 100},
      {0, -1, 100}, {-1, 100},        {0, INT64_MAX, 100}};
  for (const auto& documents : cases) {
    write(path_);
    {
      const Changed file(path_);
      file.replace("documents", H5T_STD_I64LE, {documents.size()}, documents.data());
    }
    expect_refused("documents");
  }
  write(path_);
  {
    const Changed file(path_);
    file.replace("documents", H5T_STD_I64LE, {0}, nullptr);
  }
  expect_refused("no documents");
  write(path_);
  {
    const Changed file(path_);
    file.replace("tokens", H5T_STD_U16LE, {0}, nullptr);
  }
  expect_refused("no tokens");
}

TEST_F(HostileTokenFile, documents_and_tokenizers_that_miss_their_digest_are_refused) {
  const std::vector<std::int64_t> documents = {0, 50, 100};
  {
    const Changed file(path_);
    file.replace("documents", H5T_STD_I64LE, {3}, documents.data());
  }
  expect_refused("/documents is damaged");
  write(path_);
  {
    const Changed file(path_);
    file.replace("tokenizer", H5T_STD_U8LE, {7}, "A model");
  }
  expect_refused("/tokenizer is damaged");
}

TEST_F(HostileTokenFile, attributes_of_other_types_or_values_are_refused) {
  const auto text = H5Tcopy(H5T_C_S1);
  H5Tset_size(text, H5T_VARIABLE);
  const char* format = "pentagrid-tokens";
  {
    const Changed file(path_);
    file.attribute("format", text, &format);
  }
  expect_refused("attribute format");
  H5Tclose(text);
  const struct {
    const char* name;
    std::int64_t value;
    const char* why;
  } cases[] = {{"version", 2, "version is 2"},
               {"vocab", 0, "vocab is 0"},
               {"vocab", -5, "vocab is -5"},
               {"vocab", std::int64_t{1} << 40, "vocab is 1099511627776"},
               {"format", 1, "attribute format"}};
  for (const auto& c : cases) {
    write(path_);
    {
      const Changed file(path_);
      file.attribute(c.name, H5T_NATIVE_INT64, &c.value);
    }
    expect_refused(c.why);
  }
  for (const char* name : {"format", "version", "vocab", "tokens_digest", "source"}) {
    write(path_);
    {
      const Changed file(path_);
      Changed::must(H5Adelete(file.id(), name));
    }
    expect_refused(fmt::format("no attribute {}", name));
  }
}

TEST_F(HostileTokenFile, hdf5_prints_nothing_itself) {
  write_bytes(path_, "not HDF5");
  testing::internal::CaptureStderr();
  expect_error(ExitCode::kData, {"no HDF5 file"}, [&] { TokenFile{path_}; });
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

}  // namespace
}  // namespace pg::io

// A checkpoint whose manifest is right and whose HDF5 file is hostile: refused with exit 4, without
// a signal, without memory that the file asks for, and without opening the files it names (a canary
// that would pass for a tensor is watched by inotify).
#include <sys/inotify.h>
#include <unistd.h>

#include <map>

#include "../io/checkpoint_state.h"
#include "io/checkpoint_entry.h"
#include "io/hdf5_file.h"
#include "io/manifest.h"

// Of the HDF5 library, which declares it in a private header: the checksum of its metadata.
extern "C" std::uint32_t H5_checksum_metadata(const void* data, std::size_t bytes,
                                              std::uint32_t first);

namespace pg::io {
namespace {

namespace fs = std::filesystem;
using h5::Handle;

class CheckpointHostile : public testing::Test {
 protected:
  CheckpointHostile() {
    state_.fill(1);
    entry_ =
        save_checkpoint(comm::Communicator::world(), directory_, test_info(3), state_.tensors());
    canary_ = directory_.path() / "canary.h5";
    fs::copy(entry_ / "state.h5", canary_);
    watch_ = inotify_init1(IN_NONBLOCK);
    EXPECT_GE(inotify_add_watch(watch_, canary_.c_str(), IN_OPEN | IN_ACCESS), 0);
    good_ = bytes_of(entry_ / "state.h5");
  }
  ~CheckpointHostile() override { ::close(watch_); }

  // The whole file, or the group /tensors, to do harm in.
  template <class Harm>
  void change_file(Harm harm) {
    const h5::Place place{entry_ / "state.h5", ExitCode::kBug};
    const auto access = h5::file_access(place);
    const Handle file(place, H5Fopen(place.path.c_str(), H5F_ACC_RDWR, access.id()), H5Fclose,
                      "H5Fopen");
    harm(file.id());
  }
  template <class Harm>
  void change_tensors(Harm harm) {
    change_file([&](hid_t file) {
      const Handle group({}, H5Gopen2(file, "tensors", H5P_DEFAULT), H5Gclose, "H5Gopen");
      harm(group.id());
    });
  }

  // Replaces norm.weight by a dataset made by `options`, `type` and `dims`.
  void replace(hid_t group, hid_t type, std::vector<hsize_t> dims, hid_t options,
               const char* dtype = "fp32") {
    ASSERT_GE(H5Ldelete(group, "norm.weight", H5P_DEFAULT), 0);
    const Handle space({}, H5Screate_simple(static_cast<int>(dims.size()), dims.data(), nullptr),
                       H5Sclose, "space");
    const Handle dataset(
        {}, H5Dcreate2(group, "norm.weight", type, space.id(), H5P_DEFAULT, options, H5P_DEFAULT),
        H5Dclose, "H5Dcreate");
    if (dtype != nullptr) h5::write_text_attribute({}, dataset.id(), "dtype", dtype);
  }
  static Handle options() {
    return Handle({}, H5Pcreate(H5P_DATASET_CREATE), H5Pclose, "H5Pcreate");
  }

  // Makes the manifest right again.
  void seal() {
    put_bytes(entry_ / "manifest.json",
              render_manifest(measure_files(entry_, 3, entry_files(), ExitCode::kBug)));
  }

  void expect_refused(const std::string& why) {
    seal();
    EXPECT_TRUE(verify_checkpoint(entry_).empty()) << "the manifest must not be what refuses it";
    char event[4096];
    while (::read(watch_, event, sizeof event) > 0) {  // opened by the harm itself
    }
    expect_contains(error_of(ExitCode::kCheckpoint, [&] { read_checkpoint_tensors(entry_); }), why);
    expect_contains(
        error_of(ExitCode::kCheckpoint,
                 [&] { load_checkpoint(comm::Communicator::world(), entry_, state_.tensors()); }),
        "state.h5");
    EXPECT_LT(::read(watch_, event, sizeof event), 0) << "the canary was opened";
    put_bytes(entry_ / "state.h5", good_);
  }

  const std::unique_ptr<comm::Group> group_ = comm::make_self_group("test");
  const TestDirectory directory_{*group_};
  const h5::Quiet quiet_;
  TestState state_{tiny_plans(), 0, 1};
  fs::path entry_, canary_;
  std::string good_;
  int watch_ = -1;
};

TEST_F(CheckpointHostile, links_of_any_kind_are_refused_unfollowed) {
  change_tensors([&](hid_t group) {
    H5Ldelete(group, "norm.weight", H5P_DEFAULT);
    ASSERT_GE(H5Lcreate_external(canary_.c_str(), "/tensors/norm.weight", group, "norm.weight",
                                 H5P_DEFAULT, H5P_DEFAULT),
              0);
  });
  expect_refused("'norm.weight' is an external link");
  change_file([&](hid_t file) {
    H5Ldelete(file, "tensors", H5P_DEFAULT);
    ASSERT_GE(
        H5Lcreate_external(canary_.c_str(), "/tensors", file, "tensors", H5P_DEFAULT, H5P_DEFAULT),
        0);
  });
  expect_refused("'tensors' is an external link");
  for (const auto* target : {"/tensors/norm.weight", "/nowhere", "/tensors/soft"}) {
    change_tensors([&](hid_t group) {
      ASSERT_GE(H5Lcreate_soft(target, group, "soft", H5P_DEFAULT, H5P_DEFAULT), 0);
    });
    expect_refused("'soft' is a soft link");
  }
}

TEST_F(CheckpointHostile, loops_and_second_names_are_refused) {
  change_tensors([&](hid_t group) {
    ASSERT_GE(H5Lcreate_hard(group, ".", group, "loop", H5P_DEFAULT, H5P_DEFAULT), 0);
  });
  expect_refused("'loop' is not a dataset");
  change_file([&](hid_t file) {
    H5Ldelete(file, "tensors", H5P_DEFAULT);
    ASSERT_GE(H5Lcreate_hard(file, "/", file, "tensors", H5P_DEFAULT, H5P_DEFAULT), 0);
  });
  expect_refused("'tensors' is not a dataset");
  change_tensors([&](hid_t group) {
    ASSERT_GE(H5Lcreate_hard(group, "norm.weight", group, "twin", H5P_DEFAULT, H5P_DEFAULT), 0);
  });
  expect_refused("share storage");
}

TEST_F(CheckpointHostile, data_in_other_files_is_refused_unopened) {
  change_tensors([&](hid_t group) {
    const auto external = options();
    ASSERT_GE(H5Pset_external(external.id(), canary_.c_str(), 0, 20), 0);
    replace(group, H5T_IEEE_F32LE, {5}, external.id());
  });
  expect_refused("is stored in another file");
  change_tensors([&](hid_t group) {
    const auto mapped = options();
    const hsize_t five = 5;
    const Handle space({}, H5Screate_simple(1, &five, nullptr), H5Sclose, "space");
    ASSERT_GE(H5Pset_virtual(mapped.id(), space.id(), canary_.c_str(), "/tensors/norm.weight",
                             space.id()),
              0);
    replace(group, H5T_IEEE_F32LE, {5}, mapped.id());
  });
  expect_refused("is not stored contiguously");
}

TEST_F(CheckpointHostile, layouts_that_cannot_be_trusted_are_refused) {
  change_tensors([&](hid_t group) {
    const auto late = options();
    H5Pset_alloc_time(late.id(), H5D_ALLOC_TIME_LATE);
    replace(group, H5T_IEEE_F32LE, {hsize_t{1} << 60}, late.id());
  });
  expect_refused("claims extent 1152921504606846976");
  change_tensors([&](hid_t group) {
    const auto late = options();
    H5Pset_alloc_time(late.id(), H5D_ALLOC_TIME_LATE);
    replace(group, H5T_IEEE_F32LE, {5}, late.id());
  });
  expect_refused("has storage outside the file");
  change_tensors([&](hid_t group) {
    const auto chunked = options();
    const hsize_t two = 2;
    H5Pset_chunk(chunked.id(), 1, &two);
    H5Pset_filter(chunked.id(), 32000, H5Z_FLAG_OPTIONAL, 0, nullptr);  // nobody has it
    replace(group, H5T_IEEE_F32LE, {5}, chunked.id());
  });
  expect_refused("is not stored contiguously");
  change_tensors([&](hid_t group) {
    const auto compact = options();
    H5Pset_layout(compact.id(), H5D_COMPACT);
    replace(group, H5T_IEEE_F32LE, {5}, compact.id());
  });
  expect_refused("is not stored contiguously");
}

TEST_F(CheckpointHostile, types_other_than_the_dtype_says_are_refused) {
  const auto early = [] {
    auto made = options();
    H5Pset_alloc_time(made.id(), H5D_ALLOC_TIME_EARLY);
    return made;
  };
  const Handle vlen({}, H5Tvlen_create(H5T_IEEE_F32LE), H5Tclose, "H5Tvlen_create");
  const Handle text({}, H5Tcopy(H5T_C_S1), H5Tclose, "H5Tcopy");
  H5Tset_size(text.id(), H5T_VARIABLE);
  for (const auto type : {vlen.id(), text.id(), hid_t{H5T_STD_REF_OBJ}}) {
    change_tensors([&](hid_t group) { replace(group, type, {5}, early().id()); });
    expect_refused("is of another type");
  }
  for (const auto type : {hid_t{H5T_IEEE_F32BE}, hid_t{H5T_STD_I32LE}, hid_t{H5T_IEEE_F64LE}}) {
    change_tensors([&](hid_t group) { replace(group, type, {5}, early().id()); });
    expect_refused("is stored in a type that is not its dtype");
  }
  change_tensors([&](hid_t group) { replace(group, H5T_IEEE_F32LE, {5}, early().id(), "fp31"); });
  expect_refused("is stored in a type that is not its dtype");
  change_tensors([&](hid_t group) { replace(group, H5T_IEEE_F32LE, {5}, early().id(), nullptr); });
  expect_refused("the attribute dtype is missing");
  change_tensors([&](hid_t group) {
    replace(group, H5T_IEEE_F32LE, {5}, early().id(), nullptr);
    const Handle dataset({}, H5Dopen2(group, "norm.weight", H5P_DEFAULT), H5Dclose, "H5Dopen");
    const Handle scalar({}, H5Screate(H5S_SCALAR), H5Sclose, "H5Screate");
    const Handle attribute(
        {}, H5Acreate2(dataset.id(), "dtype", text.id(), scalar.id(), H5P_DEFAULT, H5P_DEFAULT),
        H5Aclose, "H5Acreate");
    const char* value = "fp32";
    ASSERT_GE(H5Awrite(attribute.id(), text.id(), &value), 0);
  });
  expect_refused("attribute dtype is of another type");
}

TEST_F(CheckpointHostile, other_objects_are_refused) {
  change_file([&](hid_t file) {
    const Handle group({}, H5Gcreate2(file, "more", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT),
                       H5Gclose, "H5Gcreate");
  });
  expect_refused("does not hold exactly the group /tensors");
  change_tensors([&](hid_t tensors) {
    const Handle group({}, H5Gcreate2(tensors, "more", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT),
                       H5Gclose, "H5Gcreate");
  });
  expect_refused("'more' is not a dataset");
  change_file([&](hid_t file) {
    ASSERT_GE(H5Adelete(file, "format"), 0);
    h5::write_text_attribute({}, file, "format", "pentagrid state 2");
  });
  expect_refused("its format is not");
}

TEST_F(CheckpointHostile, files_that_are_no_hdf5_or_end_early_are_refused) {
  for (const auto& bytes :
       {std::string(), std::string("garbage"), std::string(100000, '\0'), good_.substr(0, 8),
        good_.substr(0, 47), good_.substr(0, 100), good_.substr(0, good_.size() - 1)}) {
    put_bytes(entry_ / "state.h5", bytes);
    expect_refused("HDF5 file");
  }
}

// HDF5 opens all of these; their offsets would mean other bytes than the superblock's reader
// thinks.
TEST_F(CheckpointHostile, a_superblock_that_does_not_span_the_file_is_refused) {
  for (const std::size_t more : {1, 100, 100000}) {
    put_bytes(entry_ / "state.h5", good_ + std::string(more, '\0'));
    expect_refused("an HDF5 file of " + std::to_string(good_.size()) + " bytes, of which ");
  }
  put_bytes(entry_ / "state.h5", std::string(512, '\0') + good_);
  expect_refused("no HDF5 file, or one that begins with something else");
  // A user block that HDF5 itself made.
  {
    const h5::Place place{entry_ / "state.h5", ExitCode::kBug};
    fs::remove(place.path);
    const auto access = h5::file_access(place);
    const Handle create({}, H5Pcreate(H5P_FILE_CREATE), H5Pclose, "H5Pcreate");
    ASSERT_GE(H5Pset_userblock(create.id(), 1024), 0);
    const Handle file(place, H5Fcreate(place.path.c_str(), H5F_ACC_EXCL, create.id(), access.id()),
                      H5Fclose, "H5Fcreate");
    const Handle group({}, H5Gcreate2(file.id(), "tensors", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT),
                       H5Gclose, "H5Gcreate");
  }
  expect_refused("no HDF5 file, or one that begins with something else");
  // The format of HDF5 1.6, whose superblock has other places and no checksum.
  {
    const h5::Place place{entry_ / "state.h5", ExitCode::kBug};
    fs::remove(place.path);
    const Handle file(place, H5Fcreate(place.path.c_str(), H5F_ACC_EXCL, H5P_DEFAULT, H5P_DEFAULT),
                      H5Fclose, "H5Fcreate");
  }
  expect_refused("in HDF5's older encoding (superblock 0)");
}

// The address in norm.weight's header is replaced, and the header's checksum made right.
TEST_F(CheckpointHostile, data_that_overlaps_what_describes_it_is_refused) {
  std::map<std::string, std::uint64_t> at;  // addresses of headers, and of data
  std::size_t header_bytes = 0;
  {
    const h5::Place place{entry_ / "state.h5", ExitCode::kBug};
    const Handle file = h5::open_to_read(place);
    for (const auto* name :
         {"/", "/tensors", "/tensors/norm.weight", "/tensors/blocks.0.q.weight"}) {
      H5O_info_t info;
      ASSERT_GE(H5Oget_info_by_name(file.id(), name, &info, H5P_DEFAULT), 0);
      at[name] = info.addr;
      if (std::string(name) == "/tensors/norm.weight") header_bytes = info.hdr.space.total;
    }
    for (const auto* name : {"norm.weight", "blocks.0.q.weight"}) {
      const Handle dataset(
          {}, H5Dopen2(file.id(), (std::string("/tensors/") + name).c_str(), H5P_DEFAULT), H5Dclose,
          "H5Dopen");
      at[name] = H5Dget_offset(dataset.id());
    }
  }
  const auto header = at["/tensors/norm.weight"];
  ASSERT_EQ(good_.substr(header, 4), "OHDR");
  const auto word = [](std::uint64_t value) {
    return std::string(reinterpret_cast<const char*>(&value), 8);
  };
  const auto moved_to = [&](std::uint64_t address) {
    auto text = good_.substr(header, header_bytes - 4);
    const auto place = text.find(word(at["norm.weight"]));
    EXPECT_NE(place, std::string::npos);
    text.replace(place, 8, word(address));
    const std::uint32_t sum = H5_checksum_metadata(text.data(), text.size(), 0);
    auto bytes = good_;
    bytes.replace(header, text.size(), text);
    bytes.replace(header + text.size(), 4, std::string(reinterpret_cast<const char*>(&sum), 4));
    put_bytes(entry_ / "state.h5", bytes);
  };
  moved_to(at["norm.weight"]);
  EXPECT_TRUE(bytes_of(entry_ / "state.h5") == good_) << "the checksum is not HDF5's";
  const std::pair<std::uint64_t, const char*> places[] = {
      {0, "the superblock"},
      {40, "the superblock"},
      {at["/"], "the root group"},
      {at["/tensors"] + 15, "the group of tensors"},
      {header, "the header of norm.weight"},
      {header + header_bytes - 4, "the header of norm.weight"},
      {at["/tensors/blocks.0.q.weight"] + 1, "the header of blocks.0.q.weight"},
      {at["blocks.0.q.weight"], "'blocks.0.q.weight'"},
      {at["blocks.0.q.weight"] + 29, "'blocks.0.q.weight'"}};
  for (const auto& [address, with] : places) {
    moved_to(address);
    expect_refused("share storage");
    moved_to(address);
    expect_refused(with);
  }
  // Inside and outside by one byte: 5 floats.
  moved_to(good_.size() - 19);
  expect_refused("but the file ends at " + std::to_string(good_.size()));
  moved_to(std::uint64_t{0} - 8);
  expect_refused("but the file ends at " + std::to_string(good_.size()));
}

// HDF5's own checks, ours behind them (it may complain of an "infinite loop closing library" at the
// end: it loses resources on damaged metadata): whatever byte is wrong, there is an Error or the
// right structure, never a signal. Every third byte keeps this to seconds; each bit gets its turn.
TEST_F(CheckpointHostile, a_flipped_bit_under_a_right_manifest_never_crashes) {
  std::int64_t refused = 0, taken = 0;
  for (std::size_t at = 0; at < good_.size(); at += 3) {
    auto bytes = good_;
    bytes[at] = static_cast<char>(bytes[at] ^ (1 << (at / 3 % 8)));
    put_bytes(entry_ / "state.h5", bytes);
    try {
      load_checkpoint(comm::Communicator::world(), entry_, state_.tensors());
      ++taken;
    } catch (const Error& error) {
      ASSERT_EQ(error.code(), ExitCode::kCheckpoint) << "byte " << at << ": " << error.what();
      ++refused;
    }
  }
  // Both happen: metadata is checksummed, tensor data (110 bytes) and unused space are not.
  EXPECT_GT(refused, 50);
  EXPECT_GT(taken, 30);
}

}  // namespace
}  // namespace pg::io

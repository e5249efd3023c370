// The guard before HDF5: every file that HDF5 writes for us passes, however many links it holds;
// damage whose checksums were made right again is refused by the guard or read without harm.
#include "io/hdf5_guard.h"

#include <gtest/gtest.h>

#include "io/lookup3.h"
#include "io/token_file.h"
#include "tests/fuzz/reseal.h"
#include "tests/io/token_test_files.h"

namespace pg::io::h5 {
namespace {

class Hdf5Guard : public testing::Test {
 protected:
  static hid_t must(hid_t id) {
    EXPECT_GE(id, 0);
    return id;
  }
  // A file of one small dataset, in the encoding between these bounds.
  hid_t create(H5F_libver_t low, hid_t creation = H5P_DEFAULT) const {
    const auto access = must(H5Pcreate(H5P_FILE_ACCESS));
    must(H5Pset_libver_bounds(access, low, H5F_LIBVER_LATEST));
    must(H5Pset_fclose_degree(access, H5F_CLOSE_STRONG));
    const auto file = must(H5Fcreate(place_.path.c_str(), H5F_ACC_TRUNC, creation, access));
    H5Pclose(access);
    const hsize_t three = 3;
    const auto space = must(H5Screate_simple(1, &three, nullptr));
    const auto set =
        must(H5Dcreate2(file, "data", H5T_STD_U16LE, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
    const std::uint16_t values[3] = {1, 2, 3};
    must(H5Dwrite(set, H5T_NATIVE_UINT16, H5S_ALL, H5S_ALL, H5P_DEFAULT, values));
    H5Sclose(space);
    H5Dclose(set);
    return file;
  }
  void refused(std::string_view why) const {
    expect_error(ExitCode::kData, {place_.path.native(), why}, [&] { require_plain(place_); });
  }
  std::string token_file() const {
    TokenFileWriter writer(place_.path, 1000, "a model", "a test");
    writer.add_document(std::vector<std::int32_t>(100, 7));
    writer.finish();
    return read_bytes(place_.path);
  }

  TemporaryFolder folder_;
  const Place place_{folder_ / "file.h5", ExitCode::kData};
};

TEST_F(Hdf5Guard, lookup3_is_as_published) {
  // From the comments of lookup3.c, of hashlittle with initial value 0.
  EXPECT_EQ(lookup3(""), 0xdeadbeefU);
  EXPECT_EQ(lookup3("Four score and seven years ago"), 0x17770551U);
}

// Up to a heap with indirect blocks in indirect blocks, and a tree with three levels of nodes.
TEST_F(Hdf5Guard, groups_of_any_number_of_links_pass) {
  for (const int count : {0, 8, 9, 30, 200, 2000, 18000}) {
    const auto file = create(H5F_LIBVER_LATEST);
    const auto group = must(H5Gcreate2(file, "many", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
    for (int i = 0; i < count; ++i) {
      const auto name = fmt::format("adam.m.blocks.{}.attention.q.weight", i);
      must(H5Lcreate_hard(file, "/data", group, name.c_str(), H5P_DEFAULT, H5P_DEFAULT));
    }
    // Holes in the heap, and nodes that were merged.
    for (int i = 0; i < count; i += 3) {
      const auto name = fmt::format("adam.m.blocks.{}.attention.q.weight", i);
      must(H5Ldelete(group, name.c_str(), H5P_DEFAULT));
    }
    H5Gclose(group);
    H5Fclose(file);
    SCOPED_TRACE(count);
    EXPECT_NO_THROW(require_plain(place_));
  }
}

TEST_F(Hdf5Guard, the_older_encoding_is_refused_with_the_remedy) {
  H5Fclose(create(H5F_LIBVER_EARLIEST));
  refused("libver='latest'");
  H5Fclose(create(H5F_LIBVER_V18));
  EXPECT_NO_THROW(require_plain(place_));
}

TEST_F(Hdf5Guard, what_ours_never_have_is_refused) {
  const auto creation = must(H5Pcreate(H5P_FILE_CREATE));
  H5Pset_userblock(creation, 512);
  H5Fclose(create(H5F_LIBVER_LATEST, creation));
  refused("begins with something else");
  H5Pset_userblock(creation, 0);
  H5Pset_file_space_strategy(creation, H5F_FSPACE_STRATEGY_PAGE, true, 1);
  H5Fclose(create(H5F_LIBVER_LATEST, creation));
  refused("extension");
  H5Pclose(creation);

  auto file = create(H5F_LIBVER_LATEST);
  const auto scalar = must(H5Screate(H5S_SCALAR));
  for (int i = 0; i < 9; ++i) {
    const auto name = fmt::format("attribute{}", i);
    H5Aclose(must(H5Acreate2(file, name.c_str(), H5T_STD_I32LE, scalar, H5P_DEFAULT, H5P_DEFAULT)));
  }
  H5Fclose(file);
  refused("more than 8 attributes");

  file = create(H5F_LIBVER_LATEST);
  H5Tcommit2(file, "type", H5Tcopy(H5T_STD_I32LE), H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
  H5Fclose(file);
  refused("neither a group nor a dataset");

  file = create(H5F_LIBVER_LATEST);
  auto inner = must(H5Gcreate2(file, "a", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
  for (const auto* name : {"b", "c"}) {
    inner = must(H5Gcreate2(inner, name, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
  }
  H5Fclose(file);
  H5Sclose(scalar);
  refused("too many groups");
}

TEST_F(Hdf5Guard, a_file_with_more_or_fewer_bytes_than_it_says_is_refused) {
  const auto whole = token_file();
  EXPECT_NO_THROW(require_plain(place_));
  write_bytes(place_.path, whole + "x");
  refused("of which");
  write_bytes(place_.path, std::string_view(whole).substr(0, whole.size() - 1));
  refused("of which");
  write_bytes(place_.path, "");
  refused("no HDF5 file");
}

TEST_F(Hdf5Guard, damage_is_refused_by_its_checksum) {
  const auto whole = token_file();
  auto damaged = whole;
  const auto header = damaged.find("OHDR");
  ASSERT_NE(header, damaged.npos);
  damaged[header + 40] = static_cast<char>(damaged[header + 40] ^ 4);
  write_bytes(place_.path, damaged);
  refused("checksum");
}

// Every fifth byte changed under right checksums: an Error or a structure that can be
// read.
TEST_F(Hdf5Guard, damage_under_right_checksums_is_refused_or_harmless) {
  const auto whole = token_file();
  std::size_t refusals = 0, taken = 0;
  for (std::size_t at = 0; at < whole.size(); at += 5) {
    auto damaged = whole;
    damaged[at] = static_cast<char>(damaged[at] ^ (at % 10 == 0 ? 0x01 : 0xFF));
    const auto sealed = fuzz::resealed(damaged);
    if (sealed == whole) continue;
    write_bytes(place_.path, sealed);
    try {
      const TokenFile file(place_.path);
      std::vector<std::int32_t> ids(static_cast<std::size_t>(file.tokens()));
      file.read(0, ids);
      ++taken;
    } catch (const Error& error) {
      ASSERT_EQ(error.code(), ExitCode::kData) << at << ": " << error.what();
      ++refusals;
    }
  }
  EXPECT_GT(refusals, 50u);
  EXPECT_GT(taken, 20u);  // unused bytes, tokens that are other tokens
}

}  // namespace
}  // namespace pg::io::h5

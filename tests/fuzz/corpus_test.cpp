// Every file of the fuzzers' corpus, seeds and past findings alike, through the function that it is
// for: what the fuzzers once found stays found without them.
#include <gtest/gtest.h>

#include <fstream>
#include <set>

#include "tests/fuzz/reseal.h"
#include "tests/fuzz/scratch.h"
#include "tests/fuzz/targets.h"

namespace pg::fuzz {
namespace {

namespace fs = std::filesystem;

std::string bytes_of(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

fs::path corpus() {
  return fs::path(PG_SOURCE_DIR) / "tests/fuzz/corpus";
}

TEST(FuzzCorpus, every_file_is_read_or_refused) {
  std::set<std::string> folders;
  for (const auto& folder : fs::directory_iterator(corpus())) {
    folders.insert(folder.path().filename().string());
  }
  for (const auto& target : targets()) {
    EXPECT_EQ(folders.erase(target.name), 1u) << target.name << " has no corpus";
    int files = 0;
    for (const auto& file : fs::directory_iterator(corpus() / target.name)) {
      SCOPED_TRACE(file.path().string());
      EXPECT_NO_THROW(target.run(bytes_of(file.path())));
      EXPECT_LE(file.file_size(), 64u << 10) << "seeds are small";
      ++files;
    }
    EXPECT_GT(files, 0) << target.name;
  }
  EXPECT_TRUE(folders.empty()) << *folders.begin() << " belongs to no target";
}

// What the functions call a finding is one: an Error of another kind, a broken claim.
TEST(FuzzCorpus, other_errors_are_findings) {
  EXPECT_THROW(done_or_refused({ExitCode::kData}, [] { throw Error(ExitCode::kBug, "a bug"); }),
               Error);
  EXPECT_THROW(done_or_refused({ExitCode::kData}, [] { throw std::bad_alloc(); }), std::bad_alloc);
  EXPECT_THROW(require(false, "a claim"), std::logic_error);
  EXPECT_FALSE(done_or_refused({ExitCode::kData}, [] { throw Error(ExitCode::kData, "no"); }));
}

// A resealed file is what it was; a byte changed in any block is covered by a new checksum.
TEST(FuzzCorpus, resealing_makes_checksums_right) {
  for (const auto* folder : {"token_file", "state"}) {
    for (const auto& file : fs::directory_iterator(corpus() / folder)) {
      if (!file.path().filename().string().starts_with("seed")) continue;
      SCOPED_TRACE(file.path().string());
      const auto good = bytes_of(file.path());
      EXPECT_EQ(resealed(good), good);
      auto damaged = good;
      std::size_t spoiled = 0;
      for (const auto* signature : {"OHDR", "OCHK", "FRHP", "FHDB", "FHIB", "BTHD", "BTLF"}) {
        const auto at = damaged.find(signature);
        if (at == damaged.npos) continue;
        const auto before = damaged;
        // The last byte of its version: every kind has one behind the signature.
        damaged[at + 4] = static_cast<char>(damaged[at + 4] ^ 1);
        EXPECT_NE(resealed(damaged), damaged) << signature;
        damaged = before;
        ++spoiled;
      }
      EXPECT_GE(spoiled, 1u);
    }
  }
}

}  // namespace
}  // namespace pg::fuzz

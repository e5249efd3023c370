// Damage to a checkpoint is found: every file truncated, emptied, missing, and every single bit of
// every file flipped.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <set>

#include "../../io/checkpoint_state.h"
#include "../io/checkpoint_state.h"
#include "io/manifest.h"

namespace pg::io {
namespace {

namespace fs = std::filesystem;

const char* const kFiles[] = {"deck.toml", "manifest.json", "run.json", "state.h5"};

class CheckpointDamage : public testing::Test {
 protected:
  CheckpointDamage() {
    TestState state(tiny_plans(), 0, 1);
    state.fill(1);
    entry_ =
        save_checkpoint(comm::Communicator::world(), directory_, test_info(3), state.tensors());
  }
  bool found() const {
    try {
      verify_checkpoint(entry_);
    } catch (const Error& error) {
      return error.code() == ExitCode::kCheckpoint;
    }
    return false;
  }

  const std::unique_ptr<comm::Group> group_ = comm::make_self_group("test");
  const TestDirectory directory_{*group_};
  fs::path entry_;
};

TEST_F(CheckpointDamage, every_flipped_bit_of_every_file_is_found) {
  for (const auto* name : kFiles) {
    const auto bytes = bytes_of(entry_ / name);
    ASSERT_GT(bytes.size(), 0u);
    const int fd = ::open((entry_ / name).c_str(), O_WRONLY);
    ASSERT_GE(fd, 0);
    std::size_t missed = 0;
    for (std::size_t at = 0; at < bytes.size(); ++at) {
      for (int bit = 0; bit < 8; ++bit) {
        const char flipped = static_cast<char>(bytes[at] ^ (1 << bit));
        ASSERT_EQ(::pwrite(fd, &flipped, 1, static_cast<off_t>(at)), 1);
        missed += !found();
      }
      ASSERT_EQ(::pwrite(fd, &bytes[at], 1, static_cast<off_t>(at)), 1);
    }
    ::close(fd);
    EXPECT_EQ(missed, 0u) << name << " of " << bytes.size() << " bytes";
    EXPECT_FALSE(found()) << name << " was put right again";
  }
}

TEST_F(CheckpointDamage, every_truncation_and_extension_is_found_and_named) {
  for (const auto* name : kFiles) {
    const auto bytes = bytes_of(entry_ / name);
    for (std::size_t cut = 0; cut < 20; ++cut) {
      put_bytes(entry_ / name, bytes.substr(0, bytes.size() * cut / 20));
      expect_contains(error_of(ExitCode::kCheckpoint, [&] { verify_checkpoint(entry_); }), name);
    }
    for (const auto& longer : {bytes + '\0', bytes + '\n', bytes + bytes}) {
      put_bytes(entry_ / name, longer);
      expect_contains(error_of(ExitCode::kCheckpoint, [&] { verify_checkpoint(entry_); }), name);
    }
    put_bytes(entry_ / name, bytes);
    EXPECT_FALSE(found());
  }
}

TEST_F(CheckpointDamage, a_file_that_is_missing_or_no_regular_file_is_found_and_named) {
  for (const auto* name : kFiles) {
    const auto path = entry_ / name;
    const auto aside = directory_.path() / "aside";
    fs::rename(path, aside);
    const auto refused = [&] {
      expect_contains(error_of(ExitCode::kCheckpoint, [&] { verify_checkpoint(entry_); }), name);
    };
    refused();
    fs::create_symlink("nowhere", path);
    refused();
    fs::remove(path);
    fs::create_symlink(aside, path);  // even to the right bytes: they are outside the entry
    refused();
    fs::remove(path);
    fs::create_directory(path);
    refused();
    fs::remove(path);
    ASSERT_EQ(::mkfifo(path.c_str(), 0666), 0);  // reading it would wait for ever
    refused();
    fs::remove(path);
    fs::rename(aside, path);
    EXPECT_FALSE(found());
  }
}

// A newest entry of three chunks: a bit flipped at every structure of its file and around every
// chunk's border, cut at 20 places, emptied. "auto" and "latest" take the older one and say why;
// the path itself is refused.
TEST_F(CheckpointDamage, the_older_entry_is_taken_wherever_the_newest_is_damaged) {
  auto plans = tiny_plans();
  plans.push_back({"large", DType::kF32, {9, 1 << 20}, Cut::kReplicated});
  plans.push_back({"small", DType::kI64, {7}, Cut::kReplicated});
  TestState state(plans, 0, 1);
  const auto newest =
      save_checkpoint(comm::Communicator::world(), directory_, test_info(4), state.tensors());
  const auto path = newest / "state.h5";
  const auto size = static_cast<std::int64_t>(fs::file_size(path));
  const auto falls_back = [&](const char* resume, const std::string& why) {
    std::vector<std::string> notes;
    const auto found = find_checkpoint(*group_, directory_, resume, notes);
    ASSERT_TRUE(found);
    EXPECT_EQ(found->path, entry_);
    ASSERT_EQ(notes.size(), 1u);
    expect_contains(notes[0], "step-000000004 passed over: " + path.string() + ": damaged: " + why);
    expect_contains(error_of(ExitCode::kCheckpoint,
                             [&] { find_checkpoint(*group_, directory_, newest.string(), notes); }),
                    path.string() + ": damaged: " + why);
  };

  std::set<std::int64_t> places = {0, 8, 28, 47, size - 1};  // the superblock; the end
  for (auto border = kChunkBytes; border < size; border += kChunkBytes) {
    places.insert({border - 1, border});
  }
  for (const auto& stored : locate_state(path)) {
    const auto bytes =
        stored.tensor.elements() * static_cast<std::int64_t>(dtype_size(stored.tensor.dtype));
    for (const auto at : {stored.offset - 1, stored.offset, stored.offset + bytes / 2,
                          stored.offset + bytes - 1, stored.offset + bytes}) {
      if (at < size) places.insert(at);
    }
  }
  // Headers and the group's index, wherever they are, by their signatures.
  const auto bytes = bytes_of(path);
  for (const auto* signature : {"OHDR", "OCHK", "FRHP", "FHDB", "BTHD", "BTLF"}) {
    for (auto at = bytes.find(signature); at != bytes.npos; at = bytes.find(signature, at + 1)) {
      places.insert({static_cast<std::int64_t>(at), static_cast<std::int64_t>(at) + 20});
    }
  }
  EXPECT_GT(places.size(), 30u);
  const int fd = ::open(path.c_str(), O_WRONLY);
  ASSERT_GE(fd, 0);
  int bit = 0;
  for (const auto at : places) {
    const char good = bytes[static_cast<std::size_t>(at)];
    const char flipped = static_cast<char>(good ^ (1 << (bit++ % 8)));
    ASSERT_EQ(::pwrite(fd, &flipped, 1, at), 1);
    falls_back(bit % 2 == 0 ? "auto" : "latest",
               fmt::format("the XXH3-128 of chunk {} of 3", at / kChunkBytes + 1));
    ASSERT_EQ(::pwrite(fd, &good, 1, at), 1);
  }
  for (std::int64_t part = 19; part >= 0; --part) {
    ASSERT_EQ(::ftruncate(fd, size * part / 20), 0);
    falls_back(part % 2 == 0 ? "auto" : "latest", "has ");
  }
  ::close(fd);
  put_bytes(path, bytes);
  std::vector<std::string> notes;
  EXPECT_EQ(find_checkpoint(*group_, directory_, "auto", notes)->path, newest);
  EXPECT_TRUE(notes.empty());
}

TEST_F(CheckpointDamage, a_manifest_of_garbage_is_refused) {
  for (const std::string text : {"garbage", "{}", "[]", "null", "{\"files\": 3, \"step\": []}",
                                 "\xff\xfe\x00", "{\"step\": 3, \"files\": [{\"name\": 1}]}"}) {
    put_bytes(entry_ / "manifest.json", text);
    expect_contains(error_of(ExitCode::kCheckpoint, [&] { verify_checkpoint(entry_); }),
                    "manifest.json");
  }
  put_bytes(entry_ / "manifest.json", std::string(100000, '['));
  EXPECT_TRUE(found());
}

}  // namespace
}  // namespace pg::io

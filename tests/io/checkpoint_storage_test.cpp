// What a save says of itself while storage is slow: each call that may block is marked for the
// watchdog's report, and progress is noted between pieces, so that slow is not taken for hung.
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <chrono>
#include <map>
#include <set>
#include <thread>

#include "checkpoint_state.h"
#include "comm/activity.h"
#include "comm/watchdog.h"
#include "io/checkpoint_saver.h"

namespace {

namespace fs = std::filesystem;

// Storage that is told of bytes by writes, and takes time for them when they are flushed.
struct Storage {
  std::map<std::string, std::set<std::string>> marks;  // of each call, while it is in it
  double seconds_per_mib = 0;
  std::int64_t dirty = 0;         // bytes of state.h5
  std::int64_t most_flushed = 0;  // by one call

  // Of calls on files of a save (pruned and replaced ones too).
  void seen(const char* call, const std::string& path) {
    if (path.find("/.step-") == std::string::npos && path.find("/step-") == std::string::npos) {
      return;
    }
    const auto now = pg::comm::activity_record();
    const bool marked = now.operation != nullptr && now.path.find("step-") != std::string::npos;
    marks[call].insert(marked ? now.operation : "");
  }
  void flush(std::int64_t bytes) {
    bytes = std::min(bytes, dirty);
    dirty -= bytes;
    most_flushed = std::max(most_flushed, bytes);
    std::this_thread::sleep_for(
        std::chrono::duration<double>(seconds_per_mib * static_cast<double>(bytes) / (1 << 20)));
  }
};
Storage storage;

std::string path_of(int fd) {
  std::error_code error;
  return fs::read_symlink("/proc/self/fd/" + std::to_string(fd), error).string();
}

template <class Function>
Function real(const char* name) {
  return reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
}

}  // namespace

extern "C" {
ssize_t pwritev(int fd, const iovec* pieces, int count, off_t offset) {
  const auto path = path_of(fd);
  storage.seen("pwritev", path);
  if (path.ends_with("state.h5")) {
    for (int i = 0; i < count; ++i) storage.dirty += static_cast<std::int64_t>(pieces[i].iov_len);
  }
  return real<decltype(&pwritev)>("pwritev")(fd, pieces, count, offset);
}
int fallocate(int fd, int mode, off_t offset, off_t bytes) {
  storage.seen("fallocate", path_of(fd));
  return real<decltype(&fallocate)>("fallocate")(fd, mode, offset, bytes);
}
int sync_file_range(int fd, off64_t offset, off64_t bytes, unsigned flags) {
  if ((flags & SYNC_FILE_RANGE_WAIT_AFTER) != 0) {
    storage.seen("sync_file_range", path_of(fd));
    storage.flush(bytes);
  }
  return real<decltype(&sync_file_range)>("sync_file_range")(fd, offset, bytes, flags);
}
int fsync(int fd) {
  const auto path = path_of(fd);
  storage.seen("fsync", path);
  if (path.ends_with("state.h5")) storage.flush(storage.dirty);
  return static_cast<int>(::syscall(SYS_fsync, fd));
}
// Called by std::filesystem.
int unlinkat(int folder, const char* name, int flags) {
  storage.seen("unlinkat", path_of(folder) + "/" + name);
  return static_cast<int>(::syscall(SYS_unlinkat, folder, name, flags));
}
int rename(const char* from, const char* to) {
  storage.seen("rename", from);
  return static_cast<int>(::syscall(SYS_rename, from, to));
}
}

namespace pg::io {
namespace {

TEST(CheckpointStorage, each_call_that_may_block_is_marked) {
  const auto group = comm::make_self_group("test");
  const TestDirectory directory(*group);
  TestState state(awkward_plans(), 0, 1);
  state.fill(1);
  storage = {};
  for (int step = 1; step <= 3; ++step) {
    save_checkpoint(comm::Communicator::world(), directory, test_info(step), state.tensors(), {},
                    {.keep = 1});
  }
  const std::map<std::string, std::set<std::string>> expected = {
      {"fallocate", {"reserving"}},
      {"fsync", {"fsync of"}},
      {"pwritev", {"writing"}},
      {"rename", {"renaming"}},
      {"sync_file_range", {"writing back"}},
      {"unlinkat", {"removing"}}};
  EXPECT_EQ(storage.marks, expected);
}

TEST(CheckpointStorage, a_save_that_storage_takes_long_for_raises_no_alarm) {
  const auto group = comm::make_self_group("test");
  const TestDirectory directory(*group);
  constexpr std::int64_t kMib = 48;
  constexpr double kSeconds = 5, kLimit = 2;
  TestState state({{"rows", DType::kU8, {kMib, 1 << 20}, Cut::kRows}}, 0, 1);
  storage = {};
  storage.seconds_per_mib = kSeconds / kMib;
  const comm::Watchdog watchdog(*group, {0}, {directory.path(), kLimit, [](const std::string& why) {
                                                std::fprintf(stderr, "the alarm: %s\n",
                                                             why.c_str());
                                              }});
  save_checkpoint(comm::Communicator::world(), directory, test_info(1), state.tensors());
  EXPECT_EQ(storage.dirty, 0);
  EXPECT_LE(storage.most_flushed, 8 << 20);
}

}  // namespace
}  // namespace pg::io

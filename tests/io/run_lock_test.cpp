// Who gets the lock of an output folder, and from whom it is taken over.
#include "io/run_lock.h"

#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "comm/error.h"

namespace {
std::atomic<int> synced{0};
}
// In the C library's place: counts.
extern "C" int fdatasync(int fd) {
  ++synced;
  return static_cast<int>(::syscall(SYS_fdatasync, fd));
}

namespace pg::io {
namespace {

namespace fs = std::filesystem;

class RunLockTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "pg_lock_XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    ::unsetenv("SLURM_JOB_ID");
    ::unsetenv("SLURM_RESTART_COUNT");
  }
  void TearDown() override { fs::remove_all(folder_); }

  fs::path lock() const { return folder_ / ".lock"; }
  std::string text() const {
    std::ostringstream all;
    all << std::ifstream(lock()).rdbuf();
    return all.str();
  }
  void write(const std::string& contents) const { std::ofstream(lock()) << contents; }
  // What a lock says, with some of it changed; the owner is another host's, unless it is said.
  void leave(const std::map<std::string, std::string>& changes) const {
    nlohmann::json json;
    {
      const RunLock taken(folder_, {});
      json = nlohmann::json::parse(text());
    }
    json["host"] = "elsewhere";
    json["boot"] = "another boot";
    for (const auto& [key, value] : changes) json[key] = value;
    write(json.dump() + "\n");
  }

  std::unique_ptr<RunLock> take() {
    notes_.clear();
    return std::make_unique<RunLock>(
        folder_, RunLockOptions{.beat_s = beat_s_,
                                .hard_links = hard_links_,
                                .note = [this](const std::string& n) { notes_ += n + "\n"; }});
  }
  std::string refusal() {
    try {
      take();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kDeck) << error.what();
      return error.what();
    }
    return "taken";
  }
  bool says(const std::string& part) const { return notes_.find(part) != std::string::npos; }

  // In a process of its own, which ends with `work`'s value.
  template <class Work>
  static pid_t in_process(Work work) {
    const pid_t pid = ::fork();
    if (pid == 0) {
      int code = 99;
      try {
        code = work();
      } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
      }
      ::_exit(code);
    }
    return pid;
  }
  static int code_of(pid_t pid) {
    int status = 0;
    ::waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
  }
  // Leaves the lock of a process that was killed.
  void leave_killed() {
    const pid_t pid = in_process([&] {
      const auto held = take();
      ::raise(SIGKILL);
      return 0;
    });
    EXPECT_EQ(code_of(pid), 128);
    ASSERT_TRUE(fs::exists(lock()));
  }

  double beat_s_ = 0.1;
  bool hard_links_ = true;
  fs::path folder_;
  std::string notes_;
};

TEST_F(RunLockTest, a_second_job_is_refused_and_told_by_whom) {
  auto held = take();
  EXPECT_EQ(notes_, "");
  const auto reason = refusal();
  EXPECT_NE(reason.find("run.output: " + folder_.string() + " is in use by process " +
                        std::to_string(::getpid()) + " on "),
            std::string::npos)
      << reason;
  held->require_held();
  held.reset();
  EXPECT_TRUE(fs::is_empty(folder_));
  take();
  EXPECT_EQ(notes_, "");
}

TEST_F(RunLockTest, a_folder_made_for_a_lock_goes_with_it_unless_it_is_used) {
  const auto made = folder_ / "made", used = folder_ / "used";
  { const RunLock held(made, {}); }
  EXPECT_FALSE(fs::exists(made));
  {
    const RunLock held(used, {});
    std::ofstream(used / "file") << "x";
  }
  EXPECT_TRUE(fs::exists(used / "file"));
}

TEST_F(RunLockTest, a_killed_owner_of_this_host_is_replaced_at_once) {
  leave_killed();
  const auto held = take();
  EXPECT_TRUE(says("which is gone; taken over")) << notes_;
  EXPECT_FALSE(says("looking"));
}

TEST_F(RunLockTest, a_process_of_the_same_number_that_began_later_is_another) {
  nlohmann::json json;
  {
    const auto held = take();
    json = nlohmann::json::parse(text());
  }
  json["started"] = "1";
  write(json.dump() + "\n");
  take();
  EXPECT_TRUE(says("taken over"));
}

TEST_F(RunLockTest, a_process_that_the_system_does_not_show_may_be_alive) {
  nlohmann::json json;
  {
    const auto held = take();
    json = nlohmann::json::parse(text());
  }
  json["started"] = "";  // its own /proc/PID was hidden from it
  write(json.dump() + "\n");
  take();
  EXPECT_TRUE(says("looking for 0 s whether that job lives")) << notes_;
}

TEST_F(RunLockTest, an_earlier_start_of_the_same_slurm_job_is_gone) {
  leave({{"job", "77"}});
  ::setenv("SLURM_JOB_ID", "77", 1);
  ::setenv("SLURM_RESTART_COUNT", "1", 1);
  auto held = take();
  EXPECT_TRUE(says("of Slurm job 77")) << notes_;
  EXPECT_FALSE(says("looking"));
  held.reset();
  // The same start may be another step of it, which lives: its beat tells.
  ::unsetenv("SLURM_RESTART_COUNT");
  leave({{"job", "77"}});
  held = take();
  EXPECT_TRUE(says("looking"));
}

TEST_F(RunLockTest, of_another_host_the_beat_tells) {
  leave({});
  auto held = take();
  EXPECT_TRUE(says("is of process")) << notes_;
  EXPECT_TRUE(says("looking for 0 s whether that job lives")) << notes_;
  EXPECT_TRUE(says("taken over"));
  held.reset();

  beat_s_ = 0.5;  // a busy machine may keep the owner waiting
  leave({});
  std::thread owner([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(250));
    auto json = nlohmann::json::parse(text());
    json["beat"] = "000000000002";
    // In place, as the owner does.
    std::fstream(lock(), std::ios::in | std::ios::out) << json.dump() << "\n";
  });
  EXPECT_NE(refusal().find("on elsewhere, since "), std::string::npos);
  owner.join();
}

// Storage that hosts share may keep what is not synced for longer than a lock is waited for.
TEST_F(RunLockTest, an_owner_beats) {
  synced = 0;
  const auto held = take();
  EXPECT_GE(synced, 1);
  const auto before = text();
  for (int i = 0; i < 100 && (synced < 2 || text() == before); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  EXPECT_GE(synced, 2);
  EXPECT_NE(text(), before);
  EXPECT_EQ(text().size(), before.size());
}

TEST_F(RunLockTest, what_is_no_lock_of_ours_is_taken_over_when_nobody_writes_it) {
  beat_s_ = 0.03;
  for (const std::string& contents :
       {std::string(), std::string("garbage"), std::string("\0\x01\xff{", 4), std::string("[1, 2]"),
        std::string("{\"token\": \"../../../../escape\"}"), std::string("{\"token\": 3}"),
        std::string(60000, '{')}) {
    write(contents);
    take();
    EXPECT_TRUE(says("left by an owner that it does not name")) << contents.substr(0, 40);
    EXPECT_TRUE(fs::is_empty(folder_)) << contents.substr(0, 40);
  }
}

TEST_F(RunLockTest, what_cannot_be_read_is_refused) {
  fs::create_directory(lock());
  EXPECT_THROW(take(), Error);
  fs::remove(lock());
  fs::create_symlink("/etc/passwd", lock());
  EXPECT_THROW(take(), Error);
  fs::remove(lock());
  write(std::string(100000, 'x'));
  EXPECT_THROW(take(), Error);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), {}), 1);  // nothing of ours is left
}

TEST_F(RunLockTest, an_owner_whose_lock_was_taken_over_finds_out) {
  const auto held = take();
  held->require_held();
  fs::rename(lock(), folder_ / "other");
  EXPECT_THROW(held->require_held(), Error);
  write("somebody else's");
  EXPECT_THROW(held->require_held(), Error);
}

// Every third time as on a file system without hard links.
TEST_F(RunLockTest, of_many_that_take_over_one_wins) {
  for (int round = 0; round < 9; ++round) {
    hard_links_ = round % 3 != 2;
    leave_killed();
    std::array<int, 2> pipe{}, others{};
    ASSERT_EQ(::pipe(pipe.data()), 0);
    ASSERT_EQ(::pipe(others.data()), 0);
    std::vector<pid_t> all;
    for (int i = 0; i < 6; ++i) {
      all.push_back(in_process([&] {
        ::close(pipe[1]);
        char c = 0;
        [[maybe_unused]] const auto n = ::read(pipe[0], &c, 1);  // until all are there
        try {
          const auto held = take();
          ::close(others[1]);
          if (::read(others[0], &c, 1) != 0) return 60;  // until the others have ended
          held->require_held();
          return 1;
        } catch (const Error& error) {
          return error.code() == ExitCode::kDeck ? 0 : 50;
        }
      }));
    }
    for (const int end : {others[0], others[1], pipe[0]}) ::close(end);
    ::close(pipe[1]);  // go
    int winners = 0;
    for (const pid_t pid : all) winners += code_of(pid);
    EXPECT_EQ(winners, 1) << "round " << round;
    EXPECT_TRUE(fs::is_empty(folder_));
  }
}

TEST_F(RunLockTest, files_of_killed_takers_go_and_those_of_living_ones_stay) {
  leave_killed();
  const auto killed = text();
  nlohmann::json mine;
  {
    const auto held = take();
    mine = nlohmann::json::parse(text());
  }
  const auto put = [&](const std::string& name, const std::string& contents, int hours) {
    std::ofstream(folder_ / name) << contents;
    fs::last_write_time(folder_ / name,
                        fs::file_time_type::clock::now() - std::chrono::hours(hours));
  };
  put(".lock.of.killed", killed, 0);
  put(".lock.after.killed", killed, 0);
  put(".lock.of.torn_long_ago", "{", 2);
  put(".lock.of.torn", "{", 0);
  put(".lock.of.mine", mine.dump() + "\n", 0);
  mine["boot"] = "another boot";
  put(".lock.of.elsewhere", mine.dump() + "\n", 0);
  put(".locksmith", killed, 2);
  take();
  for (const char* name : {".lock.of.torn", ".lock.of.mine", ".lock.of.elsewhere", ".locksmith"}) {
    EXPECT_TRUE(fs::exists(folder_ / name)) << name;
  }
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), {}), 4);
}

TEST_F(RunLockTest, a_claim_that_a_killed_job_left_is_no_obstacle) {
  leave_killed();
  const auto token = nlohmann::json::parse(text())["token"].get<std::string>();
  // The killed one's own file serves as the claim of another one that was killed too.
  auto claim = nlohmann::json::parse(text());
  claim["token"] = std::string(24, 'a');
  std::ofstream(folder_ / (".lock.after." + token)) << claim.dump() << "\n";
  take();
  EXPECT_TRUE(says("taken over"));
  EXPECT_TRUE(fs::is_empty(folder_));
}

}  // namespace
}  // namespace pg::io

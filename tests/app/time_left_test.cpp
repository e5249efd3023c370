// What a batch system says is left, from programs that stand in for squeue: answers of each form,
// none, and one that never comes.
#include "app/time_left.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <thread>

#include "harness/tiny_run.h"

namespace pg::app {
namespace {

namespace fs = std::filesystem;
using Clock = TimeLeft::Clock;

TEST(TimeLeft, parses_what_squeue_prints) {
  const std::vector<std::pair<std::string, double>> times = {{"0:00", 0},
                                                             {"0:59", 59},
                                                             {"12:34", 754},
                                                             {"1:02:03", 3723},
                                                             {"2-03:04:05", 183845},
                                                             {"59:59\n", 3599},
                                                             {"  1:00 \n", 60},
                                                             {"365-0:0:0", 31536000},
                                                             {"45", 45},
                                                             {"UNLIMITED\n", INFINITY}};
  for (const auto& [text, seconds] : times) {
    ASSERT_TRUE(parse_time_left(text).has_value()) << text;
    EXPECT_EQ(*parse_time_left(text), seconds) << text;
  }
  for (const char* text : {"", "\n", "INVALID", "NOT_SET", "Partition_Limit", "1:2:3:4", "-1:00",
                           "1-2", "1-02:03", "1:", ":1", "1:-5", "1 2", "12x", "0x10",
                           "99999999999999999999:00", "1:00\n2:00", "slurm_load_jobs error"}) {
    EXPECT_FALSE(parse_time_left(text).has_value()) << text;
  }
}

// A job of Slurm whose squeue is `body`, a shell's script; "" is none at all.
class SlurmJob : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::scratch_folder("time_left");
    path_ = std::getenv("PATH");
    setenv("PATH", (folder_.string() + ":/usr/bin:/bin").c_str(), 1);
    setenv("SLURM_JOB_ID", "42", 1);
    unsetenv("SLURM_JOB_END_TIME");
  }
  void TearDown() override {
    setenv("PATH", path_.c_str(), 1);
    unsetenv("SLURM_JOB_ID");
    unsetenv("SLURM_JOB_END_TIME");
  }
  void squeue(const std::string& body) const {
    const auto file = folder_ / "squeue";
    fs::remove(file);
    if (body.empty()) return;
    std::ofstream(file) << "#!/bin/sh\n" << body << "\n";
    fs::permissions(file, fs::perms::owner_all);
  }
  TimeLeft time(Clock::duration ask_every = std::chrono::minutes(1)) {
    said_.clear();
    return {0, Clock::now(), [this](const std::string& text) { said_ += text; }, ask_every};
  }

  fs::path folder_;
  std::string path_, said_;
};

TEST_F(SlurmJob, asks_squeue_for_this_job) {
  squeue("[ \"$*\" = '-h -j 42 -o %L' ] && echo 1:00:00");
  auto left = time();
  ASSERT_TRUE(left.seconds().has_value());
  EXPECT_NEAR(*left.seconds(), 3600, 5);
  EXPECT_EQ(left.source(), "the time limit of Slurm job 42");
  EXPECT_EQ(said_, "");
}

TEST_F(SlurmJob, unlimited_is_no_limit) {
  squeue("echo UNLIMITED");
  EXPECT_FALSE(time().seconds().has_value());
  EXPECT_EQ(said_, "");
}

TEST_F(SlurmJob, a_limit_that_was_extended_is_noticed) {
  const auto once = (folder_ / "asked").string();
  fs::remove(once);
  squeue("if [ -e " + once + " ]; then echo 2-00:00:00; else : >" + once + "; echo 10:00; fi");
  auto left = time(std::chrono::milliseconds(1));
  EXPECT_NEAR(*left.seconds(), 600, 5);
  const auto until = Clock::now() + std::chrono::seconds(20);
  while (*left.seconds() < 601 && Clock::now() < until) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  EXPECT_NEAR(*left.seconds(), 172800, 30);
}

// A step may lie between the question and the look at its answer, which then is that much too much.
TEST_F(SlurmJob, an_answer_counts_from_its_question) {
  squeue("echo 10:00");
  auto left = time(std::chrono::milliseconds(1));
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  left.seconds();  // asks
  const auto asked = Clock::now();
  std::this_thread::sleep_for(std::chrono::seconds(2));
  left.seconds();  // reads
  const double gone = std::chrono::duration<double>(Clock::now() - asked).count();
  EXPECT_LE(*left.seconds(), 600 - gone + 0.01);
}

TEST_F(SlurmJob, what_cannot_be_asked_is_told_and_the_end_time_counts) {
  for (const char* body : {"", "exit 1", "echo 1:00:00; exit 1", "echo INVALID"}) {
    squeue(body);
    EXPECT_FALSE(time().seconds().has_value()) << body;
    EXPECT_NE(said_.find("warning: squeue"), std::string::npos) << said_;
    EXPECT_NE(said_.find("run.wall_limit"), std::string::npos) << said_;
    setenv("SLURM_JOB_END_TIME", std::to_string(std::time(nullptr) + 500).c_str(), 1);
    auto left = time();
    ASSERT_TRUE(left.seconds().has_value()) << body;
    EXPECT_NEAR(*left.seconds(), 500, 5);
    EXPECT_NE(said_.find("SLURM_JOB_END_TIME"), std::string::npos) << said_;
    unsetenv("SLURM_JOB_END_TIME");
  }
}

// It must neither hold the run nor stay behind.
TEST_F(SlurmJob, a_squeue_that_hangs_is_ended) {
  const auto file = folder_ / "pid";
  squeue("echo $$ >" + file.string() + "; sleep 1000; echo 1:00:00");
  const auto begin = Clock::now();
  EXPECT_FALSE(time().seconds().has_value());
  EXPECT_LT(Clock::now() - begin, std::chrono::seconds(20));
  EXPECT_NE(said_.find("squeue does not answer"), std::string::npos) << said_;
  std::string pid;
  std::ifstream(file) >> pid;
  ASSERT_FALSE(pid.empty());
  EXPECT_FALSE(fs::exists("/proc/" + pid)) << pid;
}

TEST(TimeLeftOfTheDeck, counts_from_the_start_and_asks_nobody) {
  setenv("SLURM_JOB_ID", "42", 1);
  TimeLeft left(100, Clock::now() - std::chrono::seconds(30), [](const std::string&) {});
  unsetenv("SLURM_JOB_ID");
  EXPECT_NEAR(*left.seconds(), 70, 1);
  EXPECT_EQ(left.source(), "run.wall_limit = 100");
  TimeLeft outside(0, Clock::now(), [](const std::string&) {});
  EXPECT_FALSE(outside.seconds().has_value());
}

}  // namespace
}  // namespace pg::app

// metrics.jsonl over a resume: which records stay, and what they tell of the saves before.
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "harness/tiny_run.h"
#include "io/run_folder.h"

namespace pg::io {
namespace {

namespace fs = std::filesystem;

constexpr const char* kRecords =
    "{\"step\": 1, \"loss\": 4}\n"
    "{\"step\": 2, \"loss\": 3}\n"
    "{\"step\": 2, \"save_work_s\": 5, \"save_stall_s\": 0.5}\n"  // asynchronous
    "{\"step\": 4, \"save_work_s\": 2, \"save_stall_s\": 7}\n"    // blocking
    "{\"step\": 6, \"save_work_s\": 9, \"save_stall_s\": 9}\n"
    "{\"step\": 6, \"lo";  // torn

double last_save(std::int64_t after_step, std::string* kept = nullptr) {
  const auto path = testing::scratch_folder("metrics") / "metrics.jsonl";
  std::ofstream(path) << kRecords;
  const MetricsWriter writer(path, after_step);
  if (kept != nullptr) {
    std::ostringstream text;
    text << std::ifstream(path).rdbuf();
    *kept = text.str();
  }
  return writer.last_save_seconds();
}

TEST(Metrics, a_resume_keeps_whole_records_up_to_its_step) {
  std::string kept;
  last_save(2, &kept);
  EXPECT_EQ(kept, std::string(kRecords).substr(0, kept.size()));
  EXPECT_TRUE(kept.ends_with("\"save_stall_s\": 0.5}\n")) << kept;
}

TEST(Metrics, the_last_save_kept_the_run_for_its_work_or_its_stall) {
  EXPECT_EQ(last_save(1), 0);
  EXPECT_EQ(last_save(2), 5);
  EXPECT_EQ(last_save(4), 7);
  EXPECT_EQ(last_save(100), 9);
}

}  // namespace
}  // namespace pg::io

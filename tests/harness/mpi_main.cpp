// The main of every test program: GoogleTest inside MPI. Each rank runs every test; a listener
// gathers the failures of all ranks after each test and suite, so that rank 0 prints them with the
// test they belong to and every rank returns the same status.
//
// Ranks above 0 say a failure on standard error at once: when the failing rank has left a test and
// the others wait inside it, the job hangs until its timeout, and the log must tell why.
#include <gtest/gtest.h>

#include <cstdint>
#include <cstdio>
#include <ctime>
#include <string>
#include <vector>

#include "comm/mpi_session.h"

namespace {

class AllRanksReport : public testing::EmptyTestEventListener {
 public:
  explicit AllRanksReport(pg::comm::Group& world) : world_(world) {}

  // Kept here: GoogleTest holds its lock during OnTestPartResult and cannot be asked there.
  void OnTestSuiteStart(const testing::TestSuite& suite) override { where_ = suite.name(); }
  void OnTestStart(const testing::TestInfo& test) override {
    where_ = std::string(test.test_suite_name()) + "." + test.name();
  }

  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (!result.failed() || gathering_) return;
    std::string text;
    if (result.file_name() != nullptr) {
      text += std::string(result.file_name()) + ":" + std::to_string(result.line_number()) + ": ";
    }
    text += std::string(result.message()) + "\n";
    failures_ += text;
    if (world_.rank() > 0) {
      const auto line = "rank " + std::to_string(world_.rank()) + ": " + where_ + ": " + text;
      std::fputs(line.c_str(), stderr);
    }
  }

  void OnTestEnd(const testing::TestInfo& test) override {
    gather();
    where_ = test.test_suite_name();
  }
  // What failed outside the tests: a suite's tear-down, an environment.
  void OnTestSuiteEnd(const testing::TestSuite&) override { gather(); }
  void OnTestIterationEnd(const testing::UnitTest&, int) override { gather(); }

 private:
  // A failure elsewhere is a failure here: it counts for the test that just ended.
  void gather() {
    const auto all = pg::comm::all_gather(world_, failures_);
    failures_.clear();
    gathering_ = true;
    for (int rank = 0; rank < world_.size(); ++rank) {
      const auto& failures = all[static_cast<std::size_t>(rank)];
      if (failures.empty() || rank == world_.rank()) continue;
      ADD_FAILURE() << "on rank " << rank << ":\n" << failures;
    }
    gathering_ = false;
  }

  pg::comm::Group& world_;
  std::string where_ = "outside the tests", failures_;
  bool gathering_ = false;
};

// Rank 0 speaks and writes the report file. GoogleTest owns its listeners by raw pointers.
void be_silent() {
  auto& listeners = testing::UnitTest::GetInstance()->listeners();
  delete listeners.Release(listeners.default_result_printer());
  delete listeners.Release(listeners.default_xml_generator());
}

// A shuffle without a seed takes the clock's: one clock for all.
void agree_on_order(pg::comm::Group& world) {
  if (!GTEST_FLAG_GET(shuffle) || GTEST_FLAG_GET(random_seed) != 0) return;
  constexpr std::int64_t kSeeds = 99999;  // legal ones are 1..kSeeds
  const std::int64_t mine = world.rank() == 0 ? std::time(nullptr) % kSeeds + 1 : kSeeds;
  GTEST_FLAG_SET(random_seed,
                 static_cast<std::int32_t>(all_reduce(world, mine, pg::comm::ReduceOp::kMin)));
}

int run_all(int& argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  // A communicator of its own: a test that went wrong cannot mix its calls with the report's.
  const auto own = pg::comm::Communicator::world();
  const auto world = pg::comm::make_mpi_group(own.split(0, own.rank()), "harness");
  if (GTEST_FLAG_GET(list_tests)) return world->rank() == 0 ? RUN_ALL_TESTS() : 0;
  agree_on_order(*world);

  auto* tests = testing::UnitTest::GetInstance();
  if (world->rank() > 0) be_silent();
  // Last in the list: its end-of-test events come first (GoogleTest calls listeners in reverse
  // there), so that the printer sees the failures of all ranks before it says OK.
  tests->listeners().Append(new AllRanksReport(*world));
  const std::int64_t failed = RUN_ALL_TESTS();
  if (tests->total_test_count() == 0) std::fputs("this program has no tests\n", stderr);
  const std::int64_t status = failed != 0 || tests->total_test_count() == 0;
  return static_cast<int>(all_reduce(*world, status, pg::comm::ReduceOp::kMax));
}

}  // namespace

int main(int argc, char** argv) {
  const pg::comm::MpiSession mpi(argc, argv);
  try {
    return run_all(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "test harness: %s\n", error.what());
    pg::comm::abort_job(1);
  }
}

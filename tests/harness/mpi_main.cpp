// The main of every test program: GoogleTest inside MPI. Each rank runs every test; a listener
// gathers the failures of all ranks after each test, so that rank 0 prints them and every rank
// returns the same status. Ranks above 0 print nothing themselves.
#include <gtest/gtest.h>

#include <iostream>
#include <memory>
#include <string>

#include "comm/mpi_session.h"

namespace {

class AllRanksReport : public testing::EmptyTestEventListener {
 public:
  explicit AllRanksReport(pg::comm::Group& world) : world_(world) {}

  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (!result.failed() || reporting_) return;
    const char* file = result.file_name() ? result.file_name() : "?";
    failures_ += std::string(file) + ":" + std::to_string(result.line_number()) + ": " +
                 result.message() + "\n";
  }

  void OnTestEnd(const testing::TestInfo&) override {
    const auto all = pg::comm::all_gather(world_, failures_);
    failures_.clear();
    reporting_ = true;
    for (int rank = 0; rank < world_.size(); ++rank) {
      if (all[rank].empty() || rank == world_.rank()) continue;
      // A failure elsewhere fails the test here too.
      ADD_FAILURE() << "on rank " << rank << ":\n" << all[rank];
    }
    reporting_ = false;
  }

 private:
  pg::comm::Group& world_;
  std::string failures_;
  bool reporting_ = false;
};

}  // namespace

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  const pg::comm::MpiSession mpi(argc, argv);
  int failed = 0;
  {
    const auto world = pg::comm::make_mpi_group(pg::comm::Communicator::world(), "world");
    auto& listeners = testing::UnitTest::GetInstance()->listeners();
    // Before the printer, so that what other ranks report is printed with the test.
    auto* printer = listeners.Release(listeners.default_result_printer());
    listeners.Append(new AllRanksReport(*world));
    if (world->rank() == 0) {
      listeners.Append(printer);
    } else {
      delete printer;
    }
    failed = RUN_ALL_TESTS();
    world->barrier();
  }
  return failed;
}

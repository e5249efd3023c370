// Every legal case of the matrix.
#include <gtest/gtest.h>

#include "case_runner.h"

namespace pg::testing {
namespace {

TEST(MatrixFull, fp64_is_the_same_on_every_legal_case) {
  CaseRunner runner("matrix_full");
  runner.expect_parity(all_cases(comm::Communicator::world().size()));
}

}  // namespace
}  // namespace pg::testing

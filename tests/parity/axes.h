// The matrix's cases with experts (grid.ep) and with parts of sequences (grid.cp), mixed with the
// dense axes.
#pragma once

#include "matrix.h"

namespace pg::testing {

// Every legal case on at most `ranks` ranks, in a fixed order.
// Each kind of routing on ep 1, 2, 4, alone and with dp, tp, pp and cp 2 by each method.
std::vector<MatrixCase> expert_cases(int ranks);
// Each method on cp 2, 3, 4 with each mask, alone and with dp, tp and pp; dense.
std::vector<MatrixCase> context_cases(int ranks);

}  // namespace pg::testing

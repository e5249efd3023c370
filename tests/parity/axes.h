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

// Short ways to write one down: a sequence a micro-batch.
MatrixCase of_style(Style style, Feed feed = Feed::kDense);
MatrixCase with_experts(MatrixCase c, int ep);
MatrixCase with_context(MatrixCase c, int cp, model::ContextMethod method);
MatrixCase with_tensor(MatrixCase c, int tp, bool sequence_parallel);
MatrixCase with_stages(MatrixCase c, int pp, model::ScheduleKind schedule);
MatrixCase with_zero(MatrixCase c, int dp, int zero);
MatrixCase with_recompute(MatrixCase c, model::Recompute mode);
MatrixCase with_mask(MatrixCase c, Mask mask);

}  // namespace pg::testing

// Moves the residual stream between the ranks of a tp group (Shoeybi et al. 2019; sequence
// parallelism: Korthikanti et al. 2022).
//
// Column-parallel products read the whole stream and row-parallel ones leave a partial sum of it.
// Plain: each rank holds all rows; the partial sums are all-reduced. Sequence parallel: each rank
// holds an equal run of rows, gathered before use and reduce-scattered after: norms, dropout and
// what they keep shrink by tp. Backward uses the same moves the other way, and gathers the inputs
// of products once more, which is a quarter more bytes.
#pragma once

#include <cstdint>

#include "comm/group.h"
#include "model/arena.h"
#include "model/sharding.h"

namespace pg::model {

class TensorParallel {
 public:
  TensorParallel(const Sharding& sharding, comm::Group& group)
      : sequence_(sharding.sequence && sharding.tp > 1), group_(group) {}

  int size() const { return group_.size(); }
  int rank() const { return group_.rank(); }
  comm::Group& group() const { return group_; }
  // Of n rows of the stream: how many this rank holds, and the first.
  std::int64_t rows(std::int64_t n) const { return sequence_ ? n / size() : n; }
  std::int64_t first_row(std::int64_t n) const { return sequence_ ? rows(n) * rank() : 0; }

  // Every row, x[rows,C] -> [N,C]: x itself or a copy on `scratch`.
  TensorView gather(Arena& scratch, TensorView x) const;
  // Where a partial sum of y[rows,C] is made: y itself, or [N,C] on `scratch`.
  TensorView partial(Arena& scratch, TensorView y) const;
  // y = the sum of all ranks' partial(y).
  void reduce(TensorView y, TensorView partial) const;

 private:
  bool sequence_;
  comm::Group& group_;
};

}  // namespace pg::model

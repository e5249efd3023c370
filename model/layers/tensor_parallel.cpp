#include "model/layers/tensor_parallel.h"

#include "model/buffer_view.h"

namespace pg::model {

TensorView TensorParallel::gather(Arena& scratch, TensorView x) const {
  if (!sequence_) return x;
  const auto whole = scratch.push(x.dtype(), {x.dim(0) * size(), x.dim(1)});
  group_.all_gather(buffer_view(x), buffer_view(whole)).wait();
  return whole;
}

TensorView TensorParallel::partial(Arena& scratch, TensorView y) const {
  return sequence_ ? scratch.push(y.dtype(), {y.dim(0) * size(), y.dim(1)}) : y;
}

void TensorParallel::reduce(TensorView y, TensorView partial) const {
  if (sequence_) {
    group_.reduce_scatter(buffer_view(partial), buffer_view(y), comm::ReduceOp::kSum).wait();
  } else if (size() > 1) {
    group_.all_reduce(buffer_view(y), comm::ReduceOp::kSum).wait();
  }
}

}  // namespace pg::model

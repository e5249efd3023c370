#include "model/optim/router_balance.h"

#include "model/buffer_view.h"
#include "model/kernels/cpu/dispatch.h"

namespace pg::model {

double MoeReport::dropped_share() const {
  std::int64_t asked = 0, taken = 0;
  for (const auto& block : blocks) {
    for (const auto n : block.chosen) asked += n;
    for (const auto n : block.kept) taken += n;
  }
  return asked == 0 ? 0.0 : static_cast<double>(asked - taken) / static_cast<double>(asked);
}

MoeReport RouterBalance::add_up(const MoeCounters& counters) {
  MoeReport report;
  if (counters.empty()) return report;
  // Blocks of other stages are zero here. tp ranks have counted the same.
  groups_.replicas->all_reduce(buffer_view(counters.all()), comm::ReduceOp::kSum).wait();
  groups_.pipeline->all_reduce(buffer_view(counters.all()), comm::ReduceOp::kSum).wait();
  const auto all = counters.all();
  std::vector<double> values(static_cast<std::size_t>(all.elements()));
  kernels_.copy(TensorView(values.data(), DType::kF64, {all.dim(0), all.dim(1)}), all);
  // Each block's row: chosen [E], kept [E], its two losses.
  const auto experts = (all.dim(1) - 2) / 2;
  auto row = values.begin();
  for (const auto block : counters.blocks()) {
    const auto kept = row + experts, losses = kept + experts;
    report.blocks.push_back({block, {row, kept}, {kept, losses}, losses[0], losses[1]});
    row = losses + 2;
  }
  return report;
}

void RouterBalance::update(const MoeReport& report) {
  const double step = params_.layout().rank_config().moe.bias_update;
  for (const auto& block : report.blocks) {
    const auto bias = params_.router_bias(block.block);
    if (bias.empty()) continue;
    std::int64_t all = 0;
    for (const auto n : block.chosen) all += n;
    const auto experts = static_cast<std::int64_t>(block.chosen.size());
    cpu::dispatch(bias.dtype(), [&]<class T>() {
      std::vector<T> values(static_cast<std::size_t>(experts));
      const TensorView on_host(values.data(), bias.dtype(), {experts});
      kernels_.copy(on_host, bias);
      for (std::int64_t e = 0; e < experts; ++e) {
        // Against the mean all / experts, in whole numbers.
        const auto above = block.chosen[static_cast<std::size_t>(e)] * experts - all;
        if constexpr (!std::is_same_v<T, bf16>) {
          if (above != 0)
            values[static_cast<std::size_t>(e)] += static_cast<T>(above > 0 ? -step : step);
        }
      }
      kernels_.copy(bias, on_host);
    });
  }
}

}  // namespace pg::model

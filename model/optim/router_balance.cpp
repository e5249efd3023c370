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
  const auto counts = [](TensorView x) {  // whole numbers
    const double* values = x.data<double>();
    return std::vector<std::int64_t>(values, values + x.elements());
  };
  for (const auto block : counters.blocks()) {
    report.blocks.push_back({block, counts(counters.chosen(block)), counts(counters.kept(block)),
                             *counters.balance_loss(block).data<double>(),
                             *counters.z_loss(block).data<double>()});
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
      for (std::int64_t e = 0; e < experts; ++e) {
        // Against the mean all / experts, in whole numbers.
        const auto above = block.chosen[static_cast<std::size_t>(e)] * experts - all;
        if constexpr (!std::is_same_v<T, bf16>) {
          if (above != 0) bias.data<T>()[e] += static_cast<T>(above > 0 ? -step : step);
        }
      }
    });
  }
}

}  // namespace pg::model

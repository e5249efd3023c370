#include "app/moe_report.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <vector>

#include "io/run_folder.h"

namespace pg::app {

std::string moe_json(const model::MoeReport& moe, std::int64_t sequences, std::int64_t seq) {
  if (moe.blocks.empty()) return "";
  const auto batch = static_cast<double>(sequences);
  std::vector<std::int64_t> blocks;
  std::vector<std::string> balance, z, load;
  for (const auto& block : moe.blocks) {
    blocks.push_back(block.block);
    balance.push_back(io::json_number(block.balance_loss / batch));
    z.push_back(io::json_number(block.z_loss / (batch * static_cast<double>(seq))));
    load.push_back(fmt::format("[{}]", fmt::join(block.chosen, ", ")));
  }
  return fmt::format(
      ", \"moe\": {{\"dropped\": {}, \"blocks\": [{}], \"balance\": [{}], \"z\": [{}], "
      "\"load\": [{}]}}",
      io::json_number(moe.dropped_share()), fmt::join(blocks, ", "), fmt::join(balance, ", "),
      fmt::join(z, ", "), fmt::join(load, ", "));
}

}  // namespace pg::app

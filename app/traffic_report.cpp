#include "app/traffic_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "comm/error.h"

namespace pg::app {

namespace {

// In the order of the report. Stages and ranks differ in what they call, so the list is fixed.
constexpr std::array kGroups{"tp",      "kv copies", "dp*ep*cp", "dp*cp", "dp*ep", "pp",
                             "pp ends", "dp",        "ep",       "cp",    "world"};
constexpr std::size_t kNumbers = 3;  // calls, bytes, least

std::size_t index_of(const std::string& group) {
  const std::string name = group.starts_with("tp/") ? "kv copies" : group;
  const auto* const found = std::find(kGroups.begin(), kGroups.end(), name);
  PG_ASSERT(found != kGroups.end(), "group {} is in no report", group);
  return static_cast<std::size_t>(found - kGroups.begin());
}

}  // namespace

std::string traffic_json(comm::Group& world, const std::vector<comm::TrafficRow>& rows) {
  std::vector<double> sums(kGroups.size() * comm::kOperations * kNumbers);
  const auto at = [](std::size_t group, std::size_t operation) {
    return (group * comm::kOperations + operation) * kNumbers;
  };
  for (const auto& row : rows) {
    const auto i = at(index_of(row.group), static_cast<std::size_t>(row.operation));
    sums[i] += static_cast<double>(row.calls);
    sums[i + 1] += static_cast<double>(row.payload);
    sums[i + 2] += row.least_sent;
  }
  world.all_reduce({sums.data(), sums.size(), DType::kF64, Device::kCpu}, comm::ReduceOp::kSum)
      .wait();
  std::string text = "{";
  for (std::size_t g = 0; g < kGroups.size(); ++g) {
    std::string inside;
    for (std::size_t o = 0; o < comm::kOperations; ++o) {
      const auto i = at(g, o);
      if (sums[i] == 0.0) continue;
      inside += fmt::format(
          "{}\"{}\": {{\"calls\": {:.0f}, \"bytes\": {:.0f}, \"least_sent\": "
          "{:.0f}}}",
          inside.empty() ? "" : ", ", comm::operation_name(static_cast<comm::Operation>(o)),
          sums[i], sums[i + 1], std::round(sums[i + 2]));
    }
    if (inside.empty()) continue;
    text += fmt::format("{}\"{}\": {{{}}}", text.size() > 1 ? ", " : "", kGroups[g], inside);
  }
  return text + "}";
}

}  // namespace pg::app

#include "app/stragglers.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <utility>

#include "comm/error.h"
#include "io/run_folder.h"

namespace pg::app {

namespace {

double median(std::vector<double> values) {
  std::ranges::sort(values);
  const auto half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

}  // namespace

std::vector<Straggler> find_stragglers(std::span<const double> own_s, std::span<const int> stages,
                                       double factor) {
  PG_ASSERT(own_s.size() == stages.size(), "{} times of {} ranks", own_s.size(), stages.size());
  std::map<int, std::vector<double>> of_stage;
  for (std::size_t r = 0; r < own_s.size(); ++r) of_stage[stages[r]].push_back(own_s[r]);
  std::vector<Straggler> found;
  constexpr std::size_t kLeastRanks = 3;
  for (std::size_t r = 0; r < own_s.size(); ++r) {
    const auto& all = of_stage[stages[r]];
    if (factor <= 0 || all.size() < kLeastRanks) continue;
    const double middle = median(all);
    if (own_s[r] > factor * middle && own_s[r] > middle + kLeastExcess) {
      found.push_back({static_cast<int>(r), "", own_s[r], middle});
    }
  }
  return found;
}

Stragglers::Stragglers(double factor, comm::ProcessGrid& grid) : factor_(factor), grid_(grid) {
  if (factor_ <= 0) return;
  hosts_ = comm::all_gather(grid.world(), grid.host());
  for (int r = 0; r < grid.shape().world(); ++r) {
    stages_.push_back(grid.shape().coord(comm::WorldRank{r})[comm::Axis::kPP]);
  }
}

void Stragglers::add(double own_s) {
  if (std::exchange(first_, false) || factor_ <= 0) return;
  own_s_.push_back(own_s);
}

std::vector<Straggler> Stragglers::found() {
  if (factor_ <= 0 || own_s_.size() < kLeastSteps) return {};
  double mine = median(std::exchange(own_s_, {}));
  std::vector<double> own(hosts_.size());
  grid_.world().all_gather({&mine, 1, DType::kF64}, {own.data(), own.size(), DType::kF64}).wait();
  auto found = find_stragglers(own, stages_, factor_);
  for (auto& straggler : found) straggler.host = hosts_[static_cast<std::size_t>(straggler.rank)];
  return found;
}

std::string straggler_text(const Straggler& s) {
  return fmt::format(
      "rank {} ({}) is slow: {:.3f} s of own work a step, {:.1f} times the median of its stage's "
      "ranks (log.straggler)",
      s.rank, s.host, s.own_s, s.own_s / s.median_s);
}

std::string stragglers_json(std::int64_t step, const std::vector<Straggler>& stragglers) {
  std::string rows;
  for (const auto& s : stragglers) {
    rows += fmt::format("{}{{\"rank\": {}, \"host\": {}, \"own_s\": {}, \"median_s\": {}}}",
                        rows.empty() ? "" : ", ", s.rank, io::json_string(s.host),
                        io::json_number(s.own_s), io::json_number(s.median_s));
  }
  return fmt::format("{{\"step\": {}, \"stragglers\": [{}]}}", step, rows);
}

}  // namespace pg::app

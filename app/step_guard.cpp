#include "app/step_guard.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <vector>

#include "comm/error.h"

namespace pg::app {

std::string StepGuard::verdict(double loss, double aux_loss, double grad_norm) const {
  if (!std::isfinite(loss) || !std::isfinite(aux_loss) || !std::isfinite(grad_norm)) {
    return kNotFinite;
  }
  return loss > limit() ? kSpike : "";
}

std::string StepGuard::judge(double loss, double aux_loss, double grad_norm) {
  auto reason = verdict(loss, aux_loss, grad_norm);
  if (!reason.empty()) {
    ++(reason == kSpike ? spikes_ : not_finite_);
    ++in_a_row_;
    return reason;
  }
  in_a_row_ = 0;
  losses_.push_back(loss);
  if (losses_.size() > kWindow) losses_.pop_front();
  return reason;
}

double StepGuard::limit() const {
  if (sigma_ == 0.0 || losses_.size() < kFewest) return std::numeric_limits<double>::infinity();
  const auto n = static_cast<double>(losses_.size());
  double mean = 0.0, squares = 0.0;
  for (const double loss : losses_) mean += loss / n;
  for (const double loss : losses_) squares += (loss - mean) * (loss - mean);
  const double deviation = std::sqrt(squares / (n - 1));
  return mean + sigma_ * std::max(deviation, kFloor * std::abs(mean));
}

std::string StepGuard::text() const {
  return nlohmann::ordered_json{{"not_finite", not_finite_},
                                {"spikes", spikes_},
                                {"in_a_row", in_a_row_},
                                {"losses", losses_}}
      .dump();
}

void StepGuard::restore(const std::string& text) {
  StepGuard fresh(sigma_, max_);
  const auto wrong = [](const std::string& what) {
    return fail(ExitCode::kCheckpoint, "run.json: guard: {}", what);
  };
  try {
    const auto json = nlohmann::json::parse(text.empty() ? "{}" : text);
    if (!json.is_object()) throw wrong("is no object");
    const auto count = [&](const char* key) {
      if (!json.contains(key)) return std::int64_t{0};
      if (!json[key].is_number_integer() || json[key].get<std::int64_t>() < 0) {
        throw wrong(fmt::format("{}: {} is no count", key, json[key].dump()));
      }
      return json[key].get<std::int64_t>();
    };
    fresh.not_finite_ = count("not_finite");
    fresh.spikes_ = count("spikes");
    fresh.in_a_row_ = count("in_a_row");
    const auto losses = json.value("losses", std::vector<double>{});
    const bool all_finite =
        std::all_of(losses.begin(), losses.end(), [](double loss) { return std::isfinite(loss); });
    if (losses.size() > kWindow || !all_finite) {
      throw wrong(fmt::format("losses: not {} finite numbers or fewer", kWindow));
    }
    fresh.losses_.assign(losses.begin(), losses.end());
  } catch (const nlohmann::json::exception& error) {
    throw wrong(error.what());
  }
  *this = std::move(fresh);
}

}  // namespace pg::app

// Which steps get no update: those whose loss or gradient is not finite and, with
// train.spike_sigma, those whose loss leaps out of the last ones. It decides from numbers that are
// the same on every rank, so that all decide alike; a step without an update leaves weights,
// moments and router biases as they were. What it remembers is part of a run's logical state.
#pragma once

#include <cstdint>
#include <deque>
#include <string>

namespace pg::app {

class StepGuard {
 public:
  // The spike rule looks at the losses of the last kWindow updates. A window and not a decaying
  // mean: the fall of the loss at the start of a run, hundreds of times its later spread, is
  // forgotten for good. It holds from kFewest losses on, when the standard deviation itself has a
  // relative error of 1 / sqrt(2 (n - 1)) = 16 %.
  static constexpr std::size_t kWindow = 100, kFewest = 20;
  // The deviation counts as at least so much of the mean, the rounding step of bf16: losses that
  // hardly move would make a spike of noise.
  static constexpr double kFloor = 1.0 / 256;

  static constexpr const char* kNotFinite = "not finite";
  static constexpr const char* kSpike = "spike";

  // 0 sigmas: no spike rule.
  StepGuard(double spike_sigma, std::int64_t max_skips) : sigma_(spike_sigma), max_(max_skips) {}

  // Why a step with these numbers gets no update (kNotFinite, kSpike); empty: it gets one.
  std::string verdict(double loss, double aux_loss, double grad_norm) const;
  // The same of the step that has just been computed, which it counts.
  std::string judge(double loss, double aux_loss, double grad_norm);
  // train.max_skips steps in a row have got none.
  bool given_up() const { return in_a_row_ >= max_; }

  std::int64_t in_a_row() const { return in_a_row_; }  // up to the last step
  std::int64_t not_finite() const { return not_finite_; }
  std::int64_t spikes() const { return spikes_; }
  std::int64_t skipped() const { return not_finite_ + spikes_; }

  // What a loss is a spike above: mean + sigma * max(deviation, kFloor * |mean|) over the window;
  // infinite while there is no rule or too few losses.
  double limit() const;

  // All of it as a JSON object, every number with all its digits.
  std::string text() const;
  // Becomes what text() was of; empty or {}: a fresh one. Error(kCheckpoint), and stays as it is.
  void restore(const std::string& text);

 private:
  double sigma_;
  std::int64_t max_;
  std::int64_t not_finite_ = 0, spikes_ = 0, in_a_row_ = 0;
  std::deque<double> losses_;  // of updates, oldest first
};

}  // namespace pg::app

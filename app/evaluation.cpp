#include "app/evaluation.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "app/console.h"
#include "comm/agree.h"

namespace pg::app {

namespace {

// Of one step: the first, and one more at the next start.
constexpr std::int64_t kTries = 2;

}  // namespace

Evaluation::Evaluation(const Deck& deck, comm::Group& world, Say say,
                       std::function<void(const std::string&)> record)
    : deck_(deck), world_(world), say_(std::move(say)), record_(std::move(record)) {}

bool Evaluation::due(const Trainer& trainer, std::int64_t step) const {
  const auto every = deck_.train.eval_every;
  return trainer.has_validation() &&
         (step == deck_.train.steps || (every > 0 && step % every == 0));
}

// Before the first one: of each batch it does a part of what a step does.
double Evaluation::expected_seconds(double step_seconds) const {
  if (longest_ > 0) return longest_;
  return step_seconds * static_cast<double>(deck_.train.eval_batches);
}

// A forward pass of the same size: backward takes two of them, recomputation up to one.
double Evaluation::expected_step_seconds() const {
  return 4 * batch_seconds_;
}

bool Evaluation::left_over(const Trainer& trainer, const io::RunFolder& folder) {
  const auto step = trainer.completed();
  if (step == 0 || !due(trainer, step)) return false;
  std::int64_t cut = 0;
  comm::together(world_, [&] {
    if (world_.rank() == 0) cut = folder.cut_evaluations(step);
  });
  cut = comm::all_reduce(world_, cut, comm::ReduceOp::kMax);
  if (cut >= kTries) {
    say_(fmt::format("warning: the evaluation after step {} was cut short {} times: left out\n",
                     step, cut));
  }
  return cut > 0 && cut < kTries;
}

std::string Evaluation::run(Trainer& trainer, const MustStop& must_stop) {
  const auto begin = std::chrono::steady_clock::now();
  const auto seconds = [begin] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  };
  std::string why;
  std::int64_t batches = 0;
  const auto result = trainer.evaluate_unless([&] {
    why = must_stop(seconds() / static_cast<double>(++batches));
    return !why.empty();
  });
  batch_seconds_ = seconds() / static_cast<double>(batches + (result ? 1 : 0));
  const auto step = trainer.completed();
  const auto write = [&](const std::string& members) {
    comm::together(world_, [&] {
      if (world_.rank() != 0) return;
      record_(fmt::format("{{\"step\": {}, {}, \"eval_s\": {}}}", step, members,
                          io::json_number(seconds())));
    });
  };
  if (!result) {
    write("\"valid_cut\": " + io::json_string(why));
    say_(fmt::format("valid at step {} | cut short\n", step));
    return why;
  }
  longest_ = std::max(longest_, seconds());
  const double perplexity = std::exp(result->loss);
  write(fmt::format("\"valid_loss\": {}, \"valid_perplexity\": {}, \"valid_tokens\": {}",
                    io::json_number(result->loss), io::json_number(perplexity), result->tokens));
  say_(fmt::format("valid at step {} | loss {:8.5f} | perplexity {:.2f} | {} tokens | {:.1f} s\n",
                   step, result->loss, perplexity, count_text(result->tokens), seconds()));
  return "";
}

}  // namespace pg::app

// Training on a live grid: the model, its data and the step. No files but the token files, no
// console: so the parity tests run it in one process on any grid they like; app/train adds
// checkpoints, metrics and people.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "app/batch_loader.h"
#include "app/deck.h"
#include "app/replica_check.h"
#include "app/step_guard.h"
#include "comm/process_grid.h"
#include "model/optim/optimizer.h"
#include "model/optim/router_balance.h"
#include "model/optim/zero.h"
#include "model/pipeline/pipeline.h"

namespace pg::app {

struct StepResult {
  std::int64_t step = 0;  // completed steps, this one included
  double loss = 0;        // nats per counted token, before the update
  double aux_loss = 0;    // what the routers' losses add to it, weighted
  double lr = 0, grad_norm = 0;
  std::int64_t tokens = 0;  // counted, over all ranks
  double seconds = 0;
  std::string skipped;                    // why it got no update (StepGuard); empty: it got one
  double check_seconds = 0;               // of `seconds`, the comparison of copies; 0: none was due
  std::vector<comm::TrafficRow> traffic;  // what this rank's groups carried in the step
  model::MoeReport moe;                   // of all routers; empty without experts
};

struct EvalResult {
  double loss = 0;
  std::int64_t tokens = 0;
};

class Trainer {
 public:
  // Everything is allocated here. `grid` must outlive it. Error(kData) when a token file cannot be
  // used, Error(kDeck) when it does not fit the model: on all ranks alike.
  Trainer(const Deck& deck, comm::ProcessGrid& grid);

  // One step: an update, unless the guard skips it, which leaves weights, moments and router biases
  // as they were; number, data and learning rate go on either way. Error(kNumerical) on all ranks,
  // the weights as before: when train.max_skips are skipped in a row; when the last step is, and
  // the samples after it are no better, so that such weights do not count as trained; and when
  // copies of weights differ.
  StepResult step();
  // Validation loss over the first eval_batches global batches of data.valid (fewer when it is
  // short), in file order. Needs has_validation().
  EvalResult evaluate() { return *evaluate_unless({}); }
  // The same; nothing once `cut` says so, which is asked between batches and must say the same on
  // every rank.
  std::optional<EvalResult> evaluate_unless(const std::function<bool()>& cut);
  bool has_validation() const { return valid_loader_ != nullptr; }

  // The cursor: both are zero in a fresh run and set after a load.
  std::int64_t completed() const { return completed_; }
  std::int64_t next_sample() const { return next_sample_; }
  void set_progress(std::int64_t completed, std::int64_t next_sample);
  // What the guard remembers, for a checkpoint and after a load (StepGuard::text, restore).
  const StepGuard& guard() const { return guard_; }
  std::string guard_text() const { return guard_.text(); }
  void set_guard(const std::string& text) { guard_.restore(text); }

  model::ParamStore& params() { return params_; }
  model::Kernels& kernels() { return *kernels_; }
  // Which kernel computes attention, where there are several.
  std::string attention_choice();
  // What a checkpoint holds of this rank: where a load puts it, and what a save takes. With
  // run.replica_check nothing is taken before all copies have been compared: then the second is
  // collective, and throws as step().
  std::vector<comm::TensorRecord> records() const;
  std::vector<comm::TensorRecord> records_to_save();
  // Before records that asynchronous saves write: their copy on the host stays, page-locked.
  void pin_records() { params_.pin_host_copy(); }
  void saved() { params_.drop_host_copy(); }  // the records are no longer needed
  // After a load into records(): the weights follow.
  void loaded();

  const io::TokenFile& train_file() const { return train_file_; }
  // Activation memory used so far.
  std::int64_t arena_high_water() const { return pipeline_.high_water(); }
  // Of the negative controls, between steps. What it makes of gradients and losses is of one step.
  void set_sabotage(const model::Sabotage& sabotage) {
    loss_factor_ = sabotage.loss_factor;
    reducer_.sabotage() = sabotage;
    weights_.sabotage() = sabotage;
    pipeline_.set_sabotage(sabotage);
  }

 private:
  double sum_over_batch(double loss_sum);
  double auxiliary_loss(const model::MoeReport& moe) const;
  void forward_backward(StepResult& result, std::int64_t first_sample);
  void agree(StepResult& result, const model::GradNorm& grads);
  void guard_step(StepResult& result);
  void check_copies(StepResult& result);
  void require_tokens(std::int64_t tokens, const std::string& when, const std::string& file);
  void load_batch(BatchLoader& loader, std::int64_t first, std::int64_t count);

  Deck deck_;
  comm::ProcessGrid& grid_;
  io::TokenFile train_file_;
  std::optional<io::TokenFile> valid_file_;
  std::unique_ptr<BatchLoader> train_loader_, valid_loader_;
  std::int64_t valid_samples_ = 0;

  std::unique_ptr<model::Kernels> kernels_;
  model::Groups groups_;
  model::ParamStore params_;
  model::WeightGatherer weights_;
  model::GradReducer reducer_;
  model::ZeroPlaceUse use_;
  model::Pipeline pipeline_;
  model::Optimizer optimizer_;
  model::RouterBalance balance_;

  StepGuard guard_;
  ReplicaCheck replica_check_;

  std::int64_t completed_ = 0, next_sample_ = 0;
  double loss_factor_ = 1;
};

}  // namespace pg::app

#include "app/trainer.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <utility>

#include "app/lr_schedule.h"
#include "app/parallel_plan.h"
#include "comm/agree.h"
#include "comm/profile_range.h"

namespace pg::app {

namespace {

using Clock = std::chrono::steady_clock;

// Opens on every rank; a failure anywhere is everyone's.
io::TokenFile open_tokens(comm::Group& world, const std::string& path, const char* key,
                          std::int64_t vocab) {
  std::optional<io::TokenFile> file;
  comm::together(world, [&] {
    file.emplace(path);
    if (file->vocab() > vocab) {
      throw fail(ExitCode::kDeck,
                 "model.vocab: {} is less than the {} ids of {} = {} (legal: {} or more)", vocab,
                 file->vocab(), key, path, file->vocab());
    }
  });
  return std::move(*file);
}

model::AdamWConfig adamw_config(const OptimizerSection& o) {
  return {o.beta1, o.beta2, o.eps, o.weight_decay, o.clip};
}

int batch_rank(const comm::ProcessGrid& grid) {
  return grid.shape().index_in(grid.coord(), comm::kBatch);
}

}  // namespace

Trainer::Trainer(const Deck& deck, comm::ProcessGrid& grid)
    : deck_(deck),
      grid_(grid),
      train_file_(open_tokens(grid.world(), deck.data.train, "data.train", deck.model.vocab)),
      kernels_(grid.gpu() != nullptr ? model::make_cuda_kernels(*grid.gpu())
                                     : model::make_cpu_kernels(static_cast<int>(deck.run.threads))),
      groups_(groups_of(deck, grid)),
      params_(layout_of(deck, sharding_of(deck, grid.shape(), grid.coord())), deck.run.precision,
              model::Buffer::Kind::kReal, kernels_->device()),
      weights_(params_, *kernels_, groups_),
      reducer_(params_, *kernels_, groups_),
      use_(weights_, reducer_),
      pipeline_(deck.model, pipeline_options(deck, grid.shape()), params_, *kernels_, groups_,
                deck.run.seed, use_),
      optimizer_(adamw_config(deck.optimizer), params_, *kernels_, groups_),
      balance_(params_, *kernels_, groups_),
      guard_(deck.train.spike_sigma, deck.train.max_skips),
      replica_check_(params_, grid, groups_) {
  const auto& shape = grid.shape();
  const BatchShare share{deck.train.seq,
                         deck.train.micro_batch,
                         shape.size(comm::kBatch),
                         batch_rank(grid),
                         model::sequence_runs(deck.context.method, shape.size(comm::Axis::kCP),
                                              grid.coord()[comm::Axis::kCP], deck.train.seq),
                         deck.data.mask_documents};
  const auto loader = [&](const io::TokenFile& file, bool shuffle) {
    std::unique_ptr<BatchLoader> made;
    comm::together(grid.world(), [&] {
      const io::Sampler sampler(file.tokens(), deck.train.seq, deck.run.seed, shuffle);
      if (!shuffle) valid_samples_ = sampler.samples();
      made = std::make_unique<BatchLoader>(
          file, sampler, share, kernels_->device() == Device::kCuda ? kernels_.get() : nullptr);
    });
    return made;
  };
  train_loader_ = loader(train_file_, /*shuffle=*/true);
  if (!deck.data.valid.empty()) {
    valid_file_.emplace(open_tokens(grid.world(), deck.data.valid, "data.valid", deck.model.vocab));
    valid_loader_ = loader(*valid_file_, /*shuffle=*/false);
  }
  params_.initialise(deck.run.seed);
  weights_.publish();
}

// Every rank's share of the step's loss, which the last pipeline stage has.
double Trainer::sum_over_batch(double loss_sum) {
  const comm::ProfileRange range("sum of the loss");
  loss_sum = comm::all_reduce(*groups_.pipeline, loss_sum, comm::ReduceOp::kSum);
  return comm::all_reduce(grid_.dense_replicas(), loss_sum, comm::ReduceOp::kSum);
}

double Trainer::auxiliary_loss(const model::MoeReport& moe) const {
  double sum = 0.0;
  for (const auto& block : moe.blocks) {
    sum += deck_.model.moe.aux_loss * block.balance_loss +
           deck_.model.moe.z_loss * block.z_loss / static_cast<double>(deck_.train.seq);
  }
  return sum / static_cast<double>(deck_.train.global_batch);
}

// Of no token there is no mean loss. The same on every rank.
void Trainer::require_tokens(std::int64_t tokens, const std::string& when,
                             const std::string& file) {
  if (tokens > 0) return;
  throw Error(ExitCode::kData,
              fmt::format("{}: data.mask_documents leaves no token to predict: every document of "
                          "its samples in {} has one token",
                          when, file),
              grid_.world().size());
}

void Trainer::load_batch(BatchLoader& loader, std::int64_t first, std::int64_t count) {
  const comm::ProfileRange range("loading the batch");
  comm::together(grid_.world(), [&] { loader.load(first, count); });
}

// The loss and the gradients of the global batch that begins with this sample.
void Trainer::forward_backward(StepResult& result, std::int64_t first_sample) {
  // 1. The step's samples, and the number of tokens that its loss is a mean over.
  const auto batch = deck_.train.global_batch;
  load_batch(*train_loader_, first_sample, batch);
  result.tokens = train_loader_->counted_tokens(first_sample, batch);
  require_tokens(result.tokens, fmt::format("step {}", result.step), deck_.data.train);
  const double loss_scale = 1.0 / static_cast<double>(result.tokens);

  // 2. Forward and backward of its micro-batches, in the pipeline's order. Gradients add up, and
  // set out to their sums as they are complete.
  reducer_.begin_step();
  pipeline_.counters().clear(*kernels_);
  double loss_sum =
      pipeline_.forward_backward([this](int micro) { return train_loader_->micro(micro); },
                                 loss_scale, 1.0 / static_cast<double>(batch));
  {
    const comm::ProfileRange sums("sums over replicas");
    reducer_.finish();
  }

  // 3. The step's loss and gradient norm, the same on every rank.
  result.loss = sum_over_batch(loss_sum * std::exchange(loss_factor_, 1)) * loss_scale;
  result.moe = balance_.add_up(pipeline_.counters());
  result.aux_loss = auxiliary_loss(result.moe);
  agree(result, optimizer_.grad_norm());
}

StepResult Trainer::step() {
  const auto begin = Clock::now();
  StepResult result;
  result.step = completed_ + 1;
  grid_.traffic().reset();
  comm::note_step(result.step);
  const comm::ProfileRange whole("step", result.step);
  forward_backward(result, next_sample_);
  result.lr = learning_rate(deck_.schedule, deck_.optimizer.lr, deck_.train.steps, result.step);

  // 4. Whether it gets an update. Copies are compared as the step has used them: an update would
  // spread what is wrong in one to others.
  const auto check = deck_.run.replica_check;
  if (check > 0 && result.step % check == 0) check_copies(result);
  guard_step(result);

  // 5. The update, each replica's share of it, and the new weights back to all.
  if (result.skipped.empty()) {
    const comm::ProfileRange update("update");
    optimizer_.update(result.step - guard_.skipped(), result.lr, result.grad_norm);
    weights_.publish();
    balance_.update(result.moe);
  }
  completed_ = result.step;
  next_sample_ += deck_.train.global_batch;
  result.traffic = grid_.traffic().rows();
  result.seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  return result;
}

// Equal on all ranks already while every rank's copies are sound; what is not finite on one of them
// is now so on all, and they go on alike.
void Trainer::agree(StepResult& result, const model::GradNorm& grads) {
  std::array<double, 4> worst{result.loss, result.aux_loss, grads.norm, grads.own_squares};
  for (auto& x : worst) x = x == -INFINITY ? NAN : x;
  grid_.world().all_reduce({worst.data(), worst.size(), DType::kF64}, comm::ReduceOp::kMax).wait();
  result.loss = worst[0];
  result.aux_loss = worst[1];
  result.grad_norm = std::isfinite(worst[3]) ? worst[2] : worst[3];
}

// All of it is the same on every rank: where one throws, all do.
void Trainer::guard_step(StepResult& result) {
  const auto words = [limit = guard_.limit()](const StepResult& r, const std::string& reason) {
    return reason == StepGuard::kSpike
               ? fmt::format("loss {} is a spike above {} (gradient norm {})", r.loss, limit,
                             r.grad_norm)
               : fmt::format("loss {} and gradient norm {} are not both finite", r.loss,
                             r.grad_norm);
  };
  result.skipped = guard_.judge(result.loss, result.aux_loss, result.grad_norm);
  if (result.skipped.empty()) return;
  auto what = fmt::format("step {}: {}", result.step, words(result, result.skipped));
  if (guard_.given_up()) {
    what += fmt::format("; {} steps in a row got no update (train.max_skips = {}), {} in all",
                        guard_.in_a_row(), deck_.train.max_skips, guard_.skipped());
    throw Error(ExitCode::kNumerical, what, grid_.world().size());
  }
  if (result.step != deck_.train.steps) return;
  // No later step will tell whether the batch was to blame, or the weights that end the run.
  StepResult next;
  next.step = result.step;
  forward_backward(next, next_sample_ + deck_.train.global_batch);
  const auto again = guard_.verdict(next.loss, next.aux_loss, next.grad_norm);
  if (again.empty()) return;
  throw Error(ExitCode::kNumerical,
              fmt::format("{}; of the samples after it too, {}: such weights do not end a run",
                          what, words(next, again)),
              grid_.world().size());
}

void Trainer::check_copies(StepResult& result) {
  const auto begin = Clock::now();
  const comm::ProfileRange range("replica check");
  replica_check_.run(result.step);
  result.check_seconds = std::chrono::duration<double>(Clock::now() - begin).count();
}

std::optional<EvalResult> Trainer::evaluate_unless(const std::function<bool()>& cut) {
  PG_ASSERT(has_validation(), "data.valid is {}", deck_.data.valid);
  const comm::ProfileRange whole("evaluation");
  const auto batch = deck_.train.global_batch;
  const auto total = std::min(valid_samples_, deck_.train.eval_batches * batch);
  EvalResult result;
  double loss_sum = 0.0;
  for (std::int64_t first = 0; first < total; first += batch) {
    if (first > 0 && cut && cut()) return std::nullopt;
    const auto count = std::min(batch, total - first);
    load_batch(*valid_loader_, first, count);
    loss_sum += pipeline_.loss([this](int micro) { return valid_loader_->micro(micro); },
                               static_cast<int>(valid_loader_->micro_batches()));
    result.tokens += valid_loader_->counted_tokens(first, count);
  }
  require_tokens(result.tokens, fmt::format("validation at step {}", completed_), deck_.data.valid);
  result.loss = sum_over_batch(loss_sum) / static_cast<double>(result.tokens);
  return result;
}

std::string Trainer::attention_choice() {
  const auto& config = params_.layout().rank_config();
  const auto cp = grid_.shape().size(comm::Axis::kCP);
  const bool parts = cp > 1 && deck_.context.method != model::ContextMethod::kUlysses;
  if (parts) return kernels_->device() == Device::kCuda ? "own kernels (parts of sequences)" : "";
  model::Kernels::AttentionUse use;
  use.type = deck_.run.precision;
  use.sequences = deck_.train.micro_batch;
  use.positions = deck_.train.seq;
  use.heads = config.heads / cp;  // of whole sequences
  use.kv_heads = std::max<std::int64_t>(1, config.kv_heads / cp);
  use.head_dim = config.head_dim;
  use.window = config.window;
  use.documents = deck_.data.mask_documents;
  use.dropout = config.dropout > 0.0;
  return kernels_->attention_choice(use);
}

void Trainer::set_progress(std::int64_t completed, std::int64_t next_sample) {
  completed_ = completed;
  comm::note_step(completed);
  next_sample_ = next_sample;
}

std::vector<comm::TensorRecord> Trainer::records() const {
  return params_.records();
}

std::vector<comm::TensorRecord> Trainer::records_to_save() {
  if (deck_.run.replica_check > 0) replica_check_.run(completed_);
  params_.to_host();
  return params_.records();
}

void Trainer::loaded() {
  params_.from_host();
  params_.drop_host_copy();
  params_.round_weights(*kernels_);
  weights_.publish();
}

}  // namespace pg::app

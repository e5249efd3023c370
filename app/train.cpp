#include "app/train.h"

#include <sys/resource.h>

#include <atomic>
#include <chrono>
#include <optional>

#include "app/console.h"
#include "app/device.h"
#include "app/evaluation.h"
#include "app/matmul_rate.h"
#include "app/moe_report.h"
#include "app/resume.h"
#include "app/run_saver.h"
#include "app/schema.h"
#include "app/stop.h"
#include "app/stragglers.h"
#include "app/threads.h"
#include "app/traffic_report.h"
#include "app/trainer.h"
#include "comm/activity.h"
#include "comm/agree.h"
#include "comm/profile_range.h"
#include "comm/watchdog.h"
#include "io/checkpoint.h"
#include "io/checkpoint_commit.h"
#include "io/files.h"
#include "io/progress.h"
#include "io/run_folder.h"
#include "io/run_lock.h"
#include "model/flops.h"

namespace pg::app {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// Of the memory that the mathematics runs in.
std::int64_t peak_bytes(comm::ProcessGrid& grid) {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto host = static_cast<std::int64_t>(usage.ru_maxrss) * 1024;
  return comm::all_reduce(grid.world(), grid.gpu() != nullptr ? comm::gpu_peak_bytes() : host,
                          comm::ReduceOp::kMax);
}

// What a step's record says of the guard, if anything.
std::string guard_json(const StepResult& r) {
  std::string text;
  if (!r.skipped.empty()) text += ", \"skipped\": " + io::json_string(r.skipped);
  if (r.check_seconds > 0) text += ", \"replica_check_s\": " + io::json_number(r.check_seconds);
  return text;
}

// Everything `train` keeps besides the trainer. Methods are collective; rank 0 prints and writes.
class Run {
 public:
  Run(const Deck& deck, const comm::Communicator& world, const Launch& launch,
      const TrainControls& controls)
      : launch_(launch),
        controls_(controls),
        deck_(deck),
        gpu_(open_gpu(deck, world)),
        grid_(world, grid_of(deck, world.size()), gpu_.get()),
        folder_(deck.run.output) {
    deck_.resolved = resolved_text(deck_);  // before what this machine has goes in
    auto_ = deck_.run.device == "auto";
    deck_.run.device = gpu_ != nullptr ? "cuda" : "cpu";
    deck_.run.threads = threads_of(deck_, grid_);
  }

  comm::Group& world() { return grid_.world(); }
  bool root() const { return grid_.root(); }
  const std::string& reason() const { return reason_; }
  // Not in a folder that holds somebody else's run.
  void write_exit(ExitCode code, const std::string& reason) const {
    if (root() && folder_is_ours_) folder_.write_exit(static_cast<int>(code), reason);
  }
  // mpirun kills what still runs once one rank has returned non-zero: nobody leaves before all have
  // written.
  void leave_together() { world().barrier(); }

  ExitCode run() {
    // 1. A folder that is no other job's, and holds no other run; what to resume.
    try {
      lock_folder();
      start_watchdog();
      const comm::ProfileRange range("looking for a checkpoint");
      resume_from_ = find_resume(deck_, world(), folder_, say_);
    } catch (const Error& error) {
      folder_is_ours_ = error.code() != ExitCode::kDeck;
      if (error.code() == ExitCode::kSave) throw with_sizes(error, deck_);
      throw;
    }
    stop_.emplace(deck_, world(), folder_.path(), launch_.started, say_);
    // 2. Memory, data, model; that this processor has the precision's products, it shows at once.
    Trainer trainer(deck_, grid_);
    take_choices(trainer.kernels());
    comm::together(world(), [&] {
      const comm::ProfileRange range("measuring matrix products");
      matmul_flops_ = measure_matmul_rate(trainer.kernels(), deck_.run.precision);
    });
    matmul_flops_ = comm::all_reduce(world(), matmul_flops_, comm::ReduceOp::kSum);
    if (resume_from_) {
      const comm::ProfileRange range("loading the checkpoint");
      load_resume(deck_, grid_, *resume_from_, trainer, say_);
    }
    const bool evaluate_first = evaluation_.left_over(trainer, folder_);
    if (trainer.completed() >= deck_.train.steps && !evaluate_first) {
      say(fmt::format("step {} of {} is done already: nothing to do\n", trainer.completed(),
                      deck_.train.steps));
      return ExitCode::kDone;
    }
    // 3. A folder that takes what comes; tell people.
    prepare_folder(trainer);
    print_banner(trainer);
    // 4. Train.
    RunSaver saver(
        deck_, grid_, folder_, say_, [this](const std::string& json) { write_record(json); },
        [this] {
          require_lock();
          metrics_->sync();  // records up to a checkpoint are as lasting as it is
        });
    saver.prepare(trainer, root() ? metrics_->last_save_seconds() : 0);
    try {
      return loop(trainer, saver, evaluate_first);
    } catch (const Error& error) {
      if (still_ours(error)) saver.finish_after(error);
      throw;
    }
  }

 private:
  void say(const std::string& text) const {
    if (!root()) return;
    if (terminal_) std::fputs("\r\033[K", stdout);  // over the progress bar
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
  }

  void lock_folder() {
    comm::together(world(), [&] {
      if (!root()) return;
      lock_.emplace(folder_.path(), io::RunLockOptions{.note = [this](const std::string& note) {
                      say("note: " + note + "\n");
                    }});
      io::give_names_back(folder_.checkpoints());
    });
  }

  // Rank 0's, any thread. Error(kSave) once the folder is another job's.
  void require_lock() {
    try {
      lock_->require_held();
    } catch (const Error&) {
      folder_is_ours_ = false;
      throw;
    }
  }
  // Collective where all ranks have the error. No more is written to a folder that is another
  // job's.
  bool still_ours(const Error& error) {
    if (error.ranks() == world().size()) {
      folder_is_ours_ = comm::broadcast(world(), folder_is_ours_ ? "ours" : "", 0) == "ours";
    }
    return folder_is_ours_;
  }
  void write_record(const std::string& json) {
    require_lock();
    metrics_->write(json);
  }

  void start_watchdog() {
    const auto limit = deck_.run.watchdog;
    if (limit == 0) return;
    watchdog_.emplace(world(), grid_.communicator().world_ranks(),
                      comm::WatchdogOptions{folder_.path(), static_cast<double>(limit),
                                            [this](const std::string& headline) {
                                              folder_.write_exit(static_cast<int>(ExitCode::kComm),
                                                                 headline);
                                            }});
  }

  // What the GPU's library chose in the slice before, or in the run that is resumed: each rank
  // takes its own, ranks of a larger grid those of rank 0.
  void take_choices(model::Kernels& kernels) {
    if (gpu_ == nullptr) return;
    std::vector<std::string> texts;
    if (root()) {
      // RUN/checkpoints/step-N
      const auto from = resume_from_ ? resume_from_->path : std::filesystem::path();
      texts = folder_.read_choices();
      if (texts.empty() && from.has_parent_path()) {
        texts = io::RunFolder(from.parent_path().parent_path()).read_choices();
      }
    }
    const auto count =
        comm::all_reduce(world(), static_cast<std::int64_t>(texts.size()), comm::ReduceOp::kMax);
    const auto mine = to_int(grid_.rank()) < count ? to_int(grid_.rank()) : 0;
    std::string note;
    for (std::int64_t i = 0; i < count; ++i) {
      const auto text =
          comm::broadcast(world(), root() ? texts[static_cast<std::size_t>(i)] : "", 0);
      if (i == mine) note = kernels.set_choices(text);
    }
    if (!note.empty()) say(fmt::format("note: choices.json: {}\n", note));
  }

  // Right after this the run counts as begun: its deck and first record are there.
  void prepare_folder(Trainer& trainer) {
    const auto records = trainer.records();
    comm::together(world(), [&] {
      if (!root()) return;
      io::require_space(folder_.checkpoints(),
                        io::checkpoint_bytes(records, deck_.checkpoint.alignment));
      folder_.remove_exit();
      folder_.write_deck(deck_.resolved);
      metrics_ = std::make_unique<io::MetricsWriter>(folder_.metrics(), trainer.completed());
    });
  }

  void print_banner(Trainer& trainer) {
    Banner banner{
        .deck = deck_, .grid = grid_.shape(), .hosts = comm::all_gather(world(), grid_.host())};
    banner.idle = launch_.idle;
    if (gpu_ == nullptr && auto_) banner.no_gpu = comm::gpu_missing();
    if (gpu_ != nullptr) {
      banner.gpus = comm::all_gather(world(), gpu_line(gpu_->info()));
      banner.transport = world().size() > 1 ? grid_.transport() : "";
      banner.attention = trainer.attention_choice();
    }
    if (!root()) return;
    banner.threads = static_cast<int>(deck_.run.threads);
    banner.tensor_ranks_share_host = grid_.tensor_ranks_share_host();
    banner.train_tokens = trainer.train_file().tokens();
    banner.samples = (banner.train_tokens - 1) / deck_.train.seq;
    banner.matmul_flops = matmul_flops_;
    if (resume_from_) banner.resumed_from = resume_from_->path.string();
    banner.resumed_step = trainer.completed();
    say(banner_text(banner));
  }

  ExitCode loop(Trainer& trainer, RunSaver& saver, bool evaluate_first) {
    const auto begin = Clock::now();
    const auto steps = deck_.train.steps;
    const auto first = trainer.completed();
    Stragglers stragglers(deck_.log.straggler, grid_);
    std::int64_t tokens = 0;
    auto why = before_steps(trainer, saver, evaluate_first);
    if (!why.empty()) stop_before_a_step(trainer, saver, why);
    std::optional<io::Progress> progress;
    if (root()) {
      const auto last = deck_.run.stop_after;
      progress.emplace("training", (last > 0 ? std::min(last, steps) : steps) - first);
    }
    bool save_due = false;
    while (trainer.completed() < steps && why.empty()) {
      const auto step_begin = Clock::now();
      if (controls_.before_step) controls_.before_step(trainer);
      const double waited = comm::waited_seconds();
      const auto result = trainer.step();
      const comm::Place place("after a step");
      stragglers.add(result.seconds - (comm::waited_seconds() - waited));
      const auto step = result.step;
      tokens += result.tokens;
      const bool last = step == steps;

      record(result);
      if (!result.skipped.empty()) say_skipped(result, trainer.guard());
      if (to_log(step)) name(stragglers.found(), step);
      if (progress) progress->update(step - first);
      Ahead ahead{.save = saver.expected_seconds(), .step = seconds_since(step_begin)};
      saver.poll();
      if (evaluation_.due(trainer, step)) why = evaluate(trainer, saver.expected_seconds());
      const auto save_every = deck_.checkpoint.every;
      if (evaluation_.due(trainer, step + 1)) {
        ahead.evaluation = evaluation_.expected_seconds(ahead.step);
      }
      // While steps are skipped, weights that are to blame must not push out older ones; a stop
      // saves them beside those.
      save_due = save_due || (save_every > 0 && step % save_every == 0);
      ahead.save_due = save_due && result.skipped.empty();
      if (!last && why.empty()) why = stop_->agreed(step, ahead);
      if (!why.empty()) say(fmt::format("stopping after step {}: {}\n", step, why));
      if (last || !why.empty() || ahead.save_due) {
        saver.save(trainer, result.skipped.empty());
        save_due = false;
      }
    }
    saver.finish();
    say_all_skipped(trainer.guard());
    reason_ = why.empty()
                  ? "done"
                  : fmt::format("stopped at step {}: {}, resumable", trainer.completed(), why);
    say(fmt::format(
        "{} at step {} of {}{}: {} tokens in {:.1f} s; metrics in {}, checkpoints in {}\n",
        why.empty() ? "done" : "stopped", trainer.completed(), steps,
        why.empty() ? "" : " (" + why + ")", count_text(tokens), seconds_since(begin),
        folder_.metrics().string(), folder_.checkpoints().string()));
    return why.empty() ? ExitCode::kDone : ExitCode::kStopped;
  }

  // The evaluation that an earlier slice left over, and then why no step may follow. One that was
  // done is progress too: the wall limit may leave the step to the next slice.
  std::string before_steps(Trainer& trainer, const RunSaver& saver, bool evaluate_first) {
    Ahead ahead;
    if (evaluate_first) {
      auto why = stop_->agreed_in_evaluation(0, 0);
      if (why.empty()) why = evaluate(trainer, 0);
      if (!why.empty()) return why;
      ahead = {.save = saver.expected_seconds(), .step = evaluation_.expected_step_seconds()};
    }
    // A run whose steps are done stops for nothing.
    return trainer.completed() < deck_.train.steps ? stop_->agreed(trainer.completed(), ahead) : "";
  }

  // There is nothing new. What came from another folder is saved here, so that "latest" finds it.
  void stop_before_a_step(Trainer& trainer, RunSaver& saver, const std::string& why) {
    const auto& resume = deck_.checkpoint.resume;
    const bool elsewhere = resume_from_ && resume != "auto" && resume != "latest";
    say(fmt::format("stopping before a step is made: {}{}\n", why,
                    elsewhere ? "" : "; there is nothing new to save"));
    if (elsewhere) saver.save(trainer);
  }

  void record(const StepResult& r) {
    const double flops = model::model_flops_per_token(deck_.model, deck_.train.seq) *
                         static_cast<double>(r.tokens) / r.seconds;
    const double mfu = matmul_flops_ > 0 ? flops / matmul_flops_ : NAN;
    const auto peak = peak_bytes(grid_);
    const auto traffic = traffic_json(world(), r.traffic);
    comm::together(world(), [&] {
      if (!root()) return;
      write_record(fmt::format(
          "{{\"step\": {}, \"loss\": {}, \"aux_loss\": {}, \"lr\": {}, \"grad_norm\": {}, "
          "\"tokens\": {}, \"step_s\": {}, \"tokens_per_s\": {}, \"mfu\": {}, \"peak_bytes\": {}, "
          "\"comm\": {}{}{}}}",
          r.step, io::json_number(r.loss), io::json_number(r.aux_loss), io::json_number(r.lr),
          io::json_number(r.grad_norm), r.tokens, io::json_number(r.seconds),
          io::json_number(static_cast<double>(r.tokens) / r.seconds), io::json_number(mfu), peak,
          traffic, moe_json(r.moe, deck_.train.global_batch, deck_.train.seq), guard_json(r)));
    });
    if (to_log(r.step)) {
      say(step_text({r, deck_.train.steps, std::isfinite(mfu) ? mfu : 0.0, peak}) + "\n");
    }
  }

  void say_skipped(const StepResult& r, const StepGuard& guard) const {
    say(fmt::format(
        "warning: step {} got no update: {}: loss {}, gradient norm {} ({} in a row, {} "
        "in all)\n",
        r.step, r.skipped, r.loss, r.grad_norm, guard.in_a_row(), guard.skipped()));
  }
  void say_all_skipped(const StepGuard& guard) const {
    if (guard.skipped() == 0) return;
    say(fmt::format("warning: steps of the run without an update: {} ({} not finite, {} spikes)\n",
                    guard.skipped(), guard.not_finite(), guard.spikes()));
  }

  bool to_log(std::int64_t step) const {
    const auto every = deck_.log.every;
    return every > 0 && (step % every == 0 || step == 1 || step == deck_.train.steps);
  }

  void name(const std::vector<Straggler>& stragglers, std::int64_t step) {
    if (stragglers.empty()) return;
    for (const auto& straggler : stragglers) say("warning: " + straggler_text(straggler) + "\n");
    comm::together(world(), [&] {
      if (root()) write_record(stragglers_json(step, stragglers));
    });
  }

  // `save_seconds`: of what is to be saved when it is cut short.
  std::string evaluate(Trainer& trainer, double save_seconds) {
    return evaluation_.run(trainer, [&](double batch_seconds) {
      if (controls_.in_evaluation) controls_.in_evaluation(trainer);
      return stop_->agreed_in_evaluation(save_seconds, batch_seconds);
    });
  }

  const Say say_ = [this](const std::string& text) { say(text); };
  const bool terminal_ = io::watched_terminal(stdout);
  const Launch launch_;
  const TrainControls& controls_;
  Deck deck_;
  std::unique_ptr<comm::Gpu> gpu_;
  comm::ProcessGrid grid_;
  io::RunFolder folder_;
  std::optional<io::RunLock> lock_;         // rank 0's
  std::optional<comm::Watchdog> watchdog_;  // while anything below lives
  std::unique_ptr<io::MetricsWriter> metrics_;
  std::atomic<bool> folder_is_ours_ = true;
  bool auto_ = false;  // the deck left the device open
  std::optional<io::VerifiedEntry> resume_from_;
  std::optional<Stop> stop_;
  Evaluation evaluation_{deck_, world(), say_,
                         [this](const std::string& json) { write_record(json); }};
  std::string reason_ = "done";  // what exit.json says
  double matmul_flops_ = 0;
};

}  // namespace

ExitCode run_train(const Deck& deck, const comm::Communicator& world, const Launch& launch,
                   const TrainControls& controls) {
  Run run(deck, world, launch, controls);
  try {
    const auto code = run.run();
    run.write_exit(code, run.reason());
    run.leave_together();
    return code;
  } catch (const Error& error) {
    run.write_exit(error.code(), error.what());
    if (error.ranks() == run.world().size()) run.leave_together();
    throw;
  } catch (const std::exception& error) {
    run.write_exit(ExitCode::kBug, error.what());
    throw;
  }
}

}  // namespace pg::app

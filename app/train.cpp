#include "app/train.h"

#include <sys/resource.h>

#include <chrono>
#include <optional>

#include "app/console.h"
#include "app/device.h"
#include "app/matmul_rate.h"
#include "app/moe_report.h"
#include "app/resume.h"
#include "app/run_saver.h"
#include "app/schema.h"
#include "app/stop.h"
#include "app/threads.h"
#include "app/traffic_report.h"
#include "app/trainer.h"
#include "comm/agree.h"
#include "io/checkpoint.h"
#include "io/files.h"
#include "io/progress.h"
#include "io/run_folder.h"
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

// Everything `train` keeps besides the trainer. Methods are collective; rank 0 prints and writes.
class Run {
 public:
  Run(const Deck& deck, const comm::Communicator& world)
      : deck_(deck),
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
  // Not in a folder that holds somebody else's run.
  void write_exit(ExitCode code, const std::string& reason) const {
    if (root() && folder_is_ours_) folder_.write_exit(static_cast<int>(code), reason);
  }
  // mpirun kills what still runs once one rank has returned non-zero: nobody leaves before all have
  // written.
  void leave_together() { world().barrier(); }

  ExitCode run() {
    // 1. What to resume, and a folder that holds no other run.
    try {
      resume_from_ = find_resume(deck_, world(), folder_, say_);
    } catch (const Error& error) {
      folder_is_ours_ = error.code() != ExitCode::kDeck;
      throw;
    }
    // 2. Memory, data, model; that this processor has the precision's products, it shows at once.
    Trainer trainer(deck_, grid_);
    take_choices(trainer.kernels());
    comm::together(world(), [&] {
      matmul_flops_ = measure_matmul_rate(trainer.kernels(), deck_.run.precision);
    });
    matmul_flops_ = comm::all_reduce(world(), matmul_flops_, comm::ReduceOp::kSum);
    if (resume_from_) load_resume(deck_, grid_, *resume_from_, trainer, say_);
    if (trainer.completed() >= deck_.train.steps) {
      say(fmt::format("step {} of {} is done already: nothing to do\n", trainer.completed(),
                      deck_.train.steps));
      return ExitCode::kDone;
    }
    // 3. A folder that takes what comes; tell people.
    prepare_folder(trainer);
    print_banner(trainer);
    // 4. Train.
    return loop(trainer);
  }

 private:
  void say(const std::string& text) const {
    if (!root()) return;
    if (terminal_) std::fputs("\r\033[K", stdout);  // over the progress bar
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
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
      io::require_space(folder_.checkpoints(), io::checkpoint_bytes(records));
      folder_.remove_exit();
      folder_.write_deck(deck_.resolved);
      metrics_ = std::make_unique<io::MetricsWriter>(folder_.metrics(), trainer.completed());
    });
  }

  void print_banner(Trainer& trainer) {
    Banner banner{
        .deck = deck_, .grid = grid_.shape(), .hosts = comm::all_gather(world(), grid_.host())};
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

  ExitCode loop(Trainer& trainer) {
    const auto begin = Clock::now();
    const auto steps = deck_.train.steps;
    const auto first = trainer.completed();
    RunSaver saver(deck_, grid_, folder_, say_);
    Stop stop(deck_);
    std::int64_t tokens = 0;
    auto why = stop.agreed(world(), first, saver.expected_seconds(), 0);
    if (!why.empty()) saver.save(trainer);  // into this folder, wherever it was resumed from
    std::optional<io::Progress> progress;
    if (root()) {
      const auto last = deck_.run.stop_after;
      progress.emplace("training", (last > 0 ? std::min(last, steps) : steps) - first);
    }
    while (trainer.completed() < steps && why.empty()) {
      const auto result = trainer.step();
      const auto step = result.step;
      tokens += result.tokens;
      const bool last = step == steps;

      record(result);
      if (progress) progress->update(step - first);
      saver.poll();
      const auto every = deck_.train.eval_every;
      if (trainer.has_validation() && (last || (every > 0 && step % every == 0))) {
        evaluate(trainer);
      }
      if (!last) why = stop.agreed(world(), step, saver.expected_seconds(), result.seconds);
      const auto save_every = deck_.checkpoint.every;
      if (last || !why.empty() || (save_every > 0 && step % save_every == 0)) saver.save(trainer);
    }
    saver.finish();
    say(fmt::format(
        "{} at step {} of {}: {} tokens in {:.1f} s; metrics in {}, checkpoints in {}\n",
        why.empty() ? "done" : "stopped (" + why + ")", trainer.completed(), steps,
        count_text(tokens), seconds_since(begin), folder_.metrics().string(),
        folder_.checkpoints().string()));
    return why.empty() ? ExitCode::kDone : ExitCode::kStopped;
  }

  void record(const StepResult& r) {
    const double flops = model::model_flops_per_token(deck_.model, deck_.train.seq) *
                         static_cast<double>(r.tokens) / r.seconds;
    const double mfu = matmul_flops_ > 0 ? flops / matmul_flops_ : NAN;
    const auto peak = peak_bytes(grid_);
    const auto traffic = traffic_json(world(), r.traffic);
    comm::together(world(), [&] {
      if (!root()) return;
      metrics_->write(fmt::format(
          "{{\"step\": {}, \"loss\": {}, \"aux_loss\": {}, \"lr\": {}, \"grad_norm\": {}, "
          "\"tokens\": {}, \"step_s\": {}, \"tokens_per_s\": {}, \"mfu\": {}, \"peak_bytes\": {}, "
          "\"comm\": {}{}}}",
          r.step, io::json_number(r.loss), io::json_number(r.aux_loss), io::json_number(r.lr),
          io::json_number(r.grad_norm), r.tokens, io::json_number(r.seconds),
          io::json_number(static_cast<double>(r.tokens) / r.seconds), io::json_number(mfu), peak,
          traffic, moe_json(r.moe, deck_.train.global_batch, deck_.train.seq)));
    });
    const auto every = deck_.log.every;
    if (every > 0 && (r.step % every == 0 || r.step == 1 || r.step == deck_.train.steps)) {
      say(step_text({r, deck_.train.steps, std::isfinite(mfu) ? mfu : 0.0, peak}) + "\n");
    }
  }

  void evaluate(Trainer& trainer) {
    const auto begin = Clock::now();
    const auto result = trainer.evaluate();
    const double perplexity = std::exp(result.loss);
    comm::together(world(), [&] {
      if (!root()) return;
      metrics_->write(fmt::format(
          "{{\"step\": {}, \"valid_loss\": {}, \"valid_perplexity\": {}, \"valid_tokens\": {}, "
          "\"eval_s\": {}}}",
          trainer.completed(), io::json_number(result.loss), io::json_number(perplexity),
          result.tokens, io::json_number(seconds_since(begin))));
    });
    say(fmt::format("valid at step {} | loss {:8.5f} | perplexity {:.2f} | {} tokens | {:.1f} s\n",
                    trainer.completed(), result.loss, perplexity, count_text(result.tokens),
                    seconds_since(begin)));
  }

  const Say say_ = [this](const std::string& text) { say(text); };
  const bool terminal_ = io::watched_terminal(stdout);
  Deck deck_;
  std::unique_ptr<comm::Gpu> gpu_;
  comm::ProcessGrid grid_;
  io::RunFolder folder_;
  std::unique_ptr<io::MetricsWriter> metrics_;
  bool folder_is_ours_ = true;
  bool auto_ = false;  // the deck left the device open
  std::optional<io::VerifiedEntry> resume_from_;
  double matmul_flops_ = 0;
};

}  // namespace

ExitCode run_train(const Deck& deck, const comm::Communicator& world) {
  Run run(deck, world);
  try {
    const auto code = run.run();
    run.write_exit(code, code == ExitCode::kDone ? "done" : "stopped early, resumable");
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

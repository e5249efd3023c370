#include "app/run_saver.h"

#include <algorithm>
#include <chrono>
#include <ctime>
#include <filesystem>

#include "app/console.h"
#include "app/resume_check.h"
#include "comm/agree.h"
#include "comm/profile_range.h"
#include "io/checkpoint.h"
#include "io/files.h"
#include "model/param_table.h"

namespace pg::app {

namespace {

using Clock = std::chrono::steady_clock;

constexpr double kLongWait = 0.1;  // s; shorter ones are no news

// What a save takes when none was measured: a second for files and agreement, and the bytes of a
// host at what a busy network file system or one spinning disk still takes of it. Too slow stops
// early, too fast loses the last steps.
double estimated_seconds(std::int64_t bytes) {
  constexpr double kBytesPerSecond = 100e6;
  return 1.0 + static_cast<double>(bytes) / kBytesPerSecond;
}

io::SaveOptions options_of(const CheckpointSection& checkpoint, bool on_gpu) {
  return {.async = checkpoint.async,
          .stable = on_gpu,  // the records are a copy on the host already
          .verify = checkpoint.verify,
          .hints = checkpoint.hints,
          .alignment = checkpoint.alignment,
          .keep = checkpoint.keep,
          .keep_every = checkpoint.keep_every};
}

}  // namespace

std::int64_t planned_checkpoint_bytes(const Deck& deck) {
  // As model::ParamStore::records.
  const auto type = accumulator_of(deck.run.precision);
  const model::ParamTable table(deck.model);
  std::vector<comm::TensorRecord> records;
  for (const auto& spec : table.specs()) {
    for (const char* part : {"", ".adam_m", ".adam_v"}) {
      records.push_back({spec.name + part, type, spec.shape, {}});
    }
  }
  const auto& moe = deck.model.moe;
  for (std::int64_t block = 0; block < deck.model.layers && moe.bias_update > 0.0; ++block) {
    if (!deck.model.has_experts(block)) continue;
    records.push_back({model::ParamTable::router_bias_name(block), type, {moe.experts}, {}});
  }
  return io::checkpoint_bytes(records, deck.checkpoint.alignment);
}

Error with_sizes(const Error& error, const Deck& deck) {
  std::filesystem::path there = std::filesystem::absolute(deck.run.output);
  std::error_code ignored;
  while (!std::filesystem::exists(there, ignored) && there != there.parent_path()) {
    there = there.parent_path();
  }
  const auto free = io::free_bytes(there);
  return Error(error.code(),
               fmt::format("{} (a checkpoint needs {}, {} are free)", error.what(),
                           io::readable_bytes(planned_checkpoint_bytes(deck)),
                           free < 0 ? "unknown" : io::readable_bytes(free)),
               error.ranks());
}

RunSaver::RunSaver(const Deck& deck, comm::ProcessGrid& grid, io::RunFolder& folder, Say say,
                   std::function<void(const std::string&)> record,
                   std::function<void()> before_files)
    : deck_(deck),
      grid_(grid),
      folder_(folder),
      say_(std::move(say)),
      record_(std::move(record)),
      saver_(grid.communicator(), folder.checkpoints(),
             options_of(deck.checkpoint, grid.gpu() != nullptr),
             [root = grid.root(), before = std::move(before_files)](std::string_view phase) {
               if (root && (phase == "layout" || phase == "publish" || phase == "prune")) before();
             }) {}

void RunSaver::keep_choices(Trainer& trainer) {
  if (grid_.gpu() == nullptr) return;
  const auto texts = comm::all_gather(grid_.world(), trainer.kernels().choices_text());
  comm::together(grid_.world(), [&] {
    if (grid_.root()) folder_.write_choices(texts);
  });
}

void RunSaver::prepare(Trainer& trainer, double last_seconds) {
  if (deck_.checkpoint.async) {
    comm::together(grid_.world(), [&] { trainer.pin_records(); });
  }
  std::vector<comm::TensorRecord> records;
  comm::together(grid_.world(), [&] { records = trainer.records(); });
  saver_.prepare(records);
  const auto bytes = io::checkpoint_bytes(records, deck_.checkpoint.alignment);
  const auto hosts = (grid_.world().size() + grid_.local_size() - 1) / grid_.local_size();
  const double expected = last_seconds > 0 ? last_seconds : estimated_seconds(bytes / hosts);
  // Rank 0's: the others do not read records.
  longest_ = comm::all_reduce(grid_.world(), grid_.root() ? expected : 0.0, comm::ReduceOp::kMax);
}

void RunSaver::save(Trainer& trainer, bool prune) {
  const comm::ProfileRange range("saving the checkpoint");
  const auto begin = Clock::now();
  if (saver_.pending()) {
    finish();  // before its records are written over
    const double waited =
        comm::all_reduce(grid_.world(), std::chrono::duration<double>(Clock::now() - begin).count(),
                         comm::ReduceOp::kMax);
    if (waited > kLongWait) {
      say_(fmt::format("warning: waited {:.2f} s for the save before this one\n", waited));
    }
  }
  io::CheckpointInfo info;
  info.step = trainer.completed();
  info.next_sample = trainer.next_sample();
  info.data_fingerprint = trainer.train_file().fingerprint();
  info.guard = trainer.guard_text();
  info.deck = deck_.resolved;
  info.provenance = fmt::format(
      "{{\"program\": \"pentagrid {}\", \"grid\": {}, \"ranks\": {}, \"host\": {}, "
      "\"threads\": {}, \"seed\": {}, \"unix_time\": {}, \"tokenizer\": {}}}",
      PG_VERSION, io::json_string(grid_.shape().text()), grid_.world().size(),
      io::json_string(grid_.host()), deck_.run.threads, deck_.run.seed, std::time(nullptr),
      io::json_string(tokenizer_identity(trainer.train_file())));
  keep_choices(trainer);
  saving_ = &trainer;
  // Out of the GPU, and the check of replicas: training waits for that as for the copy.
  const auto fetching = Clock::now();
  const auto records = trainer.records_to_save();
  const double fetched = std::chrono::duration<double>(Clock::now() - fetching).count();
  fetch_seconds_ = comm::all_reduce(grid_.world(), fetched, comm::ReduceOp::kMax);
  saver_.start(info, records, prune);
  if (!deck_.checkpoint.async) finish();
}

void RunSaver::poll() {
  tell(saver_.poll());
}

void RunSaver::finish() {
  tell(saver_.finish());
}

void RunSaver::finish_after(const Error& error) noexcept {
  if (!saver_.pending() || error.ranks() != grid_.world().size()) return;
  try {
    finish();
  } catch (const std::exception& second) {
    say_(fmt::format("warning: {}\n", second.what()));
  }
}

void RunSaver::tell(const std::optional<io::SaveReport>& report) {
  if (!report) return;
  // Memory of the copy on the host stays for the next asynchronous one, which then stalls less.
  if (!deck_.checkpoint.async) saving_->saved();
  const double stall = fetch_seconds_ + report->stall_seconds;
  const double work = fetch_seconds_ + report->work_seconds;
  // A blocking one is all stall, agreement and pruning included.
  const double whole = deck_.checkpoint.async ? work : stall;
  longest_ = measured_ ? std::max(longest_, whole) : whole;
  measured_ = true;
  const auto bytes = static_cast<double>(report->bytes);
  comm::together(grid_.world(), [&] {
    if (!grid_.root()) return;
    record_(
        fmt::format("{{\"step\": {}, \"save_s\": {}, \"save_work_s\": {}, \"save_stall_s\": {}, "
                    "\"save_bytes\": {}}}",
                    report->step, io::json_number(fetch_seconds_ + report->seconds),
                    io::json_number(work), io::json_number(stall), report->bytes));
  });
  for (const auto& warning : report->warnings) say_(fmt::format("warning: {}\n", warning));
  // Not the seconds till the commit: those of an asynchronous save count steps of training.
  say_(fmt::format("saved {} | {} | {:.2f} s, {}/s | training stalled {:.2f} s\n",
                   report->path.string(), bytes_text(bytes), work, bytes_text(bytes / work),
                   stall));
}

}  // namespace pg::app

#include "app/run_saver.h"

#include <chrono>
#include <ctime>

#include "app/console.h"
#include "app/resume_check.h"
#include "comm/agree.h"
#include "comm/profile_range.h"
#include "io/checkpoint.h"

namespace pg::app {

using Clock = std::chrono::steady_clock;

void RunSaver::keep_choices(Trainer& trainer) {
  if (grid_.gpu() == nullptr) return;
  const auto texts = comm::all_gather(grid_.world(), trainer.kernels().choices_text());
  comm::together(grid_.world(), [&] {
    if (grid_.root()) folder_.write_choices(texts);
  });
}

void RunSaver::save(Trainer& trainer) {
  const comm::ProfileRange range("saving the checkpoint");
  const auto begin = Clock::now();
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
  const auto records = trainer.records_to_save();
  const auto path = io::save_checkpoint(grid_.communicator(), folder_.checkpoints(), info, records);
  trainer.saved();
  comm::together(grid_.world(), [&] {
    if (grid_.root()) {
      io::prune_checkpoints(folder_.checkpoints(), deck_.checkpoint.keep, info.step);
    }
  });
  const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  longest_ = std::max(longest_, comm::all_reduce(grid_.world(), seconds, comm::ReduceOp::kMax));
  say_(fmt::format("saved {} | {} | {:.2f} s\n", path.string(),
                   bytes_text(static_cast<double>(io::checkpoint_bytes(records))), seconds));
}

}  // namespace pg::app

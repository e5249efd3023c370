#include "app/resume.h"

#include <fmt/ranges.h>

#include "app/resume_check.h"
#include "comm/agree.h"
#include "io/checkpoint.h"

namespace pg::app {

namespace {

// Going on from an older checkpoint would leave newer ones of a branch that no longer is: a later
// "latest" would take them for this run's.
void refuse_abandoned(const Deck& deck, const io::RunFolder& folder,
                      const std::filesystem::path& entry) {
  const auto entries = io::list_checkpoints(folder.checkpoints());
  const auto& resume = deck.checkpoint.resume;
  if (resume == "auto" || resume == "latest" || entries.empty()) return;
  const auto step = io::read_checkpoint_info(entry).step;
  if (entries.front().step > step) {
    throw fail(ExitCode::kCheckpoint,
               "checkpoint.resume: {} is of step {}, but run.output = {} holds step {} already "
               "(legal: another run.output, or \"latest\")",
               entry.string(), step, deck.run.output, entries.front().step);
  }
}

}  // namespace

std::string find_resume(const Deck& deck, comm::Group& world, const io::RunFolder& folder,
                        const Say& say) {
  std::string found;
  comm::together(world, [&] {
    if (world.rank() != 0) return;
    if (deck.checkpoint.resume == "none") {
      if (!folder.holds_run()) return;
      throw fail(ExitCode::kDeck,
                 "run.output: {} already holds a run (legal: another folder, or "
                 "checkpoint.resume = \"auto\", \"latest\" or a path)",
                 deck.run.output);
    }
    std::vector<std::string> notes;
    const auto entry = io::find_checkpoint(folder.checkpoints(), deck.checkpoint.resume, notes);
    for (const auto& note : notes) say("warning: " + note + "\n");
    if (!entry) return;
    found = entry->string();
    refuse_abandoned(deck, folder, *entry);
  });
  return comm::broadcast(world, found, 0);
}

void load_resume(const Deck& deck, comm::ProcessGrid& grid, const std::string& entry,
                 Trainer& trainer, const Say& /*say*/) {
  io::CheckpointInfo info;
  comm::together(grid.world(), [&] {
    info = io::read_checkpoint_info(entry);
    auto differences = resume_differences(info.deck, deck, entry);
    if (info.data_fingerprint != trainer.train_file().fingerprint()) {
      differences.push_back(fmt::format("data.train: {} has the fingerprint {}, was {}",
                                        deck.data.train, trainer.train_file().fingerprint(),
                                        info.data_fingerprint));
    }
    if (!differences.empty()) {
      throw fail(ExitCode::kCheckpoint, "{}: was made by another run:\n{}", entry,
                 fmt::join(differences, "\n"));
    }
    trainer.set_guard(info.guard);
  });
  io::load_checkpoint(grid.communicator(), entry, trainer.records());
  trainer.loaded();
  trainer.set_progress(info.step, info.next_sample);
}

}  // namespace pg::app

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

double gib(std::int64_t bytes) {
  return static_cast<double>(bytes) / static_cast<double>(std::int64_t{1} << 30);
}

std::string resumed_text(std::int64_t step, const io::VerifiedEntry& entry,
                         const io::LoadReport& load) {
  return fmt::format(
      "resumed step {} from {} | {:.2f} GiB verified in {:.1f} s | {:.2f} GiB a rank (max), read "
      "in {:.1f} s, {:.2f} GiB/s\n",
      step, entry.path.string(), gib(entry.bytes), entry.seconds, gib(load.most_bytes),
      load.seconds, gib(load.total_bytes) / load.seconds);
}

}  // namespace

std::optional<io::VerifiedEntry> find_resume(const Deck& deck, comm::Group& world,
                                             const io::RunFolder& folder, const Say& say) {
  comm::together(world, [&] {
    if (world.rank() != 0 || deck.checkpoint.resume != "none" || !folder.holds_run()) return;
    throw fail(ExitCode::kDeck,
               "run.output: {} already holds a run (legal: another folder, or "
               "checkpoint.resume = \"auto\", \"latest\" or a path)",
               deck.run.output);
  });
  std::vector<std::string> notes;
  auto entry = io::find_checkpoint(world, folder.checkpoints(), deck.checkpoint.resume, notes);
  for (const auto& note : notes) say("warning: " + note + "\n");
  comm::together(world, [&] {
    if (world.rank() == 0 && entry) refuse_abandoned(deck, folder, entry->path);
  });
  return entry;
}

void load_resume(const Deck& deck, comm::ProcessGrid& grid, const io::VerifiedEntry& entry,
                 Trainer& trainer, const Say& say) {
  io::CheckpointInfo info;
  const auto path = entry.path.string();
  comm::together(grid.world(), [&] {
    info = io::read_checkpoint_info(entry.path);
    auto differences = resume_differences(info.deck, deck, path);
    if (info.data_fingerprint != trainer.train_file().fingerprint()) {
      differences.push_back(fmt::format("data.train: {} has the fingerprint {}, was {}",
                                        deck.data.train, trainer.train_file().fingerprint(),
                                        info.data_fingerprint));
    }
    if (!differences.empty()) {
      throw fail(ExitCode::kCheckpoint, "{}: was made by another run:\n{}", path,
                 fmt::join(differences, "\n"));
    }
  });
  const auto report = io::load_checkpoint(grid.communicator(), entry.path, trainer.records());
  trainer.loaded();
  trainer.set_progress(info.step, info.next_sample);
  say(resumed_text(info.step, entry, report));
}

}  // namespace pg::app

#include "app/resume.h"

#include <fmt/ranges.h>

#include "app/resume_check.h"
#include "comm/agree.h"
#include "io/checkpoint.h"
#include "io/run_folder.h"

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

namespace {

// run.json's provenance names the tokenizer; empty when it does not.
DataIdentity stored_data(const io::CheckpointInfo& info) {
  return {info.data_fingerprint, io::json_member(info.provenance, "tokenizer")};
}

// Error(kCheckpoint) listing everything that makes `deck` another run's. What was overridden is
// told.
void require_same_run(const io::CheckpointInfo& info, const Deck& deck, const io::TokenFile& data,
                      const std::string& entry, const Say& say) {
  const auto differences = compare_runs(info.deck, stored_data(info), deck,
                                        {data.fingerprint(), tokenizer_identity(data)}, entry);
  if (!differences.refused.empty()) {
    auto lines = differences.refused;
    if (!differences.may_name.empty()) {
      lines.push_back(fmt::format("checkpoint.override: those it names may differ: {}",
                                  fmt::join(differences.may_name, ", ")));
    }
    throw fail(ExitCode::kCheckpoint, "{}: was made by another run:\n{}", entry,
               fmt::join(lines, "\n"));
  }
  for (const auto& line : differences.overridden) say("overridden: " + line + "\n");
  for (const auto& key : differences.idle) {
    say(fmt::format("note: checkpoint.override: {} is as it was\n", key));
  }
}

}  // namespace

void load_resume(const Deck& deck, comm::ProcessGrid& grid, const std::string& entry,
                 Trainer& trainer, const Say& say) {
  io::CheckpointInfo info;
  comm::together(grid.world(), [&] {
    info = io::read_checkpoint_info(entry);
    require_same_run(info, deck, trainer.train_file(), entry, say);
    trainer.set_guard(info.guard);
  });
  io::load_checkpoint(grid.communicator(), entry, trainer.records());
  trainer.loaded();
  trainer.set_progress(info.step, info.next_sample);
}

}  // namespace pg::app

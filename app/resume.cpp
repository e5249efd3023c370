#include "app/resume.h"

#include <fmt/ranges.h>

#include "app/console.h"
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

std::string resumed_text(std::int64_t step, const io::VerifiedEntry& entry,
                         const io::LoadReport& load) {
  const auto text = [](auto bytes) { return bytes_text(static_cast<double>(bytes)); };
  return fmt::format(
      "resumed step {} from {} | {} verified in {:.2f} s | {} a rank (max), read in {:.2f} s, "
      "{}/s\n",
      step, entry.path.string(), text(entry.bytes), entry.seconds, text(load.most_bytes),
      load.seconds, text(static_cast<double>(load.total_bytes) / load.seconds));
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
    require_same_run(info, deck, trainer.train_file(), path, say);
    trainer.set_guard(info.guard);
  });
  const auto report = io::load_checkpoint(grid.communicator(), entry.path, trainer.records());
  trainer.loaded();
  trainer.set_progress(info.step, info.next_sample);
  say(resumed_text(info.step, entry, report));
}

}  // namespace pg::app

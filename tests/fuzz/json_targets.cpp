// Targets whose files are JSON.
#include <fstream>

#include "io/checkpoint.h"
#include "io/files.h"
#include "io/manifest.h"
#include "io/run_folder.h"
#include "tests/fuzz/scratch.h"
#include "tests/fuzz/targets.h"

namespace pg::fuzz {

void manifest(std::string_view input) {
  const auto read = [](std::string_view text) {
    done_or_refused({ExitCode::kCheckpoint}, [&] {
      const auto values = io::parse_manifest(text, "manifest.json");
      require(io::render_manifest(values) == text, "a manifest has a second text");
    });
  };
  read(input);
  constexpr std::string_view kDigest = "  \"xxh3_128_of_the_bytes_above\"";
  if (const auto at = input.rfind(kDigest); at != input.npos) {
    const auto above = std::string(input.substr(0, at));
    read(above + std::string(kDigest) + ": \"" + io::digest_of_text(above) + "\"\n}\n");
  }
}

void run_json(std::string_view input) {
  const auto& scratch = Scratch::shared();
  scratch.put("run.json", input);
  scratch.put("deck.toml", "[run]\n");
  done_or_refused({ExitCode::kCheckpoint}, [&] {
    const auto info = io::read_checkpoint_info(scratch.path());
    require(info.step >= 0 && info.next_sample >= 0, "a negative step");
  });
}

void choices(std::string_view input) {
  const auto& scratch = Scratch::shared();
  scratch.put("choices.json", input);
  const io::RunFolder folder(scratch.path());
  for (const auto& text : folder.read_choices()) require(text.size() <= input.size(), "longer");
}

void metrics(std::string_view input) {
  const auto path = Scratch::shared().put("metrics.jsonl", input);
  const io::RunFolder folder(Scratch::shared().path());
  const auto cut = folder.cut_evaluations(5);
  { io::MetricsWriter(path, 5).write("{\"step\": 6}"); }
  std::ifstream in(path, std::ios::binary);
  const std::string kept{std::istreambuf_iterator<char>(in), {}};
  require(kept.ends_with("{\"step\": 6}\n"), "the new record is not the last line");
  require(folder.cut_evaluations(5) == cut, "other cut evaluations after what was not kept");
  require(kept.size() <= input.size() + 14, "more was kept than there was");
  { const io::MetricsWriter again(path, 5); }
  std::ifstream in_again(path, std::ios::binary);
  const std::string twice{std::istreambuf_iterator<char>(in_again), {}};
  require(twice + "{\"step\": 6}\n" == kept, "a second opening keeps something else");
}

}  // namespace pg::fuzz

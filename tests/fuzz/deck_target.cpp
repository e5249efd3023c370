// The deck: TOML and overrides, through the table of keys.
#include "app/schema.h"
#include "tests/fuzz/scratch.h"
#include "tests/fuzz/targets.h"

namespace pg::fuzz {

void deck(std::string_view input) {
  constexpr std::string_view kMark = "\n%%\n";
  const auto mark = std::min(input.find(kMark), input.size());
  const auto text = input.substr(0, mark);
  std::vector<std::string> overrides;
  for (auto rest = input.substr(std::min(mark + kMark.size(), input.size())); !rest.empty();) {
    const auto end = std::min(rest.find('\n'), rest.size());
    overrides.emplace_back(rest.substr(0, end));
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  for (const auto purpose : {app::Purpose::kTrain, app::Purpose::kCheck, app::Purpose::kPrepare}) {
    const int ranks = purpose == app::Purpose::kTrain ? 4 : 0;
    done_or_refused({ExitCode::kDeck}, [&] {
      const auto read = app::parse_deck(text, "fuzz.toml", overrides, purpose, ranks);
      const auto again = app::parse_deck(read.resolved, "fuzz.toml", {}, purpose, ranks);
      require(again == read, "the resolved deck reads back as another one");
    });
  }
}

}  // namespace pg::fuzz

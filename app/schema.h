// The deck's one table of keys, and reading a deck by it: defaults, ranges, cross checks.
//
// The table parses, checks, documents (`pentagrid help`) and dumps; no key is named twice. Callers
// get a Deck that is whole and legal, or Error(kDeck) with everything that is wrong with it.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "app/deck.h"
#include "comm/group.h"
#include "io/deck.h"

namespace pg::app {

// What the deck is read for; it decides which keys are required.
enum class Purpose : unsigned { kTrain = 1, kCheck = 2, kPrepare = 4 };

// How a key and a field of Deck correspond. Reserved keys may have no field.
struct Field {
  io::KeyType type = io::KeyType::kInt;
  std::vector<std::string> choices;
  std::function<void(Deck&, const io::DeckValue&)> set;
  std::function<io::DeckValue(const Deck&)> get;
};

struct SchemaKey {
  io::KeySpec spec;
  Field field;
  unsigned needed_by = 0;  // Purposes that require it
};

struct SchemaSection {
  std::string name, summary;
  std::string notes;  // formulas and rules over several keys; lines that help prints as they are
};

const std::vector<SchemaSection>& deck_sections();
const std::vector<SchemaKey>& deck_schema();
// The specs of deck_schema(), in its order: what the engine in io/ takes.
const std::vector<io::KeySpec>& deck_keys();

// One deck's text. `ranks` is the number of ranks it must fit; 0: not known. `file` names it in
// messages and gives run.name its default.
Deck parse_deck(std::string_view text, const std::string& file,
                const std::vector<std::string>& overrides, Purpose purpose, int ranks);

// What Deck::resolved holds: canonical TOML of every key that can be set.
std::string resolved_text(const Deck& deck);

// Reads the file at `path`. With a group (collective): rank 0 alone reads and checks, with its own
// overrides; all ranks return the same Deck or throw the same Error(kDeck).
Deck read_deck(comm::Group* world, const std::filesystem::path& path,
               const std::vector<std::string>& overrides, Purpose purpose, int ranks);

// Fills in what depends on other keys, and refuses what does not fit together. Called by
// parse_deck.
void derive_defaults(Deck& deck, const io::DeckReader& reader, const std::string& file);
void cross_check(const Deck& deck, io::DeckReader& reader, Purpose purpose, int ranks);

}  // namespace pg::app

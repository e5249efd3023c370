// Text to Deck by the table, on one rank or on all of them.
#include "app/schema.h"

#include "comm/error.h"
#include "io/deck_toml.h"

namespace pg::app {
namespace {

// The first byte of what rank 0 broadcasts.
constexpr char kIsDeck = 'D', kIsError = 'E';

}  // namespace

const std::vector<io::KeySpec>& deck_keys() {
  static const auto specs = [] {
    std::vector<io::KeySpec> out;
    for (const auto& key : deck_schema()) out.push_back(key.spec);
    return out;
  }();
  return specs;
}

std::string resolved_text(const Deck& deck) {
  std::vector<std::optional<io::DeckValue>> values;
  for (const auto& key : deck_schema()) {
    const bool held = key.field.get != nullptr;
    values.push_back(held ? std::optional(key.field.get(deck)) : std::nullopt);
  }
  return io::write_deck(deck_keys(), values);
}

Deck parse_deck(std::string_view text, const std::string& file,
                const std::vector<std::string>& overrides, Purpose purpose, int ranks) {
  io::DeckReader reader(deck_keys(), file);
  for (const auto& argument : overrides) reader.override_with(argument);
  reader.read(text);

  Deck deck;
  for (const auto& key : deck_schema()) {
    const auto name = key.spec.name();
    if (const auto value = reader.value(key.spec)) {
      if (key.field.set) key.field.set(deck, *value);
    }
    const bool needed = key.needed_by & static_cast<unsigned>(purpose);
    if (needed && !reader.given(name) && reader.sound({name.c_str()})) {
      reader.refuse(name, "it is required; it takes " + key.spec.legal_values());
    }
  }
  derive_defaults(deck, reader, file);
  cross_check(deck, reader, purpose, ranks);
  reader.finish();

  deck.resolved = resolved_text(deck);
  return deck;
}

Deck read_deck(comm::Group* world, const std::filesystem::path& path,
               const std::vector<std::string>& overrides, Purpose purpose, int ranks) {
  const auto read_here = [&] {
    return parse_deck(io::read_deck_text(path), path.string(), overrides, purpose, ranks);
  };
  if (!world || world->size() == 1) return read_here();

  // The canonical text is what travels: it reads back to an equal Deck.
  Deck deck;
  std::string message;
  if (world->rank() == 0) {
    try {
      deck = read_here();
      message = kIsDeck + deck.resolved;
    } catch (const Error& error) {
      // Every other failure is a bug of this rank alone, which main() turns into an abort.
      if (error.code() != ExitCode::kDeck) throw;
      message = std::string(1, kIsError) + error.what();
    }
  }
  message = comm::broadcast(*world, std::move(message), 0);
  const auto body = message.substr(1);
  if (message[0] == kIsError) throw Error(ExitCode::kDeck, body, world->size());
  if (world->rank() == 0) return deck;
  return parse_deck(body, path.string(), {}, purpose, ranks);
}

}  // namespace pg::app

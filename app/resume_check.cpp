#include "app/resume_check.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "app/schema.h"
#include "comm/error.h"

namespace pg::app {

namespace {

// These may change: they move no weight and no sample. So may run.precision between those that keep
// their exact weights in one type.
constexpr std::array kFree{"model.dropout", "model.max_seq"};
constexpr std::array kFixed{"run.seed", "train.seq"};

bool must_stay(const std::string& name) {
  const auto in = [&](const auto& names) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  return in(kFixed) || (name.starts_with("model.") && !in(kFree));
}

// Its digests hold, so a deck that does not read was not written by this program's table of keys.
Deck stored_deck(const std::string& text, const std::string& entry) {
  try {
    return parse_deck(text, entry + "/deck.toml", {}, Purpose::kCheck, 0);
  } catch (const Error& error) {
    throw Error(ExitCode::kCheckpoint, error.what());
  }
}

}  // namespace

std::vector<std::string> resume_differences(const std::string& stored, const Deck& deck,
                                            const std::string& entry) {
  const auto before = stored_deck(stored, entry);
  std::vector<std::string> differences;
  const auto was_exact = before.run.precision == DType::kF64;
  const auto is_exact = deck.run.precision == DType::kF64;
  if (was_exact != is_exact) {
    differences.push_back(
        fmt::format("run.precision: {}, was {} (legal: {})", dtype_name(deck.run.precision),
                    dtype_name(before.run.precision), was_exact ? "fp64" : "fp32, bf16"));
  }
  for (const auto& key : deck_schema()) {
    const auto name = key.spec.name();
    if (!must_stay(name) || key.field.get == nullptr) continue;
    const auto was = key.field.get(before), is = key.field.get(deck);
    if (was != is) {
      differences.push_back(
          fmt::format("{}: {}, was {}", name, io::toml_text(is), io::toml_text(was)));
    }
  }
  return differences;
}

}  // namespace pg::app

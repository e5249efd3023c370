#include "app/resume_check.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "app/expert_checks.h"
#include "app/schema.h"
#include "comm/error.h"

namespace pg::app {

namespace {

// These may change: they move no weight and no sample, as little as those of the optimizer. So may
// run.precision between those that keep their exact weights in one type.
constexpr std::array kFree{"model.dropout", "model.max_seq", "moe.aux_loss", "moe.z_loss",
                           "moe.bias_update"};
constexpr std::array kFixed{"run.seed", "train.seq", "data.mask_documents"};

bool in(const auto& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

bool must_stay(const std::string& name) {
  return in(kFixed, name) ||
         ((name.starts_with("model.") || name.starts_with("moe.")) && !in(kFree, name));
}

// Widths that no block has are written all the same, with a default that follows another key.
bool is_used(const std::string& name, const model::ModelConfig& model) {
  if (name == "model.ffn") return has_dense_blocks(model);
  if (name == "moe.ffn") return has_expert_blocks(model);
  return true;
}

// Whether a router keeps biases, which a checkpoint holds; how far they move in a step is free.
bool balances_by_bias(const Deck& deck) {
  return deck.model.moe.bias_update > 0;
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
  if (balances_by_bias(before) != balances_by_bias(deck)) {
    differences.push_back(fmt::format("moe.bias_update: {}, was {} (legal: {})",
                                      deck.model.moe.bias_update, before.model.moe.bias_update,
                                      balances_by_bias(before) ? "more than 0" : "0"));
  }
  for (const auto& key : deck_schema()) {
    const auto name = key.spec.name();
    if (!must_stay(name) || key.field.get == nullptr) continue;
    if (!is_used(name, before.model) && !is_used(name, deck.model)) continue;
    const auto was = key.field.get(before), is = key.field.get(deck);
    if (was != is) {
      differences.push_back(
          fmt::format("{}: {}, was {}", name, io::toml_text(is), io::toml_text(was)));
    }
  }
  return differences;
}

}  // namespace pg::app

#include "app/resume_check.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "app/expert_checks.h"
#include "app/schema.h"
#include "comm/error.h"
#include "io/xxh3.h"

namespace pg::app {

namespace {

// Sections that say what is trained, and keys of others that do.
constexpr std::array kSections{"model.", "moe.", "optimizer.", "schedule."};
constexpr std::array kKeys{"run.seed", "train.steps", "train.seq", "train.global_batch",
                           "data.mask_documents"};

// Tensors of another model would not fit, or would fit and mean something else.
constexpr std::array kShapes{
    "model.layers", "model.hidden",         "model.heads", "model.kv_heads",   "model.head_dim",
    "model.ffn",    "model.vocab",          "model.norm",  "model.activation", "model.position",
    "model.bias",   "model.tie_embeddings", "moe.experts", "moe.ffn",          "moe.shared_experts",
    "moe.every",    "optimizer.kind"};

bool in(const auto& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

bool is_compared(const std::string& name) {
  const auto begins = [&](const char* section) { return name.starts_with(section); };
  return in(kKeys, name) || std::any_of(kSections.begin(), kSections.end(), begins);
}

// What no block or embedding has is written all the same, with a default that follows another key.
bool is_used(const std::string& name, const model::ModelConfig& model) {
  if (name == "model.ffn") return has_dense_blocks(model);
  if (name == "moe.ffn") return has_expert_blocks(model);
  if (name == "model.max_seq") return model.position == model::PositionKind::kLearned;
  return true;
}

// Whether a router keeps biases, which a checkpoint holds.
bool balances_by_bias(const Deck& deck) {
  return deck.model.moe.bias_update > 0;
}

// Its digests hold, so a deck that does not read was not written by this program's table of keys.
Deck stored_deck_of(const std::string& text, const std::string& entry) {
  try {
    return parse_deck(text, entry + "/deck.toml", {}, Purpose::kCheck, 0);
  } catch (const Error& error) {
    throw Error(ExitCode::kCheckpoint, error.what());
  }
}

class Comparison {
 public:
  explicit Comparison(const std::vector<std::string>& overrides) : overrides_(overrides) {}

  void differs(const std::string& key, const std::string& what, bool can_be_overridden = true) {
    differing_.push_back(key);
    const auto line = key + ": " + what;
    if (can_be_overridden && in(overrides_, key)) {
      result_.overridden.push_back(line);
      return;
    }
    result_.refused.push_back(line);
    if (can_be_overridden) result_.may_name.push_back(key);
  }

  Differences result() {
    for (const auto& name : overrides_) {
      if (!in(differing_, name)) result_.idle.push_back(name);
    }
    return std::move(result_);
  }

 private:
  const std::vector<std::string>& overrides_;
  std::vector<std::string> differing_;
  Differences result_;
};

// Differences that no override can bridge, whose keys else may change: what the state consists of.
void compare_state(const Deck& before, const Deck& deck, Comparison& comparison) {
  const auto was_exact = before.run.precision == DType::kF64;
  if (was_exact != (deck.run.precision == DType::kF64)) {
    comparison.differs(
        "run.precision",
        fmt::format("{}, was {} (legal: {})", dtype_name(deck.run.precision),
                    dtype_name(before.run.precision), was_exact ? "fp64" : "fp32, bf16"),
        /*can_be_overridden=*/false);
  }
  if (balances_by_bias(before) != balances_by_bias(deck)) {
    comparison.differs(
        "moe.bias_update",
        fmt::format("{}, was {} (legal: {})", deck.model.moe.bias_update,
                    before.model.moe.bias_update, balances_by_bias(before) ? "more than 0" : "0"),
        /*can_be_overridden=*/false);
  }
}

}  // namespace

std::string tokenizer_identity(const io::TokenFile& file) {
  if (file.tokenizer() == "bytes") return "bytes";
  io::Xxh3 digest;
  digest.update(file.tokenizer());
  return digest.hex();
}

std::string why_no_override(const std::string& key) {
  if (!in(kShapes, key)) return "";
  return "the checkpoint's tensors would not fit, or would mean something else";
}

Differences compare_runs(const std::string& stored_deck, const DataIdentity& stored_data,
                         const Deck& deck, const DataIdentity& data, const std::string& entry) {
  const auto before = stored_deck_of(stored_deck, entry);
  Comparison comparison(deck.checkpoint.overrides);
  compare_state(before, deck, comparison);
  for (const auto& key : deck_schema()) {
    const auto name = key.spec.name();
    if (!is_compared(name) || key.field.get == nullptr) continue;
    if (!is_used(name, before.model) && !is_used(name, deck.model)) continue;
    if (name == "moe.bias_update" && balances_by_bias(before) != balances_by_bias(deck)) continue;
    const auto was = key.field.get(before), is = key.field.get(deck);
    if (was == is) continue;
    // Rows of learned positions.
    const bool shape = !why_no_override(name).empty() || name == "model.max_seq";
    comparison.differs(name, fmt::format("{}, was {}", io::toml_text(is), io::toml_text(was)),
                       !shape);
  }
  if (stored_data.fingerprint != data.fingerprint) {
    comparison.differs("data.train",
                       fmt::format("{} has the fingerprint {}, was {}", deck.data.train,
                                   data.fingerprint, stored_data.fingerprint));
  }
  if (!stored_data.tokenizer.empty() && stored_data.tokenizer != data.tokenizer) {
    comparison.differs("data.tokenizer", fmt::format("{} was made with {}, was {}", deck.data.train,
                                                     data.tokenizer, stored_data.tokenizer));
  }
  return comparison.result();
}

}  // namespace pg::app

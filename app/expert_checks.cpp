#include "app/expert_checks.h"

#include <fmt/format.h>

#include <string>

namespace pg::app {

namespace {

using model::MoeConfig;
using model::RouterKind;

// Refuses a key that has been refused by nobody yet.
void refuse(io::DeckReader& reader, const char* key, const std::string& what) {
  if (reader.sound({key})) reader.refuse(key, what);
}

// Without experts every key of the section but the widths would be ignored. (moe.ffn has the value
// of model.ffn in a resolved deck, whatever that is.)
void check_dense(const MoeConfig& moe, io::DeckReader& reader) {
  const MoeConfig unset;
  const auto ignored = [&](bool is_set, const char* key, const std::string& legal) {
    if (!is_set) return;
    refuse(reader, key, fmt::format("moe.experts = 0 makes every block dense (legal: {})", legal));
  };
  if (moe.router != unset.router) {  // which has defaults of its own for two other keys
    ignored(true, "moe.router", fmt::format("\"{}\"", router_name(unset.router)));
  } else {
    ignored(moe.top_k != unset.top_k, "moe.top_k", std::to_string(unset.top_k));
    ignored(moe.renormalize != unset.renormalize, "moe.renormalize", "true");
  }
  ignored(moe.capacity_factor != 0, "moe.capacity_factor", "0");
  ignored(moe.shared_experts != 0, "moe.shared_experts", "0");
  ignored(moe.every != 1, "moe.every", "1");
  ignored(moe.aux_loss != 0, "moe.aux_loss", "0");
  ignored(moe.z_loss != 0, "moe.z_loss", "0");
  ignored(moe.bias_update != 0, "moe.bias_update", "0");
}

void check_router(const MoeConfig& moe, io::DeckReader& reader) {
  if (moe.router == RouterKind::kSwitch) {
    if (moe.top_k != 1) {
      refuse(reader, "moe.top_k",
             fmt::format("moe.router = \"switch\" has one expert a token, not {} (legal: 1, or "
                         "moe.router = \"top_k\")",
                         moe.top_k));
    }
  } else if (moe.top_k > moe.experts) {
    refuse(reader, "moe.top_k",
           fmt::format("{} is more than moe.experts = {} (legal: {})", moe.top_k, moe.experts,
                       range_text(1, moe.experts)));
  }
  if (moe.router != RouterKind::kTopK && moe.renormalize) {
    refuse(reader, "moe.renormalize",
           fmt::format("moe.router = \"{}\" weights an expert with its probability among all "
                       "(legal: false, or moe.router = \"top_k\")",
                       router_name(moe.router)));
  }
  if (moe.router != RouterKind::kExpertChoice) return;
  const auto balanced = [&](double value, const char* key) {
    if (value == 0) return;
    refuse(reader, key,
           "moe.router = \"expert_choice\" gives every expert equally many tokens: there is "
           "nothing to drop or to balance (legal: 0)");
  };
  balanced(moe.capacity_factor, "moe.capacity_factor");
  balanced(moe.aux_loss, "moe.aux_loss");
  balanced(moe.bias_update, "moe.bias_update");
}

// Every rank lists all parameters of the model by name, three or more an expert: this many take
// some hundred megabytes. And the bytes of all of them together stay below 2^63.
void check_expert_sizes(const Deck& deck, io::DeckReader& reader) {
  constexpr std::int64_t kExpertsMax = 1 << 18;
  constexpr double kElementsMax = 0x1p52;
  const auto& moe = deck.model.moe;
  const auto blocks = expert_blocks(deck.model);
  if (const auto all = blocks * moe.experts; all > kExpertsMax) {
    return refuse(reader, "moe.experts",
                  fmt::format("{} in each of {} blocks are {} in all; {} is the limit", moe.experts,
                              blocks, all, kExpertsMax));
  }
  const double elements = 3.0 * static_cast<double>(blocks) *
                          static_cast<double>(moe.experts + moe.shared_experts) *
                          static_cast<double>(moe.ffn) * static_cast<double>(deck.model.hidden);
  if (elements > kElementsMax) {
    refuse(reader, "moe.experts",
           fmt::format("{} of hidden*ffn = {}*{} in each of {} blocks have about {:.1e} "
                       "parameters; {:.1e} is the limit",
                       moe.experts, deck.model.hidden, moe.ffn, blocks, elements, kElementsMax));
  }
}

}  // namespace

const char* router_name(RouterKind router) {
  switch (router) {
    case RouterKind::kTopK:
      return "top_k";
    case RouterKind::kSwitch:
      return "switch";
    case RouterKind::kExpertChoice:
      return "expert_choice";
  }
  return "?";
}

bool has_dense_blocks(const model::ModelConfig& model) {
  return model.moe.experts == 0 || model.moe.every > 1;
}

bool has_expert_blocks(const model::ModelConfig& model) {
  return expert_blocks(model) > 0;
}

std::int64_t expert_blocks(const model::ModelConfig& model) {
  return model.moe.experts == 0 ? 0 : model.layers / model.moe.every;
}

void add_expert_axis_problem(const Deck& deck, std::vector<CutProblem>& problems) {
  const auto ep = deck.grid.ep, experts = deck.model.moe.experts;
  if (ep > 1 && experts == 0) {
    problems.push_back(
        {"grid.ep", fmt::format("{} ranks share out a block's experts, and moe.experts = 0 has "
                                "none (legal: 1)",
                                ep)});
  } else if (experts % ep != 0) {
    problems.push_back({"grid.ep", fmt::format("{} does not divide moe.experts = {} (legal: {})",
                                               ep, experts, divisors_text(experts))});
  }
}

void check_experts(const Deck& deck, io::DeckReader& reader) {
  const auto& m = deck.model;
  if (!reader.sound({"moe.experts", "moe.router"})) return;
  if (m.moe.experts == 0) return check_dense(m.moe, reader);
  check_router(m.moe, reader);
  if (reader.sound({"model.layers", "moe.every"}) && m.layers > 0 && m.moe.every > m.layers) {
    refuse(reader, "moe.every",
           fmt::format("{} is more than model.layers = {}: no block would have experts (legal: {})",
                       m.moe.every, m.layers, range_text(1, m.layers)));
  }
  if (reader.sound(
          {"model.layers", "model.hidden", "moe.every", "moe.ffn", "moe.shared_experts"})) {
    check_expert_sizes(deck, reader);
  }
}

double expert_elements_a_token(const Deck& deck) {
  const auto& m = deck.model;
  const auto& moe = m.moe;
  if (moe.experts == 0) return 0.0;
  const auto number = [](std::int64_t n) { return static_cast<double>(n); };
  // Rows that leave, arrive, are computed and return; gates, up, hidden and their gradients.
  const double copies = number(moe.top_k * deck.grid.ep) * number(4 * m.hidden + 4 * moe.ffn);
  return number(expert_blocks(m)) *
         (copies + number(4 * moe.shared_experts * moe.ffn) + number(4 * moe.experts));
}

}  // namespace pg::app

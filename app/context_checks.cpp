#include "app/context_checks.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <string>

#include "io/deck_format.h"

namespace pg::app {

namespace {

using model::ContextMethod;

// Parts of equal length that a sequence is cut into: zigzag gives each rank two.
std::int64_t chunks_of(ContextMethod method, std::int64_t cp) {
  return cp == 1 || method == ContextMethod::kUlysses ? cp : 2 * cp;
}

// Heads of a tp rank, which `ulysses` shares out. No check of its own where tp does not fit.
struct Heads {
  explicit Heads(const Deck& deck)
      : heads(deck.model.heads / deck.grid.tp),
        kv(std::max<std::int64_t>(1, deck.model.kv_heads / deck.grid.tp)) {}
  bool cuts_heads(std::int64_t cp) const { return heads % cp == 0; }
  bool cuts_kv(std::int64_t cp) const { return kv % cp == 0 || cp % kv == 0; }
  std::int64_t heads, kv;
};

bool fits(const Deck& deck, ContextMethod method, std::int64_t cp) {
  if (cp == 1) return true;
  const Heads heads(deck);
  return deck.train.seq % chunks_of(method, cp) == 0 &&
         (method != ContextMethod::kUlysses || (heads.cuts_heads(cp) && heads.cuts_kv(cp)));
}

std::int64_t unit_of(const Deck& deck, ContextMethod method, std::int64_t cp) {
  const auto chunks = chunks_of(method, cp);
  return deck.grid.sequence_parallel ? std::lcm(chunks, cp * deck.grid.tp) : chunks;
}

// Every cp that the deck's method allows, and the other methods that allow its cp.
std::string legal_cp(const Deck& deck) {
  const auto method = deck.context.method;
  constexpr std::size_t kShown = 24;
  std::vector<std::string> legal;
  for (std::int64_t cp = 1; cp <= deck.train.seq && legal.size() <= kShown; ++cp) {
    if (!fits(deck, method, cp) || deck.train.seq % unit_of(deck, method, cp) != 0) continue;
    legal.push_back(legal.size() == kShown ? "..." : std::to_string(cp));
  }
  // With grid.sequence_parallel = true on a tp that nothing fits, one part is the best there is.
  if (legal.empty()) legal.push_back("1");
  std::vector<std::string> others;
  for (const auto other :
       {ContextMethod::kRing, ContextMethod::kUlysses, ContextMethod::kAllGather}) {
    if (other != method && fits(deck, other, deck.grid.cp) &&
        deck.train.seq % unit_of(deck, other, deck.grid.cp) == 0) {
      others.push_back(fmt::format("\"{}\"", model::context_method_name(other)));
    }
  }
  auto text = io::comma_list(legal);
  if (!others.empty()) text += fmt::format(", or context.method = {}", fmt::join(others, " or "));
  return text;
}

// What the method does not like about grid.cp; empty when nothing.
std::string cp_problem(const Deck& deck) {
  const auto cp = deck.grid.cp, seq = deck.train.seq;
  const auto method = deck.context.method;
  const auto* name = model::context_method_name(method);
  if (method == ContextMethod::kUlysses) {
    const Heads heads(deck);
    const auto shared = [&](const char* key, std::int64_t all) {
      return fmt::format("{} / grid.tp = {}/{}, the heads of a tp rank", key, all, deck.grid.tp);
    };
    if (!heads.cuts_heads(cp)) {
      return fmt::format("{} does not divide {}, which \"ulysses\" shares out (legal: {})", cp,
                         shared("model.heads", deck.model.heads), legal_cp(deck));
    }
    if (!heads.cuts_kv(cp)) {
      return fmt::format(
          "{} neither divides {}, which \"ulysses\" shares out, nor is a multiple of it (legal: "
          "{})",
          cp, shared("model.kv_heads", deck.model.kv_heads), legal_cp(deck));
    }
  }
  if (const auto chunks = chunks_of(method, cp); seq % chunks != 0) {
    return fmt::format(
        "context.method = \"{}\" needs train.seq to be a multiple of {} = {}, and it is {} "
        "(legal: {}, or train.seq = {})",
        name, chunks == cp ? "cp" : "2*cp", chunks, seq, legal_cp(deck),
        multiples_text(seq, unit_of(deck, method, cp)));
  }
  return "";
}

// How much of a sequence sequence parallelism cuts: "train.seq = 32", or a part of it.
std::string part_text(std::int64_t seq, std::int64_t cp) {
  return cp == 1 ? fmt::format("train.seq = {}", seq)
                 : fmt::format("train.seq / grid.cp = {}/{}", seq, cp);
}

}  // namespace

std::int64_t sequence_unit(const Deck& deck) {
  return unit_of(deck, deck.context.method, deck.grid.cp);
}

void add_context_problems(const Deck& deck, std::vector<CutProblem>& problems) {
  const auto cp = deck.grid.cp, tp = deck.grid.tp, seq = deck.train.seq;
  // Heads that tp does not cut are reported there.
  const bool heads_known = deck.model.heads % tp == 0;
  if (cp > 1 && (deck.context.method != ContextMethod::kUlysses || heads_known)) {
    if (auto what = cp_problem(deck); !what.empty()) {
      problems.push_back({"grid.cp", std::move(what)});
      return;
    }
  }
  if (deck.grid.sequence_parallel && seq % cp == 0 && seq / cp % tp != 0) {
    problems.push_back(
        {"grid.sequence_parallel",
         fmt::format("it cuts {} over grid.tp = {}, which does not divide it "
                     "(legal: false, or train.seq = {})",
                     part_text(seq, cp), tp, multiples_text(seq, sequence_unit(deck)))});
  }
}

}  // namespace pg::app

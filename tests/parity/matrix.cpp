#include "matrix.h"

#include <fmt/format.h>

#include <unordered_set>

#include "app/parallel_plan.h"

namespace pg::testing {

const char* style_name(Style style) {
  return style == Style::kLlama ? "llama" : "gpt2";
}

app::Deck matrix_deck(Style style, const std::filesystem::path& tokens, DType precision) {
  auto deck = style == Style::kLlama ? llama_deck(tokens, precision) : gpt2_deck(tokens, precision);
  deck.model.layers = 5;
  deck.train.micro_batch = style == Style::kGpt2 ? 2 : 1;
  deck.train.global_batch = 12 * deck.train.micro_batch;
  if (style == Style::kLlama) {
    deck.model.heads = 8;
    deck.model.kv_heads = 2;
    deck.model.ffn = 40;
    deck.model.window = 5;
  } else {
    deck.model.heads = deck.model.kv_heads = 6;
    deck.model.head_dim = 5;
    deck.model.ffn = 54;
  }
  return deck;
}

namespace {

const char* recompute_name(const model::RecomputePlan& plan) {
  switch (plan.mode) {
    case model::Recompute::kNone:
      return "keep";
    case model::Recompute::kSelective:
      return "selective";
    case model::Recompute::kFull:
      return plan.layers == 0 ? "full" : "full2";
  }
  return "?";
}

}  // namespace

std::string MatrixCase::name() const {
  return fmt::format("{} dp{} tp{} pp{} zero{} {}{} {}{}", style_name(style), dp, tp, pp, zero,
                     model::schedule_name(schedule), chunks > 1 ? std::to_string(chunks) : "",
                     recompute_name(recompute), sequence_parallel ? " sp" : "");
}

app::Deck MatrixCase::deck(const std::filesystem::path& tokens, DType precision) const {
  auto deck = matrix_deck(style, tokens, precision);
  deck.grid.dp = dp;
  deck.grid.tp = tp;
  deck.grid.pp = pp;
  deck.grid.zero = zero;
  deck.grid.sequence_parallel = sequence_parallel;
  deck.pipeline.schedule = schedule;
  deck.pipeline.chunks = chunks;
  deck.recompute.mode = recompute.mode;
  deck.recompute.layers = recompute.layers;
  return deck;
}

std::vector<int> MatrixCase::factors() const {
  const int mode = static_cast<int>(recompute.mode) + (recompute.layers > 0 ? 1 : 0);
  return {static_cast<int>(style),  dp, tp, pp, zero, static_cast<int>(schedule), mode,
          sequence_parallel ? 1 : 0};
}

std::vector<MatrixCase> all_cases(int ranks) {
  using model::Recompute;
  using model::ScheduleKind;
  std::vector<MatrixCase> all;
  const std::vector<model::RecomputePlan> recomputes{{Recompute::kNone, 0},
                                                     {Recompute::kSelective, 0},
                                                     {Recompute::kFull, 0},
                                                     {Recompute::kFull, 2}};
  for (const auto style : {Style::kLlama, Style::kGpt2}) {
    for (const int dp : {1, 2, 3, 4}) {
      for (const int tp : {1, 2, 3, 4, 6, 8}) {
        for (const int pp : {1, 2, 3, 4, 5}) {
          for (int zero = 0; zero <= 3; ++zero) {
            for (const auto schedule :
                 {ScheduleKind::kGPipe, ScheduleKind::k1F1B, ScheduleKind::kInterleaved}) {
              for (const auto& recompute : recomputes) {
                for (const bool sequence : {false, true}) {
                  const int chunks = schedule == ScheduleKind::kInterleaved ? 2 : 1;
                  const MatrixCase c{style,    dp,     tp,        pp,      zero,
                                     schedule, chunks, recompute, sequence};
                  if (c.ranks() > ranks || (sequence && tp == 1)) continue;
                  if (!app::cut_problems(c.deck("", DType::kF64)).empty()) continue;
                  if (!model::schedule_problem({schedule, pp, chunks, 12 / dp}).empty()) continue;
                  all.push_back(c);
                }
              }
            }
          }
        }
      }
    }
  }
  return all;
}

std::vector<MatrixCase> covering(const std::vector<MatrixCase>& all) {
  // A combination of three factors' values as one number.
  const auto triples_of = [](const MatrixCase& c) {
    constexpr std::int64_t kValues = 16;
    std::vector<std::int64_t> triples;
    const auto f = c.factors();
    const auto n = static_cast<std::int64_t>(f.size());
    const auto at = [&](std::int64_t i) { return i * kValues + f[static_cast<std::size_t>(i)]; };
    for (std::int64_t i = 0; i < n; ++i) {
      for (std::int64_t j = i + 1; j < n; ++j) {
        for (std::int64_t k = j + 1; k < n; ++k) {
          triples.push_back((at(i) * n * kValues + at(j)) * n * kValues + at(k));
        }
      }
    }
    return triples;
  };
  std::unordered_set<std::int64_t> open;
  std::vector<std::vector<std::int64_t>> triples;
  for (const auto& c : all) {
    triples.push_back(triples_of(c));
    open.insert(triples.back().begin(), triples.back().end());
  }
  std::vector<MatrixCase> chosen;
  while (!open.empty()) {
    std::size_t best = 0, most = 0;
    for (std::size_t i = 0; i < all.size(); ++i) {
      std::size_t gain = 0;
      for (const auto triple : triples[i]) gain += open.count(triple);
      if (gain > most) {
        most = gain;
        best = i;
      }
    }
    for (const auto triple : triples[best]) open.erase(triple);
    chosen.push_back(all[best]);
  }
  return chosen;
}

}  // namespace pg::testing

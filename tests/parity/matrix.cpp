#include "matrix.h"

#include <fmt/format.h>

#include <algorithm>
#include <queue>
#include <utility>

#include "app/parallel_plan.h"

namespace pg::testing {

const char* style_name(Style style) {
  return style == Style::kLlama ? "llama" : "gpt2";
}

const char* feed_name(Feed feed) {
  constexpr const char* kNames[] = {"dense",  "top_k",    "shared",       "capacity",
                                    "switch", "balanced", "expert_choice"};
  return kNames[static_cast<int>(feed)];
}

const char* mask_name(Mask mask) {
  constexpr const char* kNames[] = {"style", "causal", "window", "documents", "documents+window"};
  return kNames[static_cast<int>(mask)];
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

const char* context_name(model::ContextMethod method) {
  constexpr const char* kNames[] = {"ring", "ulysses", "allgather"};
  return kNames[static_cast<int>(method)];
}

void set_experts(model::MoeConfig& moe, Feed feed) {
  if (feed == Feed::kDense) return;
  moe.experts = feed == Feed::kTopK ? 8 : 4;
  moe.ffn = 12;
  moe.renormalize =
      feed != Feed::kSwitch && feed != Feed::kExpertChoice && feed != Feed::kTopKShared;
  moe.z_loss = 0.01;
  moe.aux_loss = feed == Feed::kExpertChoice || feed == Feed::kBalanced ? 0.0 : 0.02;
  switch (feed) {
    case Feed::kDense:
    case Feed::kTopK:
      break;
    case Feed::kTopKShared:
      moe.shared_experts = 2;
      moe.every = 2;
      break;
    case Feed::kTopKCapacity:
      moe.capacity_factor = 1.0;
      break;
    case Feed::kSwitch:
      moe.router = model::RouterKind::kSwitch;
      moe.top_k = 1;
      moe.capacity_factor = 1.25;
      break;
    case Feed::kBalanced:
      moe.bias_update = 0.01;
      break;
    case Feed::kExpertChoice:
      moe.router = model::RouterKind::kExpertChoice;
      break;
  }
}

}  // namespace

std::string MatrixCase::name() const {
  auto name = fmt::format("{} dp{} tp{} pp{} zero{} {}{} {}{}", style_name(style), dp, tp, pp, zero,
                          model::schedule_name(schedule), chunks > 1 ? std::to_string(chunks) : "",
                          recompute_name(recompute), sequence_parallel ? " sp" : "");
  if (cp > 1) name += fmt::format(" cp{} {}", cp, context_name(context));
  if (mask != Mask::kStyle) name += fmt::format(" {}", mask_name(mask));
  if (feed != Feed::kDense) name += fmt::format(" ep{} {}", ep, feed_name(feed));
  if (sequences > 0) name += fmt::format(" x{}", sequences);
  return name;
}

app::Deck MatrixCase::deck(const std::filesystem::path& tokens, DType precision) const {
  auto deck = matrix_deck(style, tokens, precision);
  deck.grid.dp = dp;
  deck.grid.tp = tp;
  deck.grid.pp = pp;
  deck.grid.ep = ep;
  deck.grid.cp = cp;
  deck.grid.zero = zero;
  deck.grid.sequence_parallel = sequence_parallel;
  deck.pipeline.schedule = schedule;
  deck.pipeline.chunks = chunks;
  deck.context.method = context;
  deck.recompute.mode = recompute.mode;
  deck.recompute.layers = recompute.layers;
  set_experts(deck.model.moe, feed);
  if (mask != Mask::kStyle) {
    deck.model.window = mask == Mask::kWindow || mask == Mask::kDocumentsWindow ? 5 : 0;
    deck.data.mask_documents = mask == Mask::kDocuments || mask == Mask::kDocumentsWindow;
  }
  if (sequences > 0) {
    deck.model.layers = 4;
    deck.train.micro_batch = sequences;
    deck.train.global_batch = 8;
    deck.train.seq = deck.model.max_seq = 24;
    deck.model.heads = 12;
    deck.model.kv_heads = style == Style::kLlama ? 2 : 12;
    deck.model.head_dim = style == Style::kLlama ? 4 : 3;
  }
  return deck;
}

std::vector<int> MatrixCase::factors() const {
  const int mode = static_cast<int>(recompute.mode) + (recompute.layers > 0 ? 1 : 0);
  return {static_cast<int>(style),
          dp,
          tp,
          pp,
          zero,
          static_cast<int>(schedule),
          mode,
          sequence_parallel ? 1 : 0,
          ep,
          cp,
          static_cast<int>(context),
          static_cast<int>(feed),
          static_cast<int>(mask),
          sequences};
}

std::string MatrixCase::model() const {
  return fmt::format("{} {} {} {}", style_name(style), mask_name(mask), feed_name(feed),
                     sequences > 0 ? "24" : "12");
}

bool MatrixCase::legal() const {
  const auto d = deck("", DType::kF64);
  const auto batch = dp * ep * d.train.micro_batch;
  if (d.train.global_batch % batch != 0 || !app::cut_problems(d).empty()) return false;
  const auto micro_batches = static_cast<int>(d.train.global_batch / batch);
  if (!model::schedule_problem({schedule, pp, chunks, micro_batches}).empty()) return false;
  if (d.model.moe.experts % ep != 0 || (feed == Feed::kDense && ep > 1)) return false;
  if (cp == 1) return true;
  const bool whole = context == model::ContextMethod::kUlysses;
  if (d.train.seq % (whole ? cp : 2 * cp) != 0) return false;
  if (sequence_parallel && d.train.seq / cp % tp != 0) return false;
  const auto kv_heads = std::max<std::int64_t>(1, d.model.kv_heads / tp);
  return !whole || (d.model.heads / tp % cp == 0 && (kv_heads % cp == 0 || cp % kv_heads == 0));
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
  constexpr std::size_t kValues = 16;
  // A combination of three factors' values as one number.
  const auto triples_of = [](const MatrixCase& c) {
    std::vector<std::size_t> triples;
    const auto f = c.factors();
    const auto n = f.size();
    const auto at = [&](std::size_t i) { return i * kValues + static_cast<std::size_t>(f[i]); };
    for (std::size_t i = 0; i < n; ++i) {
      for (std::size_t j = i + 1; j < n; ++j) {
        for (std::size_t k = j + 1; k < n; ++k) {
          triples.push_back((at(i) * n * kValues + at(j)) * n * kValues + at(k));
        }
      }
    }
    return triples;
  };
  if (all.empty()) return {};
  const auto values = all.front().factors().size() * kValues;
  std::vector<bool> open(values * values * values);
  for (const auto& c : all) {
    for (const auto triple : triples_of(c)) open[triple] = true;
  }
  const auto gain_of = [&](std::size_t i) {
    std::size_t gain = 0;
    for (const auto triple : triples_of(all[i])) gain += open[triple] ? 1 : 0;
    return gain;
  };
  // The case that covers most, the first of equals. A gain only ever falls: one that is still the
  // largest after it was counted again is the largest of all.
  const auto later = [](const auto& a, const auto& b) {
    return a.first != b.first ? a.first < b.first : a.second > b.second;
  };
  using Gain = std::pair<std::size_t, std::size_t>;  // and its case
  std::priority_queue<Gain, std::vector<Gain>, decltype(later)> gains(later);
  for (std::size_t i = 0; i < all.size(); ++i) gains.emplace(gain_of(i), i);
  std::vector<MatrixCase> chosen;
  while (!gains.empty()) {
    const auto best = gains.top().second;
    gains.pop();
    const Gain now(gain_of(best), best);
    if (now.first == 0) continue;
    if (!gains.empty() && later(now, gains.top())) {
      gains.push(now);
      continue;
    }
    for (const auto triple : triples_of(all[best])) open[triple] = false;
    chosen.push_back(all[best]);
  }
  return chosen;
}

}  // namespace pg::testing

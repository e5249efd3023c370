#include "model/layers/expert_parallel.h"

#include <algorithm>
#include <cmath>

#include "model/buffer_view.h"

namespace pg::model {

std::int64_t expert_capacity(const MoeConfig& moe, std::int64_t seq) {
  const bool exact = moe.router == RouterKind::kExpertChoice;
  const double factor = exact ? 1.0 : moe.capacity_factor;
  if (factor == 0.0) return seq;
  // The nearest double of a factor such as 1.1 may lie above it: 1.1 * 10 are 11 tokens, not 12.
  const auto even = static_cast<double>(moe.top_k * seq) / static_cast<double>(moe.experts);
  return std::clamp<std::int64_t>(static_cast<std::int64_t>(std::ceil(factor * even * (1 - 1e-12))),
                                  1, seq);
}

ExpertLoad balanced_load(const MoeConfig& moe, const Sharding& sharding, std::int64_t sequences,
                         std::int64_t tokens) {
  const auto most = largest_load(moe, sharding, sequences, tokens);
  auto even = tokens * moe.top_k;
  if (moe.router == RouterKind::kExpertChoice) {
    // Exactly so many of each whole sequence, of which this rank has one part in cp.
    const auto seq = tokens / sequences * sharding.cp;
    const auto pairs = sequences * moe.experts * expert_capacity(moe, seq);
    even = (pairs + sharding.cp - 1) / sharding.cp;
  }
  return {std::min(even, most.sent), std::min(even, most.received)};
}

ExpertLoad largest_load(const MoeConfig& moe, const Sharding& sharding, std::int64_t sequences,
                        std::int64_t tokens) {
  const auto here = tokens / sequences;  // of a sequence
  const auto of_one = std::min(here, expert_capacity(moe, here * sharding.cp));
  const auto local = moe.experts / sharding.ep;
  if (moe.router == RouterKind::kExpertChoice) {
    return {sequences * moe.experts * of_one, sequences * local * of_one * sharding.ep};
  }
  const auto by_token = std::min(moe.top_k, local) * tokens;
  return {std::min(moe.top_k * tokens, moe.experts * of_one * sequences),
          std::min(by_token, local * of_one * sequences) * sharding.ep};
}

ExpertRoutes ExpertParallel::routes(std::span<const std::int64_t> counts) const {
  const auto ranks = static_cast<std::size_t>(size_), local = static_cast<std::size_t>(experts_);
  PG_ASSERT(counts.size() == ranks * local, "{} counts for {} experts on {} ranks", counts.size(),
            local, ranks);
  ExpertRoutes routes;
  std::vector<std::int64_t> mine(counts.begin(), counts.end());
  routes.received = mine;
  if (assumed_) {
    // All of it in one message; the sizes are what counts.
    std::fill(mine.begin(), mine.end(), 0);
    routes.received = mine;
    mine[0] = assumed_->sent;
    routes.received[0] = assumed_->received;
  } else if (size_ > 1) {
    comm::all_to_all(group_, {mine.data(), mine.size(), DType::kI64},
                     {routes.received.data(), routes.received.size(), DType::kI64})
        .wait();
  }
  routes.begin.assign(local + 1, 0);
  for (std::size_t rank = 0; rank < ranks; ++rank) {
    std::int64_t sent = 0, arrived = 0;
    for (std::size_t e = 0; e < local; ++e) {
      sent += mine[rank * local + e];
      arrived += routes.received[rank * local + e];
      routes.begin[e + 1] += routes.received[rank * local + e];
    }
    routes.sent += sent;
    routes.sent_rows.push_back(static_cast<std::size_t>(sent));
    routes.received_rows.push_back(static_cast<std::size_t>(arrived));
  }
  for (std::size_t e = 0; e < local; ++e) routes.begin[e + 1] += routes.begin[e];
  return routes;
}

namespace {

std::vector<std::size_t> elements(const std::vector<std::size_t>& rows, std::int64_t width) {
  std::vector<std::size_t> counts;
  for (const auto r : rows) counts.push_back(r * static_cast<std::size_t>(width));
  return counts;
}

}  // namespace

template <class Move>
void ExpertParallel::for_parts(const ExpertRoutes& routes, Move move) const {
  auto at = routes.begin;  // where the next rows of each expert go
  std::int64_t arrival = 0;
  for (std::size_t i = 0; i < routes.received.size(); ++i) {
    const auto rows = routes.received[i];
    auto& to = at[i % static_cast<std::size_t>(experts_)];
    if (rows > 0) move(arrival, to, rows);
    arrival += rows;
    to += rows;
  }
}

void ExpertParallel::to_experts(Kernels& kernels, Arena& scratch, TensorView to, TensorView from,
                                const ExpertRoutes& routes) const {
  PG_ASSERT(size_ > 1, "{} ep ranks", size_);
  const ArenaScope scope(scratch);
  const auto width = from.dim(1);
  // Rows of one expert are in order as they come.
  const bool in_order = experts_ == 1;
  const auto arrived = in_order ? to : scratch.push(from.dtype(), {routes.arrived(), width});
  group_
      .all_to_all(buffer_view(from), elements(routes.sent_rows, width), buffer_view(arrived),
                  elements(routes.received_rows, width))
      .wait();
  if (in_order) return;
  for_parts(routes, [&](std::int64_t arrival, std::int64_t row, std::int64_t rows) {
    kernels.copy(to.slice(0, row, rows), arrived.slice(0, arrival, rows));
  });
}

void ExpertParallel::to_tokens(Kernels& kernels, Arena& scratch, TensorView to, TensorView from,
                               const ExpertRoutes& routes) const {
  PG_ASSERT(size_ > 1, "{} ep ranks", size_);
  const ArenaScope scope(scratch);
  const auto width = from.dim(1);
  const bool in_order = experts_ == 1;
  const auto leaving = in_order ? from : scratch.push(from.dtype(), {routes.arrived(), width});
  if (!in_order) {
    for_parts(routes, [&](std::int64_t arrival, std::int64_t row, std::int64_t rows) {
      kernels.copy(leaving.slice(0, arrival, rows), from.slice(0, row, rows));
    });
  }
  group_
      .all_to_all(buffer_view(leaving), elements(routes.received_rows, width), buffer_view(to),
                  elements(routes.sent_rows, width))
      .wait();
}

}  // namespace pg::model

#include "case_runner.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>

namespace pg::testing {

bool root() {
  return comm::Communicator::world().rank() == 0;
}

CaseRunner::CaseRunner(const std::string& name, std::int64_t steps)
    : steps_(steps),
      tokens_(make_tokens(comm::Communicator::world(), name, 9001, 61, 3)),
      documents_(
          make_documents(comm::Communicator::world(), name + "_documents", 9001, 61, 3, 10)) {}

const std::filesystem::path& CaseRunner::tokens(const MatrixCase& c) const {
  const bool documents = c.mask == Mask::kDocuments || c.mask == Mask::kDocumentsWindow;
  return documents ? documents_ : tokens_;
}

app::Deck CaseRunner::deck(const MatrixCase& c, DType type) const {
  auto deck = c.deck(tokens(c), type);
  deck.run.device = device_;
  return deck;
}

const Trace& CaseRunner::reference(const MatrixCase& c, DType type) {
  const auto key = c.model() + std::string(dtype_name(type));
  const auto found = references_.find(key);
  if (found != references_.end()) return found->second;
  return references_[key] = one_rank(deck(c, type), steps_);
}

ParityResult CaseRunner::compare(const MatrixCase& c, const model::Sabotage& sabotage) {
  return pg::testing::compare(deck(c), c.ranks(), reference(c), kFp64, sabotage);
}

void expect_within(const ParityResult& result, const std::string& name) {
  EXPECT_LE(result.worst_gradient, kFp64.gradient) << name << ": " << result.worst_parameter;
  EXPECT_LE(result.worst_loss, kFp64.loss) << name << " at step " << result.worst_step;
  EXPECT_LE(result.worst_norm, kFp64.norm) << name;
  EXPECT_LE(result.worst_aux, kFp64.loss) << name;
  EXPECT_TRUE(result.same_drops) << name;
}

void CaseRunner::expect_parity(const std::vector<MatrixCase>& cases) {
  const auto begin = std::chrono::steady_clock::now();
  const auto seconds = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  };
  ParityResult worst;
  for (const auto& c : cases) {
    const auto start = seconds();
    const auto result = compare(c);
    expect_within(result, c.name());
    worst.worst_gradient = std::max(worst.worst_gradient, result.worst_gradient);
    worst.worst_loss = std::max(worst.worst_loss, result.worst_loss);
    worst.worst_norm = std::max(worst.worst_norm, result.worst_norm);
    worst.worst_aux = std::max(worst.worst_aux, result.worst_aux);
    if (root() && std::getenv("PG_MATRIX_VERBOSE") != nullptr) {
      fmt::print("    {:<76} gradient {:.1e}, loss {:.1e}, {:.2f} s\n", c.name(),
                 result.worst_gradient, result.worst_loss, seconds() - start);
      std::fflush(stdout);
    }
  }
  if (!root()) return;
  fmt::print(
      "    {} cases in {:.1f} s: worst gradient {:.1e} of {:.0e}, worst loss {:.1e}, norm {:.1e} "
      "and routers' losses {:.1e} of {:.0e}\n",
      cases.size(), seconds(), worst.worst_gradient, kFp64.gradient, worst.worst_loss,
      worst.worst_norm, worst.worst_aux, kFp64.loss);
  std::fflush(stdout);
}

void CaseRunner::expect_parity_in_fp32(const std::vector<MatrixCase>& cases) {
  ParityResult worst;
  for (const auto& c : cases) {
    const auto result =
        pg::testing::compare(deck(c, DType::kF32), c.ranks(), reference(c, DType::kF32), kFp32);
    EXPECT_LE(result.worst_gradient, kFp32.gradient) << c.name() << ": " << result.worst_parameter;
    EXPECT_LE(result.worst_loss, kFp32.loss) << c.name();
    worst.worst_gradient = std::max(worst.worst_gradient, result.worst_gradient);
    worst.worst_loss = std::max(worst.worst_loss, result.worst_loss);
    worst.worst_norm = std::max(worst.worst_norm, result.worst_norm);
  }
  if (!root()) return;
  fmt::print("    worst gradient {:.1e} of {:.0e}, worst loss {:.1e} of {:.0e}, norm {:.1e}\n",
             worst.worst_gradient, kFp32.gradient, worst.worst_loss, kFp32.loss, worst.worst_norm);
}

void CaseRunner::expect_as_close_in_bf16(const std::vector<MatrixCase>& cases) {
  constexpr int kSeeds = 12;
  constexpr std::int64_t kFewSteps = 4;
  std::vector<RunError> one(cases.size()), grid(cases.size());
  const auto add = [](RunError& sum, const RunError& e) {
    sum.loss += e.loss * e.loss / kSeeds;
    sum.gradient += e.gradient * e.gradient / kSeeds;
  };
  for (int seed = 1; seed <= kSeeds; ++seed) {
    std::map<std::string, Trace> exact, single;
    const auto seeded = [&](const MatrixCase& c, DType type) {
      auto d = deck(c, type);
      d.run.seed = seed;
      return d;
    };
    for (std::size_t i = 0; i < cases.size(); ++i) {
      const auto model = cases[i].model();
      if (!exact.contains(model)) {
        exact[model] = one_rank(seeded(cases[i], DType::kF64), kFewSteps);
        single[model] = one_rank(seeded(cases[i], DType::kBF16), kFewSteps);
      }
      add(one[i], error_of(single[model], exact[model]));
      add(grid[i], error_on_grid(seeded(cases[i], DType::kBF16), cases[i].ranks(), exact[model]));
    }
  }
  for (std::size_t i = 0; i < cases.size(); ++i) {
    const double loss = std::sqrt(grid[i].loss / one[i].loss);
    const double gradient = std::sqrt(grid[i].gradient / one[i].gradient);
    EXPECT_LT(std::sqrt(one[i].gradient), 0.05) << cases[i].name();
    EXPECT_LE(loss, 1.5) << cases[i].name();
    EXPECT_LE(gradient, 1.5) << cases[i].name();
    if (!root()) continue;
    fmt::print(
        "    {:<76} error over one rank's: losses {:.2f}, gradients {:.2f} of 1.5; of one "
        "rank {:.3f}\n",
        cases[i].name(), loss, gradient, std::sqrt(one[i].gradient));
    std::fflush(stdout);
  }
}

void expect_parity_at(const std::vector<Edge>& edges, const CaseRunner& runner) {
  for (const auto& edge : edges) {
    auto deck = runner.deck(edge.on);
    edge.change(deck);
    const auto result = compare(deck, edge.on.ranks(), one_rank(deck, runner.steps()), kFp64);
    expect_within(result, edge.name);
    if (!root()) continue;
    fmt::print("    {:<60} gradient {:.1e}, loss {:.1e}\n", edge.name, result.worst_gradient,
               result.worst_loss);
    std::fflush(stdout);
  }
}

void expect_found(const std::vector<Control>& controls, CaseRunner& runner) {
  for (const auto& control : controls) {
    expect_within(runner.compare(control.on), control.on.name());
    const auto broken = runner.compare(control.on, control.sabotage);
    // Weights go wrong after the first step, of which the gradients are.
    const bool weights = control.sabotage.drop_publish || control.sabotage.keep_stale_slots;
    if (!weights) {
      EXPECT_GT(broken.worst_gradient, 1e3 * kFp64.gradient) << control.name;
    }
    EXPECT_GT(broken.worst_loss, 1e3 * kFp64.loss) << control.name;
    if (!root()) continue;
    fmt::print("    {:<60} gradient off by {:.1e}, loss by {:.1e}\n", control.name,
               broken.worst_gradient, broken.worst_loss);
    std::fflush(stdout);
  }
}

}  // namespace pg::testing

// What the tests of the memory plan claim of one rank of a grid.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "app/memory_plan.h"
#include "app/parallel_plan.h"
#include "harness/memory_formula.h"

namespace pg::testing {

constexpr std::int64_t kPlaceAlignment = 32;  // elements that a place is rounded up to

// A dry plan against the formulas: activations to the byte; parameters but for padding.
inline void expect_formulas(const app::Deck& deck, const comm::GridShape& shape,
                            const comm::Coord& coord, const std::string& what) {
  const auto cut = app::sharding_of(deck, shape, coord);
  const auto layout = app::layout_of(deck, cut);
  const auto plan = app::plan_memory(deck, shape, coord);
  const auto f = memory_formula(deck, shape, layout);
  const auto type = deck.run.precision;
  EXPECT_EQ(plan.activations, f.activations()) << what << " " << dtype_name(type);
  EXPECT_EQ(plan.activations_most, memory_formula(deck, shape, layout, Load::kMost).activations())
      << what << " " << dtype_name(type);

  // A place is padded to a multiple of the alignment and of the replicas that cut it: by less than
  // one and than the other. What is kept in pieces is padded by less than one element. Biases of
  // routers are a buffer of whole cache lines.
  const auto near = [&](std::int64_t planned, double exact, std::int64_t most, DType of) {
    const auto unit = static_cast<double>(dtype_size(of));
    const auto waste = (static_cast<double>(planned) - exact) / unit;
    EXPECT_GE(waste, -1e-6) << what;  // of rounding P / n to a double
    EXPECT_LE(waste, static_cast<double>(most) + 1e-6) << what;
  };
  const std::int64_t n = cut.replicas;
  const auto whole = f.places * (kPlaceAlignment + n - 2);
  const auto piece = cut.zero > 0
                         ? (f.places - f.places_of_one) + f.places_of_one * (kPlaceAlignment - 1)
                         : f.places * (kPlaceAlignment - 1);
  const auto exact_type = accumulator_of(type);
  near(plan.weights, f.weights, cut.zero < 3 ? whole : piece, cut.zero < 3 ? type : exact_type);
  near(plan.gradients, f.gradients, cut.zero < 2 ? whole : piece, exact_type);
  near(plan.master, f.master, piece, exact_type);
  near(plan.moments, f.moments, 2 * piece, exact_type);
  near(plan.slots, f.slots, 2 * f.slot_places * (n - 1), exact_type);
}

// What a trainer allocated for parameters is what was planned; activations are the caller's claim.
inline void expect_parameters_taken(const model::ParamStore& params, const app::MemoryPlan& plan,
                                    const std::string& what) {
  const auto bytes = params.bytes();
  EXPECT_EQ(bytes.weights, plan.weights) << what;
  EXPECT_EQ(bytes.gradients, plan.gradients) << what;
  EXPECT_EQ(bytes.master, plan.master) << what;
  EXPECT_EQ(bytes.moments, plan.moments) << what;
  EXPECT_EQ(bytes.slots, plan.slots) << what;
  EXPECT_EQ(plan.total, bytes.total() + plan.activations + plan.packed + plan.communication +
                            plan.workspace + plan.saving);
}

}  // namespace pg::testing

// Which keys may differ between a checkpoint and the run that resumes it.
#include "app/resume_check.h"

#include <gtest/gtest.h>

#include "tests/app/decks.h"

namespace pg::app {
namespace {

const std::vector<std::string> kExperts{"moe.experts=8", "moe.ffn=48", "moe.bias_update=0.001",
                                        "model.layers=4"};

std::vector<std::string> and_also(std::vector<std::string> overrides,
                                  const std::vector<std::string>& more) {
  // The last one counts, as on a command line that is typed once.
  for (const auto& argument : more) {
    const auto key = argument.substr(0, argument.find('=') + 1);
    std::erase_if(overrides, [&](const auto& other) { return other.starts_with(key); });
    overrides.push_back(argument);
  }
  return overrides;
}

Deck deck_with(const std::vector<std::string>& overrides) {
  return parse_deck(kLeastDeck, "d.toml", overrides, Purpose::kTrain, 0);
}

std::vector<std::string> differences(const std::vector<std::string>& before,
                                     const std::vector<std::string>& now) {
  return resume_differences(deck_with(before).resolved, deck_with(now), "step-000000001");
}

std::vector<std::string> changed(const std::vector<std::string>& more) {
  return differences(kExperts, and_also(kExperts, more));
}

using Lines = std::vector<std::string>;

TEST(ResumeCheck, the_same_deck_differs_in_nothing) {
  EXPECT_EQ(differences({}, {}), Lines{});
  EXPECT_EQ(changed({}), Lines{});
  EXPECT_EQ(
      differences({"moe.experts=8", "moe.router=switch"}, {"moe.experts=8", "moe.router=switch"}),
      Lines{});
}

TEST(ResumeCheck, shape_and_routing_of_experts_stay) {
  EXPECT_EQ(changed({"moe.experts=16"}), Lines{"moe.experts: 16, was 8"});
  EXPECT_EQ(changed({"moe.top_k=3"}), Lines{"moe.top_k: 3, was 2"});
  EXPECT_EQ(changed({"moe.ffn=96"}), Lines{"moe.ffn: 96, was 48"});
  EXPECT_EQ(changed({"moe.renormalize=false"}), Lines{"moe.renormalize: false, was true"});
  EXPECT_EQ(changed({"moe.capacity_factor=1.25"}), Lines{"moe.capacity_factor: 1.25, was 0.0"});
  EXPECT_EQ(changed({"moe.shared_experts=1"}), Lines{"moe.shared_experts: 1, was 0"});
  EXPECT_EQ(changed({"moe.every=2"}), Lines{"moe.every: 2, was 1"});
  EXPECT_EQ(changed({"moe.router=switch"}),
            (Lines{"moe.top_k: 1, was 2", "moe.router: \"switch\", was \"top_k\"",
                   "moe.renormalize: false, was true"}));
  EXPECT_EQ(changed({"moe.bias_update=0"}),
            Lines{"moe.bias_update: 0, was 0.001 (legal: more than 0)"});
  EXPECT_EQ(differences({"moe.experts=8"}, {"moe.experts=8", "moe.bias_update=0.01"}),
            Lines{"moe.bias_update: 0.01, was 0 (legal: 0)"});
}

TEST(ResumeCheck, what_a_sample_shows_stays) {
  EXPECT_EQ(changed({"data.mask_documents=true"}), Lines{"data.mask_documents: true, was false"});
  EXPECT_EQ(changed({"train.seq=16", "model.max_seq=32"}), Lines{"train.seq: 16, was 32"});
}

TEST(ResumeCheck, factors_of_losses_grids_and_methods_are_free) {
  EXPECT_EQ(changed({"moe.aux_loss=0.01", "moe.z_loss=0.001", "moe.bias_update=0.002", "grid.ep=4",
                     "grid.cp=2", "grid.zero=3", "context.method=ulysses", "optimizer.lr=1e-5",
                     "recompute.mode=full"}),
            Lines{});
}

TEST(ResumeCheck, widths_that_no_block_has_do_not_matter) {
  EXPECT_EQ(changed({"model.ffn=100"}), Lines{});
  EXPECT_EQ(differences({}, {"moe.ffn=100"}), Lines{});
  EXPECT_EQ(differences({}, {"model.ffn=100"}), Lines{"model.ffn: 100, was 192"});
  EXPECT_EQ(differences(and_also(kExperts, {"moe.every=2"}),
                        and_also(kExperts, {"moe.every=2", "model.ffn=100"})),
            Lines{"model.ffn: 100, was 192"});
}

}  // namespace
}  // namespace pg::app

// Experts and context parallelism in a deck: what does not fit is refused at the key to change with
// what would be legal, what fits passes, and a resolved deck reads back.
#include <gtest/gtest.h>

#include "app/parallel_plan.h"
#include "tests/app/decks.h"

namespace pg::app {
namespace {

// kLeastDeck: 2 layers, 4 heads, 300 tokens, seq 32, 4 micro-batches of 2.
std::string refused(const std::vector<std::string>& overrides, int ranks = 0) {
  return refusal_of(overrides, ranks);
}

// The message of the override `asked` of `key`.
std::string at(const std::string& asked, const std::string& what) {
  return "command line: " + asked + ": " + asked.substr(0, asked.find('=')) + ": " + what;
}

Deck parsed(const std::vector<std::string>& overrides) {
  return parse_deck(kLeastDeck, "d.toml", overrides, Purpose::kTrain, 0);
}

TEST(SchemaExperts, ep_divides_the_experts) {
  EXPECT_EQ(refused({"grid.ep=2"}),
            at("grid.ep=2",
               "2 ranks share out a block's experts, and moe.experts = 0 has none (legal: 1)"));
  EXPECT_EQ(refused({"grid.ep=3", "moe.experts=8", "train.global_batch=12"}),
            at("grid.ep=3", "3 does not divide moe.experts = 8 (legal: 1, 2, 4, 8)"));
  EXPECT_EQ(refused({"grid.ep=4", "moe.experts=8"}, 4), "");
  EXPECT_EQ(refused({"grid.ep=1", "moe.experts=7"}), "");
}

TEST(SchemaExperts, an_axis_that_the_ranks_do_not_have_is_named) {
  EXPECT_EQ(refused({"grid.ep=4", "moe.experts=8"}, 6),
            at("grid.ep=4",
               "dp (what is left) x tp 1 x pp 1 x ep 4 x cp 1 does not fit 6 ranks: tp*pp*ep*cp = "
               "4 does not divide 6 (legal: a divisor of 6, or 4 ranks)"));
  EXPECT_EQ(refused({"grid.tp=2", "grid.cp=4"}, 6),
            at("grid.cp=4",
               "dp (what is left) x tp 2 x pp 1 x ep 1 x cp 4 does not fit 6 ranks: tp*pp*ep*cp = "
               "8 does not divide 6 (legal: a divisor of 6, or 8 ranks)"));
  EXPECT_EQ(refused({"grid.ep=3", "moe.experts=3"}, 4).substr(0, 40),
            "command line: grid.ep=3: grid.ep: dp (wh");
  EXPECT_EQ(refused({"grid.ep=2", "moe.experts=8"}, 8),
            "d.toml:11:16: train.global_batch: 8 is not a multiple of dp*ep*micro_batch = 4*2*2 = "
            "16; nearest: 16; with this batch dp*ep may be 1, 2, 4");
}

TEST(SchemaExperts, tp_divides_the_widths_that_some_block_has) {
  const auto tp4 = [](std::vector<std::string> more) {
    more.insert(more.end(), {"grid.tp=4", "moe.experts=4"});
    return refused(more);
  };
  EXPECT_EQ(tp4({"moe.ffn=250"}),
            at("grid.tp=4", "4 does not divide moe.ffn = 250; legal for this model: 1, 2"));
  EXPECT_EQ(tp4({"moe.ffn=252", "model.ffn=249"}), "");
  EXPECT_EQ(tp4({"moe.ffn=252", "model.ffn=249", "moe.every=2"}),
            at("grid.tp=4", "4 does not divide model.ffn = 249; legal for this model: 1"));
  EXPECT_EQ(tp4({"moe.ffn=250", "model.ffn=252", "moe.every=2"}),
            at("grid.tp=4", "4 does not divide moe.ffn = 250; legal for this model: 1, 2"));
  EXPECT_EQ(tp4({"moe.ffn=252", "model.ffn=252", "moe.every=2"}), "");
}

TEST(SchemaExperts, every_block_or_some_but_not_none_have_experts) {
  EXPECT_EQ(refused({"moe.experts=8", "moe.every=3"}),
            at("moe.every=3",
               "3 is more than model.layers = 2: no block would have experts (legal: 1 to 2)"));
  EXPECT_EQ(refused({"moe.experts=8", "moe.every=2"}), "");
}

TEST(SchemaExperts, routers_take_the_keys_that_they_use) {
  EXPECT_EQ(refused({"moe.experts=8", "moe.top_k=9"}),
            at("moe.top_k=9", "9 is more than moe.experts = 8 (legal: 1 to 8)"));
  EXPECT_EQ(refused({"moe.experts=8", "moe.top_k=8"}), "");
  EXPECT_EQ(refused({"moe.experts=1"}),
            "d.toml:1:1: moe.top_k: 2 is more than moe.experts = 1 (legal: 1)");
  EXPECT_EQ(refused({"moe.experts=8", "moe.router=switch", "moe.top_k=2"}),
            at("moe.top_k=2",
               "moe.router = \"switch\" has one expert a token, not 2 (legal: 1, or moe.router = "
               "\"top_k\")"));
  EXPECT_EQ(refused({"moe.experts=8", "moe.router=switch", "moe.aux_loss=0.01",
                     "moe.capacity_factor=1.25", "moe.z_loss=1e-3", "moe.bias_update=1e-3"}),
            "");
  for (const char* router : {"switch", "expert_choice"}) {
    const auto name = std::string(router);
    EXPECT_EQ(refused({"moe.experts=8", "moe.router=" + name, "moe.renormalize=true"}),
              at("moe.renormalize=true",
                 "moe.router = \"" + name +
                     "\" weights an expert with its probability among all (legal: false, or "
                     "moe.router = \"top_k\")"));
    EXPECT_EQ(refused({"moe.experts=8", "moe.router=" + name, "moe.renormalize=false"}), "");
  }
  EXPECT_EQ(refused({"moe.experts=8", "moe.renormalize=false"}), "");
}

TEST(SchemaExperts, expert_choice_has_nothing_to_balance) {
  for (const char* asked :
       {"moe.capacity_factor=1.25", "moe.aux_loss=0.01", "moe.bias_update=0.001"}) {
    EXPECT_EQ(refused({"moe.experts=8", "moe.router=expert_choice", asked}),
              at(asked,
                 "moe.router = \"expert_choice\" gives every expert equally many tokens: there is "
                 "nothing to drop or to balance (legal: 0)"));
    EXPECT_EQ(refused({"moe.experts=8", asked}), "");
  }
  EXPECT_EQ(refused({"moe.experts=8", "moe.router=expert_choice", "moe.z_loss=0.001",
                     "moe.shared_experts=1", "moe.top_k=3"}),
            "");
}

TEST(SchemaExperts, a_dense_model_ignores_no_key) {
  const std::pair<const char*, const char*> cases[] = {{"moe.router=switch", "\"top_k\""},
                                                       {"moe.router=expert_choice", "\"top_k\""},
                                                       {"moe.top_k=1", "2"},
                                                       {"moe.renormalize=false", "true"},
                                                       {"moe.capacity_factor=1.25", "0"},
                                                       {"moe.shared_experts=1", "0"},
                                                       {"moe.every=2", "1"},
                                                       {"moe.aux_loss=0.01", "0"},
                                                       {"moe.z_loss=0.001", "0"},
                                                       {"moe.bias_update=0.001", "0"}};
  for (const auto& [asked, legal] : cases) {
    EXPECT_EQ(
        refused({asked}),
        at(asked, std::string("moe.experts = 0 makes every block dense (legal: ") + legal + ")"));
  }
  EXPECT_EQ(refused({"moe.router=top_k", "moe.top_k=2", "moe.renormalize=true",
                     "moe.capacity_factor=0", "moe.shared_experts=0", "moe.every=1",
                     "moe.aux_loss=0", "moe.z_loss=0", "moe.bias_update=0"}),
            "");
  // One mistake, one message: without a number of experts nothing is known of the others.
  EXPECT_EQ(refused({"moe.experts=-1", "moe.aux_loss=0.01"}),
            at("moe.experts=-1", "-1 is out of range; it takes an integer from 0 to 4096"));
}

TEST(SchemaExperts, sizes_that_no_machine_holds_are_refused_before_they_overflow) {
  EXPECT_EQ(refused({"moe.experts=4096", "model.layers=16384"}),
            at("moe.experts=4096",
               "4096 in each of 16384 blocks are 67108864 in all; 262144 is the limit"));
  EXPECT_EQ(refused({"moe.experts=4096", "model.layers=16384", "moe.every=256", "moe.ffn=64"}), "");
  EXPECT_EQ(refused({"moe.experts=4096", "moe.ffn=4194304", "model.hidden=262144"}),
            at("moe.experts=4096",
               "4096 of hidden*ffn = 262144*4194304 in each of 2 blocks have about 2.7e+16 "
               "parameters; 4.5e+15 is the limit"));
  const auto text =
      refused({"moe.experts=4096", "moe.top_k=4096", "grid.ep=4096", "moe.ffn=100000",
               "train.seq=1048576", "train.micro_batch=16", "train.global_batch=65536"});
  EXPECT_TRUE(text.starts_with(at("train.micro_batch=16",
                                  "16 sequences of 1048576 tokens need about 1.8e+21 bytes of "
                                  "activations; 1.1e+15 is the limit")))
      << text;
}

TEST(SchemaContext, zigzag_cuts_a_sequence_into_two_chunks_a_rank) {
  EXPECT_EQ(refused({"grid.cp=3"}),
            at("grid.cp=3",
               "context.method = \"ring\" needs train.seq to be a multiple of 2*cp = 6, and it is "
               "32 (legal: 1, 2, 4, 8, 16, or train.seq = 30 or 36)"));
  EXPECT_EQ(refused({"grid.cp=2", "train.seq=30", "context.method=allgather"}),
            at("grid.cp=2",
               "context.method = \"allgather\" needs train.seq to be a multiple of 2*cp = 4, and "
               "it is 30 (legal: 1, 3, 5, 15, or context.method = \"ulysses\", or train.seq = 28 "
               "or 32)"));
  EXPECT_EQ(refused({"grid.cp=16"}), "");
  EXPECT_EQ(refused({"grid.cp=3", "train.seq=30", "context.method=allgather"}), "");
  // One part is not cut.
  for (const char* method : {"ring", "ulysses", "allgather"}) {
    EXPECT_EQ(refused({"train.seq=31", std::string("context.method=") + method}), "") << method;
  }
}

TEST(SchemaContext, ulysses_shares_out_the_heads_of_a_tp_rank) {
  const auto ulysses = [](std::vector<std::string> more) {
    more.push_back("context.method=ulysses");
    return refused(more);
  };
  EXPECT_EQ(ulysses({"grid.cp=3"}),
            at("grid.cp=3",
               "3 does not divide model.heads / grid.tp = 4/1, the heads of a tp rank, which "
               "\"ulysses\" shares out (legal: 1, 2, 4)"));
  EXPECT_EQ(ulysses({"grid.cp=4", "grid.tp=2"}),
            at("grid.cp=4",
               "4 does not divide model.heads / grid.tp = 4/2, the heads of a tp rank, which "
               "\"ulysses\" shares out (legal: 1, 2, or context.method = \"ring\" or "
               "\"allgather\")"));
  EXPECT_EQ(ulysses({"grid.cp=4", "model.heads=12", "model.head_dim=8", "model.kv_heads=6"}),
            at("grid.cp=4",
               "4 neither divides model.kv_heads / grid.tp = 6/1, the heads of a tp rank, which "
               "\"ulysses\" shares out, nor is a multiple of it (legal: 1, 2, or context.method = "
               "\"ring\" or \"allgather\")"));
  EXPECT_EQ(ulysses({"grid.cp=4", "train.seq=30"}),
            at("grid.cp=4",
               "context.method = \"ulysses\" needs train.seq to be a multiple of cp = 4, and it "
               "is 30 (legal: 1, 2, or train.seq = 28 or 32)"));
  EXPECT_EQ(ulysses({"grid.cp=4"}), "");
  EXPECT_EQ(ulysses({"grid.cp=4", "model.kv_heads=1"}), "");
  EXPECT_EQ(ulysses({"grid.cp=2", "train.seq=30"}), "");  // no zigzag
  // Fewer KV heads than tp: each rank has one.
  EXPECT_EQ(ulysses({"grid.cp=2", "grid.tp=2", "model.kv_heads=1"}), "");
  // What tp cannot cut is tp's to change.
  EXPECT_EQ(ulysses({"grid.cp=2", "grid.tp=3"}),
            at("grid.tp=3", "3 does not divide model.heads = 4; legal for this model: 1, 2, 4"));
}

TEST(SchemaContext, sequence_parallelism_cuts_the_parts) {
  EXPECT_EQ(refused({"grid.cp=4", "grid.tp=4", "grid.sequence_parallel=true", "train.seq=24"}),
            at("grid.sequence_parallel=true",
               "it cuts train.seq / grid.cp = 24/4 over grid.tp = 4, which does not divide it "
               "(legal: false, or train.seq = 16 or 32)"));
  EXPECT_EQ(refused({"grid.cp=2", "grid.tp=4", "grid.sequence_parallel=true", "train.seq=24"}), "");
  EXPECT_EQ(refused({"grid.cp=4", "grid.tp=4", "train.seq=24"}), "");
}

// Of all shapes: refused is what the layers' own rules say, and what is named as legal is.
TEST(SchemaContext, what_passes_is_what_the_layers_can_cut) {
  int legal = 0, illegal = 0;
  for (const auto method : {model::ContextMethod::kRing, model::ContextMethod::kUlysses,
                            model::ContextMethod::kAllGather}) {
    for (const std::int64_t cp : {1, 2, 3, 4, 6}) {
      for (const std::int64_t tp : {1, 2, 3, 4}) {
        for (const std::int64_t seq : {12, 24, 30, 32, 48}) {
          for (const std::int64_t kv : {1, 2, 4, 6, 12}) {
            for (const bool sequence : {false, true}) {
              Deck deck;
              deck.model.layers = 1;
              deck.model.heads = deck.model.ffn = deck.model.vocab = 12;
              deck.model.kv_heads = kv;
              deck.grid.cp = cp;
              deck.grid.tp = tp;
              deck.grid.sequence_parallel = sequence;
              deck.context.method = method;
              deck.train.seq = seq;
              const auto heads = 12 / tp, kv_here = std::max<std::int64_t>(1, kv / tp);
              const bool zigzag = method != model::ContextMethod::kUlysses;
              const bool fits =
                  (kv % tp == 0 || tp % kv == 0) && (!sequence || seq / cp % tp == 0) &&
                  (cp == 1 || (zigzag ? seq % (2 * cp) == 0
                                      : seq % cp == 0 && heads % cp == 0 &&
                                            (kv_here % cp == 0 || cp % kv_here == 0)));
              EXPECT_EQ(cut_problems(deck).empty(), fits && seq % cp == 0)
                  << "method " << static_cast<int>(method) << " cp " << cp << " tp " << tp
                  << " seq " << seq << " kv " << kv << " sequence " << sequence;
              (cut_problems(deck).empty() ? legal : illegal) += 1;
            }
          }
        }
      }
    }
  }
  EXPECT_GT(legal, 400);
  EXPECT_GT(illegal, 400);
}

TEST(SchemaExperts, defaults_follow_the_router_and_the_dense_width) {
  auto deck = parsed({"moe.experts=8"});
  EXPECT_EQ(deck.model.moe.top_k, 2);
  EXPECT_EQ(deck.model.moe.ffn, 192);
  EXPECT_TRUE(deck.model.moe.renormalize);
  deck = parsed({"moe.experts=8", "moe.router=switch", "model.ffn=100"});
  EXPECT_EQ(deck.model.moe.top_k, 1);
  EXPECT_EQ(deck.model.moe.ffn, 100);
  EXPECT_FALSE(deck.model.moe.renormalize);
  deck = parsed({"moe.experts=8", "moe.router=expert_choice"});
  EXPECT_EQ(deck.model.moe.top_k, 2);
  EXPECT_FALSE(deck.model.moe.renormalize);
}

TEST(SchemaExperts, resolved_decks_read_back) {
  const std::vector<std::string> cases[] = {
      {},
      {"model.ffn=100"},
      {"moe.experts=8"},
      {"moe.experts=8", "moe.router=switch", "moe.capacity_factor=1.25"},
      {"moe.experts=8", "moe.router=expert_choice", "moe.z_loss=0.001"},
      {"moe.experts=8", "moe.top_k=3", "moe.renormalize=false", "moe.every=2", "moe.ffn=48",
       "moe.shared_experts=2", "moe.aux_loss=0.01", "moe.bias_update=0.001", "grid.ep=2",
       "data.mask_documents=true"},
      {"grid.cp=2", "context.method=ulysses"},
  };
  for (const auto& overrides : cases) {
    const auto deck = parsed(overrides);
    const auto again = parse_deck(deck.resolved, "other.toml", {}, Purpose::kTrain, 0);
    EXPECT_TRUE(again == deck) << deck.resolved << "\n----\n" << again.resolved;
    EXPECT_EQ(again.resolved, deck.resolved);
  }
}

TEST(SchemaExperts, preparing_text_needs_to_know_nothing_of_the_model) {
  EXPECT_EQ(refusal("[model]\nvocab = 256\n[data]\ntext = 'a'\ntrain = 't.h5'\n[moe]\nexperts = 8\n"
                    "every = 2\n[grid]\nep = 3\n",
                    Purpose::kPrepare),
            "");
}

}  // namespace
}  // namespace pg::app

// The parts of experts over grids with an ep axis: as param_layout_test.cpp, where experts have
// replicas of their own.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "model/param_layout.h"
#include "model/param_store.h"

namespace pg::model {
namespace {

struct Grid {
  int tp, pp, ep, copies;  // copies: dp*cp, what an expert has
};

std::ostream& operator<<(std::ostream& out, const Grid& g) {
  return out << "tp " << g.tp << " pp " << g.pp << " ep " << g.ep << " copies " << g.copies;
}

constexpr Grid kGrids[] = {{1, 1, 1, 1}, {1, 1, 2, 1}, {1, 1, 6, 1}, {2, 1, 3, 1},
                           {1, 1, 2, 3}, {2, 3, 2, 2}, {1, 2, 6, 2}, {3, 1, 1, 5}};

ModelConfig config(std::int64_t every) {
  ModelConfig c;
  c.layers = 6;
  c.hidden = 7;
  c.heads = c.kv_heads = 6;
  c.head_dim = 2;
  c.ffn = 12;
  c.vocab = 61;
  c.max_seq = 7;
  c.bias = true;
  c.moe.experts = 6;
  c.moe.ffn = 6;
  c.moe.shared_experts = 1;
  c.moe.every = every;
  c.moe.bias_update = 0.01;
  return c;
}

template <class Use>  // use(layout) of every rank
void for_ranks(const ModelConfig& c, const Grid& g, int zero, Use use) {
  const auto all = split_layers(c.layers, g.pp, 1, {1.0, 0.5, 1.5});
  Sharding s;
  s.tp = g.tp;
  s.pp = g.pp;
  s.ep = g.ep;
  s.replicas = g.ep * g.copies;
  s.expert_replicas = g.copies;
  s.zero = zero;
  for (s.stage = 0; s.stage < s.pp; ++s.stage) {
    for (s.tp_rank = 0; s.tp_rank < s.tp; ++s.tp_rank) {
      for (s.replica = 0; s.replica < s.replicas; ++s.replica) {
        s.ep_rank = s.replica % g.ep;
        s.expert_replica = s.replica / g.ep;
        use(ParamLayout(c, s, {all[static_cast<std::size_t>(s.stage)]}));
      }
    }
  }
}

TEST(ExpertLayout, every_element_and_router_bias_has_exactly_one_owner) {
  for (const std::int64_t every : {1, 2, 6}) {
    const auto c = config(every);
    for (const auto& g : kGrids) {
      for (int zero = 0; zero <= 3; ++zero) {
        std::map<std::string, std::vector<int>> owners;
        for_ranks(c, g, zero, [&](const ParamLayout& layout) {
          const ParamStore store(layout, DType::kBF16, Buffer::Kind::kDry);
          for (const auto& record : store.records()) {
            auto& count = owners[record.name];
            count.resize(static_cast<std::size_t>(record.elements()));
            const auto width = record.shape.size() == 2 ? record.shape[1] : 1;
            for (const auto& slab : record.slabs) {
              if (!slab.owner) continue;
              const auto col = slab.offset.size() == 2 ? slab.offset[1] : 0;
              const auto cols = slab.extent.size() == 2 ? slab.extent[1] : 1;
              for (std::int64_t r = 0; r < slab.extent[0] * cols; ++r) {
                ++count[static_cast<std::size_t>((slab.offset[0] + r / cols) * width + col +
                                                 r % cols)];
              }
            }
          }
        });
        EXPECT_EQ(owners.size(), 3 * ParamTable(c).size() + static_cast<std::size_t>(6 / every));
        for (const auto& [name, count] : owners) {
          EXPECT_TRUE(std::all_of(count.begin(), count.end(), [](int n) { return n == 1; }))
              << g << " zero " << zero << " every " << every << ": " << name;
        }
      }
    }
  }
}

TEST(ExpertLayout, elements_that_count_are_the_tables) {
  const auto c = config(2);
  for (const auto& g : kGrids) {
    for (const int zero : {0, 2}) {
      std::int64_t counted = 0;
      for_ranks(c, g, zero, [&](const ParamLayout& layout) {
        const auto& s = layout.sharding();
        for (std::size_t id = 0; id < layout.table().size(); ++id) {
          const bool expert = layout.table()[id].expert >= 0;
          const bool first = expert ? s.expert_replica == 0 : s.replica == 0;
          if (layout.part(id).counts && (zero > 0 || first)) counted += layout.kept(id).elements();
        }
      });
      EXPECT_EQ(counted, ParamTable(c).elements()) << g << " zero " << zero;
    }
  }
}

TEST(ExpertLayout, each_ep_rank_holds_an_equal_run_of_experts) {
  const auto c = config(1);
  for (const auto& g : kGrids) {
    for_ranks(c, g, 0, [&](const ParamLayout& layout) {
      EXPECT_EQ(layout.experts() * g.ep, c.moe.experts) << g;
      for (std::size_t id = 0; id < layout.table().size(); ++id) {
        const auto& spec = layout.table()[id];
        if (spec.expert < 0) continue;
        const bool here = spec.expert / layout.experts() == layout.sharding().ep_rank;
        EXPECT_EQ(layout.part(id).held, here && layout.place(spec.place).held) << g << spec.name;
      }
    });
  }
}

// A place's slot must be free when the next place that uses it is asked for one block ahead.
TEST(ExpertLayout, neighbouring_blocks_and_their_experts_have_four_slots) {
  for (const std::int64_t every : {1, 2, 3}) {
    const auto c = config(every);
    const ParamLayout layout(c);
    std::int64_t last = -1;
    for (std::int64_t block = 0; block < c.layers; ++block) {
      if (!c.has_experts(block)) continue;
      const auto experts = layout.slot_of(ParamTable::experts_place(c, block));
      EXPECT_NE(experts, layout.slot_of(ParamTable::block_place(block)));
      EXPECT_NE(experts, last) << "block " << block << " every " << every;
      last = experts;
    }
  }
}

}  // namespace
}  // namespace pg::model

// Over all ranks of a grid, the parts and pieces that ParamLayout deals out are the whole model,
// each element once: pure arithmetic, so every rank of large grids is asked here in one process.
#include "model/param_layout.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <string>

#include "model/param_store.h"

namespace pg::model {
namespace {

struct Grid {
  int tp, pp, chunks, replicas;
};

std::ostream& operator<<(std::ostream& out, const Grid& g) {
  return out << "tp " << g.tp << " pp " << g.pp << " chunks " << g.chunks << " replicas "
             << g.replicas;
}

ModelConfig llama() {
  ModelConfig c;
  c.layers = 6;
  c.hidden = 10;
  c.heads = 12;
  c.kv_heads = 2;  // tp 4: two copies of each; tp 6: three
  c.head_dim = 2;
  c.ffn = 12;
  c.vocab = 61;  // a prime: uneven over every tp
  c.max_seq = 7;
  return c;
}

ModelConfig gpt2() {
  auto c = llama();
  c.kv_heads = c.heads;
  c.norm = NormKind::kLayerNorm;
  c.activation = Activation::kGelu;
  c.position = PositionKind::kLearned;
  c.bias = true;
  c.tie_embeddings = true;
  return c;
}

// Tied tables lie on two stages when pp > 1; 5 and 7 replicas divide no place's size.
constexpr Grid kGrids[] = {{1, 1, 1, 1},  {1, 1, 1, 3}, {2, 1, 1, 2}, {4, 1, 1, 5}, {6, 1, 1, 1},
                           {1, 2, 1, 1},  {1, 3, 2, 2}, {2, 2, 1, 3}, {3, 2, 3, 1}, {4, 3, 1, 2},
                           {12, 1, 1, 2}, {2, 6, 1, 7}, {6, 2, 1, 3}};

std::vector<StagePart> parts_of(const ModelConfig& c, const Sharding& s) {
  const auto all = split_layers(c.layers, s.pp, s.chunks, {1.0, 0.5, 1.5});
  std::vector<StagePart> mine;
  for (int chunk = 0; chunk < s.chunks; ++chunk) {
    mine.push_back(all[static_cast<std::size_t>(chunk * s.pp + s.stage)]);
  }
  return mine;
}

// tp 3 cannot share 2 KV heads: a grid for the other model.
bool fits(const ModelConfig& c, const Grid& g) {
  return c.kv_heads % g.tp == 0 || g.tp % c.kv_heads == 0;
}

template <class Use>  // use(layout) of every rank
void for_ranks(const ModelConfig& c, const Grid& g, int zero, Use use) {
  Sharding s;
  s.tp = g.tp;
  s.pp = g.pp;
  s.chunks = g.chunks;
  s.replicas = g.replicas;
  s.zero = zero;
  for (s.stage = 0; s.stage < s.pp; ++s.stage) {
    for (s.tp_rank = 0; s.tp_rank < s.tp; ++s.tp_rank) {
      for (s.replica = 0; s.replica < s.replicas; ++s.replica) {
        use(ParamLayout(c, s, parts_of(c, s)));
      }
    }
  }
}

TEST(ParamLayout, pieces_of_all_replicas_tile_each_place_once) {
  for (const auto& c : {llama(), gpt2()}) {
    for (const auto& g : kGrids) {
      if (!fits(c, g)) continue;
      for (const int zero : {0, 1, 3}) {
        // By stage, tp rank and parameter: where the next replica's piece must begin.
        std::map<std::tuple<int, int, std::size_t>, std::int64_t> next;
        for_ranks(c, g, zero, [&](const ParamLayout& layout) {
          const auto& s = layout.sharding();
          for (std::size_t id = 0; id < layout.table().size(); ++id) {
            const auto kept = layout.kept(id);
            auto& begin = next[{s.stage, s.tp_rank, id}];
            if (zero == 0) begin = 0;  // every replica has all
            if (kept.elements() > 0) {
              ASSERT_EQ(kept.begin, begin) << g << " " << layout.table()[id].name;
              begin = kept.end;
            }
            if (zero == 0 || s.replica == g.replicas - 1) {
              const auto& part = layout.part(id);
              EXPECT_EQ(begin, part.held ? part.elements() : 0)
                  << g << " zero " << zero << " " << layout.table()[id].name;
            }
          }
        });
      }
    }
  }
}

// Rounding up to equal pieces costs each replica less than one element a place; without pieces a
// place is padded to a cache line, 32 elements.
TEST(ParamLayout, equal_pieces_waste_less_than_an_element_a_rank_and_place) {
  for (const auto& c : {llama(), gpt2()}) {
    for (const auto& g : kGrids) {
      if (!fits(c, g)) continue;
      for (const int zero : {0, 1}) {
        for_ranks(c, g, zero, [&](const ParamLayout& layout) {
          std::int64_t held = 0, elements = 0;
          for (std::int64_t p = 0; p < layout.places(); ++p) {
            const auto& place = layout.place(p);
            if (!place.held) continue;
            ++held;
            elements += place.elements;
            const auto n = layout.shards(p);
            EXPECT_GE(place.piece * n, place.elements) << g;
            EXPECT_LT(place.piece * n, place.elements + n) << g;
          }
          const auto shards = layout.shards(0);  // of all places: there are no experts
          const auto waste = layout.shard_elements() * shards - elements;
          EXPECT_GE(waste, 0) << g;
          EXPECT_LE(waste, held * (shards == 1 ? 31 : shards - 1)) << g;
          // The full buffer of a place also ends on a cache line.
          EXPECT_LE(layout.full_elements() - elements, held * (31 + shards - 1)) << g;
        });
      }
    }
  }
}

// What checkpoints write: over the whole grid every element of every logical tensor lies in exactly
// one slab with an owner, copies and padding left out.
TEST(ParamLayout, every_element_of_every_tensor_has_exactly_one_owner) {
  for (const auto& c : {llama(), gpt2()}) {
    const ParamTable table(c);
    for (const auto& g : kGrids) {
      if (!fits(c, g)) continue;
      for (int zero = 0; zero <= 3; ++zero) {
        std::map<std::string, std::vector<int>> owners;
        for_ranks(c, g, zero, [&](const ParamLayout& layout) {
          const ParamStore store(layout, DType::kBF16, Buffer::Kind::kDry);
          for (const auto& record : store.records()) {
            auto& count = owners[record.name];
            count.resize(static_cast<std::size_t>(record.elements()));
            const auto width = record.shape.size() == 2 ? record.shape[1] : 1;
            for (const auto& slab : record.slabs) {
              const auto col = slab.offset.size() == 2 ? slab.offset[1] : 0;
              const auto cols = slab.extent.size() == 2 ? slab.extent[1] : 1;
              ASSERT_LE(slab.offset[0] + slab.extent[0], record.shape[0]) << record.name;
              ASSERT_LE(col + cols, width) << record.name;
              if (!slab.owner) continue;
              for (std::int64_t r = 0; r < slab.extent[0]; ++r) {
                for (std::int64_t k = 0; k < cols; ++k) {
                  ++count[static_cast<std::size_t>((slab.offset[0] + r) * width + col + k)];
                }
              }
            }
          }
        });
        ASSERT_EQ(owners.size(), 3 * table.size());
        for (const auto& [name, count] : owners) {
          const auto wrong = std::find_if(count.begin(), count.end(), [](int n) { return n != 1; });
          EXPECT_EQ(wrong, count.end())
              << g << " zero " << zero << ": element " << wrong - count.begin() << " of " << name
              << " has " << (wrong == count.end() ? 1 : *wrong) << " owners";
        }
      }
    }
  }
}

// Norms count each logical element once: the kept elements that count, over all ranks (the first
// replica alone without ZeRO), are as many as the table lists.
TEST(ParamLayout, elements_that_count_are_the_tables) {
  for (const auto& c : {llama(), gpt2()}) {
    for (const auto& g : kGrids) {
      if (!fits(c, g)) continue;
      for (const int zero : {0, 2}) {
        std::int64_t counted = 0;
        for_ranks(c, g, zero, [&](const ParamLayout& layout) {
          if (zero == 0 && layout.sharding().replica > 0) return;
          for (std::size_t id = 0; id < layout.table().size(); ++id) {
            if (layout.part(id).counts) counted += layout.kept(id).elements();
          }
        });
        EXPECT_EQ(counted, ParamTable(c).elements()) << g << " zero " << zero;
      }
    }
  }
}

}  // namespace
}  // namespace pg::model

#include "model/param_store.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

namespace pg::model {
namespace {

ModelConfig config(bool llama) {
  ModelConfig c;
  c.layers = 2;
  c.hidden = 30;
  c.heads = 6;
  c.kv_heads = llama ? 2 : 6;
  c.head_dim = 5;
  c.ffn = 47;
  c.vocab = 61;
  c.max_seq = 12;
  c.norm = llama ? NormKind::kRmsNorm : NormKind::kLayerNorm;
  c.activation = llama ? Activation::kSwiGlu : Activation::kGelu;
  c.position = llama ? PositionKind::kRope : PositionKind::kLearned;
  c.bias = !llama;
  c.tie_embeddings = !llama;
  return c;
}

TEST(ParamTable, counts_match_the_closed_forms) {
  const std::int64_t v = 61, c = 30, f = 47, t = 12, kv = 10, l = 2;
  // Llama: two tables, per block q, k, v, o, gate, up, down and two norms, and the last norm.
  EXPECT_EQ(ParamTable(config(true)).elements(),
            2 * v * c + l * (2 * c * c + 2 * kv * c + 3 * f * c + 2 * c) + c);
  // GPT-2: one table, positions, biases everywhere.
  EXPECT_EQ(ParamTable(config(false)).elements(),
            v * c + t * c + l * (4 * c * c + 4 * c + 2 * f * c + f + c + 4 * c) + 2 * c);
}

TEST(ParamTable, names_are_unique_and_only_matrices_decay) {
  for (const bool llama : {true, false}) {
    const ParamTable table(config(llama));
    std::set<std::string> names;
    for (const auto& spec : table.specs()) {
      EXPECT_TRUE(names.insert(spec.name).second) << spec.name;
      const bool weight_matrix = spec.shape.size() == 2;
      EXPECT_EQ(spec.decays(), weight_matrix) << spec.name;
      EXPECT_TRUE(weight_matrix || spec.name.ends_with("bias") ||
                  spec.name.ends_with("norm.weight"))
          << spec.name;
    }
  }
}

TEST(ParamStore, packed_views_cover_their_parts_exactly) {
  ParamStore store(ParamLayout(config(true)), DType::kF32);
  const auto& table = store.table();
  const auto q = table.id("blocks.1.attention.q.weight");
  const auto v = table.id("blocks.1.attention.v.weight");
  const auto pack = store.weight_pack(q, v);
  EXPECT_EQ(pack.dim(0), 30 + 10 + 10);
  EXPECT_EQ(pack.raw(), store.weight(q).raw());
  EXPECT_EQ(static_cast<float*>(store.weight(v).raw()) - static_cast<float*>(pack.raw()), 40 * 30);
  // An output projection is no neighbour of v.
  EXPECT_THROW(store.weight_pack(q, table.id("blocks.1.attention.out.weight")), Error);
}

TEST(ParamStore, places_partition_the_gradients) {
  ParamStore store(ParamLayout(config(false)), DType::kBF16);
  std::int64_t elements = 0;
  for (std::int64_t place = 0; place < store.table().places(); ++place) {
    elements += store.place_grads(place).elements();
  }
  EXPECT_EQ(elements, store.table().elements());
  EXPECT_LE(elements, store.all_grads().elements());
  EXPECT_EQ(store.place_grads(0).dtype(), DType::kF32);
}

TEST(ParamStore, initial_values_depend_on_seed_and_name_alone) {
  const ParamLayout layout(config(true));
  const auto& table = layout.table();
  ParamStore a(layout, DType::kF64), b(layout, DType::kF64), other(layout, DType::kF64);
  a.initialise(5);
  b.initialise(5);
  other.initialise(6);
  const auto id = table.id("blocks.0.mlp.down.weight");
  const auto n = table[id].elements();
  double sum = 0, squares = 0;
  bool differs = false;
  for (std::int64_t e = 0; e < n; ++e) {
    const double x = a.weight(id).data<double>()[e];
    ASSERT_EQ(x, b.weight(id).data<double>()[e]);
    differs = differs || x != other.weight(id).data<double>()[e];
    sum += x;
    squares += x * x;
  }
  EXPECT_TRUE(differs);
  // 0.02 / sqrt(2 * 2 layers) = 0.01; mean and variance of n normals within five standard errors.
  const double count = static_cast<double>(n);
  EXPECT_NEAR(sum / count, 0.0, 5 * 0.01 / std::sqrt(count));
  EXPECT_NEAR(squares / count, 1e-4, 5 * 1e-4 * std::sqrt(2.0 / count));
  EXPECT_EQ(a.weight(table.id("final_norm.weight")).data<double>()[0], 1.0);
}

TEST(ParamStore, bf16_weights_are_rounded_masters) {
  const ParamLayout layout(config(true));
  const auto& table = layout.table();
  ParamStore wide(layout, DType::kF32), narrow(layout, DType::kBF16);
  wide.initialise(1);
  narrow.initialise(1);
  for (std::size_t id = 0; id < table.size(); ++id) {
    for (std::int64_t e = 0; e < table[id].elements(); ++e) {
      const float exact = wide.weight(id).data<float>()[e];
      ASSERT_EQ(narrow.kept_exact(id).data<float>()[e], exact);
      ASSERT_EQ(narrow.weight(id).data<bf16>()[e].bits, bf16(exact).bits);
    }
  }
}

TEST(ParamStore, records_hold_each_parameter_with_both_moments) {
  ParamStore store(ParamLayout(config(true)), DType::kBF16);
  const auto records = store.records();
  EXPECT_EQ(records.size(), 3 * store.table().size());
  for (const auto& record : records) EXPECT_EQ(record.dtype, DType::kF32) << record.name;
}

}  // namespace
}  // namespace pg::model

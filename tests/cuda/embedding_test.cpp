#include "tests/cuda/padded.h"

namespace pg::model::testing {
namespace {

// Table rows [first_id, first_id + ids) of ids drawn from [0, drawn).
struct Case {
  std::int64_t n, ids, first_id, drawn, width;
};
constexpr Case kCases[] = {
    {1, 1, 0, 1, 1},            // one of each
    {17, 5, 0, 5, 3},           // rows shorter than a pack
    {130, 300, 0, 300, 64},     // two digits of the sort
    {700, 40, 10, 70, 129},     // ids outside on both sides, long runs
    {300, 7, 0, 2, 1040},       // runs of half the tokens, several blocks of channels
    {33, 8, 100, 50, 8},        // all outside
    {259, 70000, 0, 70000, 8},  // three digits
};

TEST(CudaEmbedding, forward_is_that_of_the_cpu) {
  Backends both;
  for (const auto type : kComputeTypes) {
    for (const Case& c : kCases) {
      for (const Layout layout : kLayouts) {
        Padded x(type, c.n, c.width, layout), table(type, c.ids, c.width, layout);
        Padded places(type, 19, c.width, layout);
        Mirror tokens(DType::kI32, {c.n}), positions(DType::kI32, {c.n});
        table.whole.normal("table");
        places.whole.normal("places");
        tokens.whole("tokens", 0, c.drawn - 1);
        positions.whole("positions", 0, 18);
        for (const bool with_positions : {true, false}) {
          const auto of = [&](TensorView view) { return with_positions ? view : TensorView(); };
          both.cpu->embedding_forward(x.host(), tokens.host(), of(positions.host()), table.host(),
                                      of(places.host()), c.first_id);
          both.cuda->embedding_forward(x.device(), tokens.device(), of(positions.device()),
                                       table.device(), of(places.device()), c.first_id);
          EXPECT_TRUE(same(x)) << dtype_name(type) << " " << c.n << " of " << c.width;
        }
        if (c.ids > 1000) break;
      }
    }
  }
}

// In token order: the same additions as the CPU's, so the same bits.
TEST(CudaEmbedding, backward_adds_in_token_order) {
  Backends both;
  for (const auto type : kComputeTypes) {
    for (const Case& c : kCases) {
      for (const Layout layout : kLayouts) {
        Padded dx(type, c.n, c.width, layout);
        Padded table(accumulator(type), c.ids, c.width, layout);
        Padded places(accumulator(type), 19, c.width, layout);
        Mirror tokens(DType::kI32, {c.n}), positions(DType::kI32, {c.n});
        dx.whole.normal("dx");
        table.whole.normal("table");
        places.whole.normal("places");
        tokens.whole("tokens", 0, c.drawn - 1);
        positions.whole("positions", 0, 18);
        both.cpu->embedding_backward(table.host(), places.host(), dx.host(), tokens.host(),
                                     positions.host(), c.first_id);
        both.cuda->embedding_backward(table.device(), places.device(), dx.device(), tokens.device(),
                                      positions.device(), c.first_id);
        EXPECT_TRUE(same(table)) << dtype_name(type) << " " << c.n << " of " << c.width;
        EXPECT_TRUE(same(places)) << dtype_name(type) << " " << c.n << " of " << c.width;
        if (c.ids > 1000) break;
      }
    }
  }
}

TEST(CudaEmbedding, backward_without_positions_and_again) {
  Backends both;
  Padded dx(DType::kBF16, 77, 24), table(DType::kF32, 30, 24);
  Mirror tokens(DType::kI32, {77});
  dx.whole.normal("dx");
  table.whole.normal("table");
  tokens.whole("tokens", 0, 29);
  both.cpu->embedding_backward(table.host(), {}, dx.host(), tokens.host(), {}, 0);
  Padded other(DType::kF32, 30, 24);
  other.whole.normal("table");
  EXPECT_TRUE(repeats(other.whole, [&] {
    both.cuda->embedding_backward(other.device(), {}, dx.device(), tokens.device(), {}, 0);
  }));
  both.cuda->copy(table.device(), other.device());
  EXPECT_TRUE(same(table));
}

TEST(CudaEmbedding, another_order_would_be_seen) {
  Backends both;
  Padded dx(DType::kF32, 40, 16), table(DType::kF32, 2, 16);
  Mirror tokens(DType::kI32, {40});
  dx.whole.normal("dx");
  table.whole.fill(0.0);
  tokens.fill(1.0);
  both.cpu->embedding_backward(table.host(), {}, dx.host(), tokens.host(), {}, 0);
  // The first token's gradient last.
  const auto rest = [](TensorView x) { return x.slice(0, 1, 39); };
  const auto only = [](TensorView x) { return x.slice(0, 0, 1); };
  for (const auto& part : {rest(dx.device()), only(dx.device())}) {
    both.cuda->embedding_backward(table.device(), {}, part,
                                  tokens.device().slice(0, 0, part.dim(0)), {}, 0);
  }
  EXPECT_FALSE(same(table));
  EXPECT_LE(deviation(table), 40 * epsilon_of(DType::kF32));
}

}  // namespace
}  // namespace pg::model::testing

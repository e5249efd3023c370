#include <cmath>

#include "tests/cuda/mirror.h"

namespace pg::model::testing {
namespace {

TEST(CudaAttentionMerge, is_the_cpus) {
  Backends both;
  for (const auto type : {DType::kF64, DType::kF32}) {
    for (const std::int64_t size : {1, 7, 64, 130}) {
      Mirror o(type, {2, 9, 3, size}), other(type, {2, 9, 3, size});
      Mirror lse(type, {2, 3, 9}), other_lse(type, {2, 3, 9});
      o.normal("o"), other.normal("other"), lse.normal("lse", 0.0, 4.0);
      std::vector<double> values;
      for (std::int64_t i = 0; i < lse.elements(); ++i) {
        values.push_back(i % 5 == 0 ? -INFINITY : lse.at_host(i) + 1.0);
      }
      other_lse.values(values);
      for (std::int64_t i = 0; i < lse.elements(); ++i) {
        values[static_cast<std::size_t>(i)] = i % 7 == 0 ? -INFINITY
                                              : i == 11  ? NAN
                                                         : lse.at_host(i);
      }
      lse.values(values);
      both.cpu->attention_merge(o.host(), lse.host(), other.host(), other_lse.host());
      both.cuda->attention_merge(o.device(), lse.device(), other.device(), other_lse.device());
      // An exponential, a quotient, two products and a sum.
      EXPECT_LE(deviation(o), 8 * epsilon_of(type));
      EXPECT_LE(deviation(lse), 8 * epsilon_of(type));
    }
  }
}

TEST(CudaAttentionMerge, an_empty_side_keeps_the_bits_of_the_other) {
  Backends both;
  for (const auto type : {DType::kF64, DType::kF32}) {
    for (const bool ours : {true, false}) {
      Mirror o(type, {1, 5, 2, 12}), other(type, {1, 5, 2, 12}), lse(type, {1, 2, 5}),
          other_lse(type, {1, 2, 5});
      o.normal("o"), other.normal("other"), lse.normal("lse"), other_lse.normal("other lse");
      (ours ? other_lse : lse).fill(-INFINITY);
      both.cpu->attention_merge(o.host(), lse.host(), other.host(), other_lse.host());
      both.cuda->attention_merge(o.device(), lse.device(), other.device(), other_lse.device());
      EXPECT_TRUE(same(o) && same(lse));
    }
  }
}

}  // namespace
}  // namespace pg::model::testing

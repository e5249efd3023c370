// Attention over parts of sequences: any run of queries against any run of keys by its definition;
// and sequences cut into pieces, as ring attention does, whose merged outputs and added gradients
// are those of the whole.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "tests/model/kernels/attention_operands.h"

namespace pg::model {
namespace {

using testing::AttentionCase;
using testing::AttentionInput;
using testing::AttentionResult;
using testing::expect_untouched;
using testing::expect_within;
using testing::kPad;
using testing::Packed;
using testing::Precision;

// Operands of one case, each in rows of its own width; what is written begins as NaN.
struct Parts {
  // `out`: the type of o and of the gradients.
  Parts(const AttentionCase& shape, DType type, DType out, const AttentionInput& in)
      : c(shape),
        samples(testing::sample_numbers(c)),
        wide(c.heads * c.size),
        narrow(c.kv_heads * c.size),
        query_rows(c.sequences * c.length),
        key_rows(c.sequences * c.key_count()),
        q(type, query_rows, wide + kPad),
        d_o(type, query_rows, wide + kPad),
        kv(type, key_rows, 2 * narrow + kPad),
        o(out, query_rows, wide + kPad),
        dq(out, query_rows, wide + kPad),
        dkv(out, key_rows, 2 * narrow + kPad),
        lse(accumulator_of(type), c.sequences * c.heads, c.length + kPad) {
    q.write(0, wide, in.q);
    d_o.write(0, wide, in.d_o);
    kv.write(0, narrow, in.k);
    kv.write(narrow, narrow, in.v);
  }
  TensorView queries(Packed& x) { return x.heads(c, 0, c.heads); }
  TensorView keys(Packed& x, int which) { return x.heads(c, which * narrow, c.kv_heads); }
  TensorView lse_of(Packed& x) { return x.view().split_first(c.sequences).slice(2, 0, c.length); }
  Dropout dropout() const { return {c.rate, testing::mask_key(), samples}; }

  void forward(Kernels& kernels) {
    kernels.attention_forward(queries(o), lse_of(lse), queries(q), keys(kv, 0), keys(kv, 1),
                              c.shape(), dropout());
  }
  void backward(Kernels& kernels, bool accumulate = false) {
    kernels.attention_backward(queries(dq), keys(dkv, 0), keys(dkv, 1), queries(d_o), queries(q),
                               keys(kv, 0), keys(kv, 1), queries(o), lse_of(lse), c.shape(),
                               dropout(), accumulate);
  }
  void expect_all_within(const AttentionResult& expected) {
    expect_within("o", o, 0, wide, expected.o);
    expect_within("lse", lse, 0, c.length, expected.lse);
    expect_within("dq", dq, 0, wide, expected.dq);
    expect_within("dk", dkv, 0, narrow, expected.dk);
    expect_within("dv", dkv, narrow, narrow, expected.dv);
    expect_untouched("o", o, query_rows, wide);
    expect_untouched("lse", lse, c.sequences * c.heads, c.length);
    expect_untouched("dq", dq, query_rows, wide);
    expect_untouched("dkv", dkv, key_rows, 2 * narrow);
  }

  AttentionCase c;
  std::vector<std::int64_t> samples;
  std::int64_t wide, narrow, query_rows, key_rows;
  Packed q, d_o, kv, o, dq, dkv, lse;
};

// The queries' part of where documents begin in whole sequences of c.seq.
std::vector<std::int32_t> part_of(const AttentionCase& c, const std::vector<std::int32_t>& from) {
  std::vector<std::int32_t> part;
  for (std::int64_t b = 0; b < c.sequences; ++b) {
    const auto* begin = from.data() + b * c.seq + c.first_query;
    part.insert(part.end(), begin, begin + c.length);
  }
  return part;
}

class AttentionParts : public ::testing::TestWithParam<DType> {
 protected:
  DType type() const { return GetParam(); }
  DType wide() const { return accumulator_of(GetParam()); }
};

// Where queries and keys lie to each other; windows, documents, dropout, heads and the threads (one
// pass or two) go round, out of step with it. Some queries see nothing: the reference's lse is
// minus infinity there, o and all gradients exactly 0.
TEST_P(AttentionParts, any_queries_against_any_keys_match_the_definition) {
  struct Place {
    std::int64_t first_query, queries, first_key, keys;
  };
  constexpr std::int64_t kSeq = 400;
  int turn = 0;
  for (const auto& at : {Place{0, 1, 0, 1}, Place{7, 1, 0, 8}, Place{9, 1, 3, 1}, Place{3, 1, 4, 1},
                         Place{0, 40, 0, 100}, Place{60, 40, 0, 100}, Place{100, 70, 0, 100},
                         Place{100, 65, 130, 77}, Place{0, 100, 100, 100}, Place{63, 130, 31, 99},
                         Place{200, 150, 1, 130}, Place{0, 33, 200, 1}, Place{50, 300, 90, 290},
                         Place{150, 1, 0, 300}, Place{399, 1, 0, 400}, Place{10, 200, 100, 1}}) {
    for (const std::int64_t window : {0, 1, 45}) {
      for (const std::int64_t longest : {0, 20, 150}) {
        AttentionCase c{1 + turn % 2, at.queries, 1, 1, 5, window};
        const std::int64_t sizes[] = {5, 16, 1, 24};
        c.size = sizes[turn % 4];
        c.kv_heads = 1 + turn / 3 % 2;
        c.heads = c.kv_heads * (1 + turn / 2 % 3);
        c.rate = turn / 4 % 2 == 0 ? 0.0 : 0.3;
        c.scale = 1.0 / std::sqrt(static_cast<double>(c.size));
        c.first_query = at.first_query;
        c.first_key = at.first_key;
        c.key_length = at.keys;
        c.seq = kSeq;
        if (longest > 0) {
          c.visible_from = part_of(c, testing::random_documents(c.sequences, kSeq, longest));
        }
        SCOPED_TRACE(c.text());
        const auto in = testing::random_input(c, static_cast<std::uint64_t>(turn));
        const DType out = turn % 2 == 0 ? type() : wide();
        const Precision precision(type());
        const double storage = out == type() ? precision.storage : 0.0;
        Parts run(c, type(), out, in);
        const auto kernels = make_cpu_kernels(1 + turn % 5);
        run.forward(*kernels);
        run.backward(*kernels);
        run.expect_all_within(testing::reference(c, in, precision.eps, storage));
        ++turn;
      }
    }
  }
}

// Rows of documents that lie apart, and the length of a sequence that is left open.
TEST_P(AttentionParts, documents_may_be_a_view_and_seq_may_be_that_of_the_keys) {
  AttentionCase c{2, 30, 2, 1, 8, 0, 0.3, 0.35};
  c.key_length = 70;
  c.first_query = 40;
  auto whole = testing::random_documents(2, 70, 30);
  c.seq = 70;
  c.visible_from = part_of(c, whole);
  c.seq = 0;
  const auto in = testing::random_input(c, 2);
  Parts plain(c, type(), type(), in), viewed(c, type(), type(), in);
  const auto kernels = make_cpu_kernels(1);
  plain.forward(*kernels);
  auto shape = c.shape();
  shape.seq = 70;
  shape.visible_from =
      TensorView(whole.data(), DType::kI32, {2, 70}).slice(1, c.first_query, c.length);
  kernels->attention_forward(viewed.queries(viewed.o), viewed.lse_of(viewed.lse),
                             viewed.queries(viewed.q), viewed.keys(viewed.kv, 0),
                             viewed.keys(viewed.kv, 1), shape, viewed.dropout());
  EXPECT_EQ(viewed.o.bytes(), plain.o.bytes());
  EXPECT_EQ(viewed.lse.bytes(), plain.lse.bytes());
}

// Sequences cut into pieces [cuts[i], cuts[i+1]): each meets each, outputs are merged, gradients
// added, everything through views into the whole.
struct Pieces {
  std::vector<std::int64_t> cuts;
  std::vector<std::vector<std::size_t>> order;  // of the keys' pieces, for each piece of queries

  // Zigzag: rank r of `ranks` holds pieces r and 2 ranks - 1 - r; the keys come around the ring.
  static Pieces ring(std::int64_t seq, std::int64_t ranks) {
    Pieces pieces;
    const std::int64_t count = 2 * ranks;
    for (std::int64_t i = 0; i <= count; ++i) pieces.cuts.push_back(i * seq / count);
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t rank = std::min(i, count - 1 - i);
      std::vector<std::size_t> met;
      for (std::int64_t step = 0; step < ranks; ++step) {
        const std::int64_t owner = (rank - step + ranks) % ranks;
        met.push_back(static_cast<std::size_t>(owner));
        met.push_back(static_cast<std::size_t>(count - 1 - owner));
      }
      pieces.order.push_back(met);
    }
    return pieces;
  }

  // `wrong` is added to first_key.
  void run(Parts& x, Kernels& kernels, std::int64_t wrong = 0) const {
    Packed other(accumulator_of(x.lse.view().dtype()), x.query_rows, x.wide + kPad);
    Packed other_lse(x.lse.view().dtype(), x.c.sequences * x.c.heads, x.c.length + kPad);
    auto shape = x.c.shape();
    shape.seq = x.c.length + wrong;
    const auto each = [&](const auto& work) {
      for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
        const auto query = [&](TensorView v, int axis) {
          return v.slice(axis, cuts[i], cuts[i + 1] - cuts[i]);
        };
        bool first = true;
        for (const auto j : order[i]) {
          const auto key = [&](TensorView v) { return v.slice(1, cuts[j], cuts[j + 1] - cuts[j]); };
          auto part = shape;
          part.first_query = cuts[i];
          part.first_key = cuts[j] + wrong;
          if (!part.visible_from.empty()) part.visible_from = query(part.visible_from, 1);
          work(query, key, part, first);
          first = false;
        }
      }
    };
    each([&](const auto& query, const auto& key, const AttentionShape& part, bool first) {
      other.fill(std::numeric_limits<double>::quiet_NaN());
      other_lse.fill(std::numeric_limits<double>::quiet_NaN());
      const auto o = query(x.queries(x.o), 1), lse = query(x.lse_of(x.lse), 2);
      const auto to = first ? o : query(x.queries(other), 1);
      const auto to_lse = first ? lse : query(x.lse_of(other_lse), 2);
      kernels.attention_forward(to, to_lse, query(x.queries(x.q), 1), key(x.keys(x.kv, 0)),
                                key(x.keys(x.kv, 1)), part, x.dropout());
      if (!first) kernels.attention_merge(o, lse, to, to_lse);
    });
    kernels.fill_zero(x.queries(x.dq));
    for (int which : {0, 1}) kernels.fill_zero(x.keys(x.dkv, which));
    each([&](const auto& query, const auto& key, const AttentionShape& part, bool) {
      kernels.attention_backward(query(x.queries(x.dq), 1), key(x.keys(x.dkv, 0)),
                                 key(x.keys(x.dkv, 1)), query(x.queries(x.d_o), 1),
                                 query(x.queries(x.q), 1), key(x.keys(x.kv, 0)),
                                 key(x.keys(x.kv, 1)), query(x.queries(x.o), 1),
                                 query(x.lse_of(x.lse), 2), part, x.dropout(),
                                 /*accumulate=*/true);
    });
  }
};

std::vector<AttentionCase> whole_cases() {
  const auto documents = [](AttentionCase c, std::int64_t longest) {
    c.visible_from = testing::random_documents(c.sequences, c.length, longest);
    return c;
  };
  return {AttentionCase{1, 3, 2, 1, 4, 0, 0.0, 0.5},  // some pieces are empty
          AttentionCase{1, 8, 1, 1, 1, 0, 0.0, 1.0},
          AttentionCase{2, 131, 4, 2, 16, 0, 0.0, 0.25},
          AttentionCase{1, 300, 2, 2, 7, 50, 0.0, 0.4},
          AttentionCase{1, 257, 3, 1, 16, 0, 0.3, 0.25},
          documents({2, 240, 4, 2, 8, 0, 0.0, 0.35}, 90),
          documents({2, 333, 2, 1, 12, 40, 0.2, 0.3}, 100)};
}

// The reference's bounds grow with the merges; that they still say something is asserted.
TEST_P(AttentionParts, the_pieces_of_a_ring_add_up_to_the_whole) {
  const Precision precision(type());
  for (const auto& c : whole_cases()) {
    const auto in = testing::random_input(c, 21);
    for (const std::int64_t ranks : {1, 2, 3, 4}) {
      SCOPED_TRACE(fmt::format("{} ranks: {}", ranks, c.text()));
      const auto expected = testing::reference(c, in, precision.eps, 0.0, 2 * ranks - 1);
      const double worst = *std::max_element(expected.o.bound.begin(), expected.o.bound.end());
      EXPECT_LT(worst, 1e5 * precision.eps) << "too wide a bound for outputs of order 1";
      for (const int threads : {1, 5}) {
        Parts pieces(c, type(), wide(), in);
        const auto kernels = make_cpu_kernels(threads);
        Pieces::ring(c.length, ranks).run(pieces, *kernels);
        pieces.expect_all_within(expected);
      }
    }
  }
}

// The comparison sees a piece that stands one position beside its place.
TEST_P(AttentionParts, a_wrong_first_key_is_found) {
  const Precision precision(type());
  for (const auto& c : whole_cases()) {
    SCOPED_TRACE(c.text());
    const auto in = testing::random_input(c, 21);
    const auto expected = testing::reference(c, in, precision.eps, 0.0, 3);
    Parts pieces(c, type(), wide(), in);
    const auto kernels = make_cpu_kernels(1);
    Pieces::ring(c.length, 2).run(pieces, *kernels, /*wrong=*/1);
    EXPECT_GT(testing::count_outside("o", pieces.o, 0, pieces.wide, expected.o), 0);
    EXPECT_GT(testing::count_outside("lse", pieces.lse, 0, c.length, expected.lse), 0);
    EXPECT_GT(testing::count_outside("dv", pieces.dkv, pieces.narrow, pieces.narrow, expected.dv),
              0);
  }
}

std::vector<double> columns_of(const Packed& x, std::int64_t rows, std::int64_t columns) {
  std::vector<double> values;
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t i = 0; i < columns; ++i) values.push_back(x.get(row, i));
  }
  return values;
}

// to + x as a gradient of `type` adds, in the accumulator type.
double added(DType type, double to, double x) {
  if (type == DType::kF64) return to + x;
  const float sum = static_cast<float>(to) + static_cast<float>(x);
  return static_cast<double>(type == DType::kF32 ? sum : static_cast<float>(bf16(sum)));
}

// Results of the accumulator type are those of the compute type before their rounding; `accumulate`
// adds just those, once, in one pass (1 thread) as in two (5), for blocks that see nothing too.
TEST_P(AttentionParts, gradients_add_once_and_round_once_on_every_path) {
  AttentionCase c{1, 300, 4, 2, 20, 60, 0.3, 0.22};
  c.first_query = 130;
  c.first_key = 100;
  c.key_length = 290;
  c.seq = 500;
  c.visible_from = part_of(c, testing::random_documents(1, c.seq, 90));
  const auto in = testing::random_input(c, 8);
  Parts exact(c, type(), wide(), in);
  const auto single = make_cpu_kernels(1);
  exact.forward(*single);
  exact.backward(*single);
  for (const int threads : {1, 5}) {
    const auto kernels = make_cpu_kernels(threads);
    for (const DType out : {type(), wide()}) {
      for (const bool accumulate : {false, true}) {
        SCOPED_TRACE(fmt::format("{} threads, {}, {}", threads, dtype_name(out), accumulate));
        Parts x(c, type(), out, in);
        x.forward(*kernels);
        EXPECT_EQ(x.lse.bytes(), exact.lse.bytes());
        const auto want_o = columns_of(exact.o, exact.query_rows, exact.wide);
        const auto got_o = columns_of(x.o, x.query_rows, x.wide);
        for (std::size_t i = 0; i < got_o.size(); ++i) {
          ASSERT_EQ(got_o[i], added(out, 0.0, want_o[i])) << i;
        }
        if (accumulate) {
          x.dq.fill(0.375);
          x.dkv.fill(0.375);
        }
        // Of the same o: one rounded to bf16 has another gradient.
        kernels->attention_backward(x.queries(x.dq), x.keys(x.dkv, 0), x.keys(x.dkv, 1),
                                    x.queries(x.d_o), x.queries(x.q), x.keys(x.kv, 0),
                                    x.keys(x.kv, 1), exact.queries(exact.o), x.lse_of(x.lse),
                                    c.shape(), x.dropout(), accumulate);
        const auto compare = [&](const Packed& got, const Packed& want, std::int64_t rows,
                                 std::int64_t columns) {
          const auto a = columns_of(got, rows, columns), b = columns_of(want, rows, columns);
          for (std::size_t i = 0; i < a.size(); ++i) {
            ASSERT_EQ(a[i], added(out, accumulate ? 0.375 : 0.0, b[i])) << i;
          }
        };
        compare(x.dq, exact.dq, x.query_rows, x.wide);
        compare(x.dkv, exact.dkv, x.key_rows, 2 * x.narrow);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(, AttentionParts,
                         ::testing::Values(DType::kF64, DType::kF32, DType::kBF16),
                         [](const auto& param) { return std::string(dtype_name(param.param)); });

}  // namespace
}  // namespace pg::model

// Attention on the GPU against the CPU's. Operands are standard normal, so that one bound holds
// for all of them.
//
// Bounds. In fp64 and fp32 a score is a sum of D products and an output one of S: D + S roundings
// of the accumulator type, and a constant for scale, exponential and quotient (the exponent's own
// error is its size, below 16 here, times the rounding). In bf16 both backends sum in fp32; tensor
// cores take the probabilities and the slopes dS rounded to bf16, and each backend rounds its
// output: three roundings of bf16. Where a gradient vanishes (a query that sees one key) it is a
// difference of numbers near 1: errors are therefore measured against at least the probability of a
// key among all those that a query sees.
#include <fmt/format.h>

#include <cmath>

#include "model/kernels/cuda/attention.h"
#include "tests/cuda/mirror.h"
#include "tests/cuda/tolerance.h"

namespace pg::model::testing {
namespace {

struct Case {
  std::int64_t sequences, queries, keys, heads, kv_heads, size;
  std::int64_t window = 0, first_query = 0, first_key = 0;
  bool documents = false;
  double rate = 0.0;
  bool wide = false, accumulate = false;  // outputs in the accumulator type; gradients added to
  std::int64_t before = 0;                // elements before a row's heads: strides, alignment
};

std::string text(const Case& c) {
  return fmt::format("B{} Q{} S{} H{} K{} D{} window {} from {} and {}{}{}{}{} before {}",
                     c.sequences, c.queries, c.keys, c.heads, c.kv_heads, c.size, c.window,
                     c.first_query, c.first_key, c.documents ? " documents" : "",
                     c.rate > 0 ? " dropout" : "", c.wide ? " wide" : "",
                     c.accumulate ? " added" : "", c.before);
}

double bound(DType type, const Case& c) {
  const double sums = epsilon_of(accumulator_of(type)) * static_cast<double>(c.size + c.keys + 32);
  return type == DType::kBF16 ? sums + 3 * epsilon_of(type) : sums;
}

// Keys that a query sees at most.
std::int64_t most_seen(const Case& c) {
  const auto keys = std::max<std::int64_t>(c.keys, 1);
  return c.window > 0 ? std::min(c.window, keys) : keys;
}

// As deviation(), but against numbers of at least 1 / most_seen.
double error_of(const Mirror& x, const Case& c) {
  const auto gpu = x.from_device();
  const double unit = 1.0 / static_cast<double>(most_seen(c));
  double difference = 0.0, size = 0.0;
  for (std::int64_t i = 0; i < x.elements(); ++i) {
    const double a = x.at_host(i), b = gpu[static_cast<std::size_t>(i)];
    if (std::isnan(a) != std::isnan(b)) return INFINITY;
    if (!std::isnan(a) && a != b) difference += (a - b) * (a - b);
    if (std::isfinite(a)) size += std::max(a * a, unit * unit);
  }
  return difference == 0.0 ? 0.0 : std::sqrt(difference / size);
}

// [B, rows, heads, D] inside of longer rows.
struct Heads {
  Mirror memory;
  std::int64_t before, heads, size;

  Heads(DType type, std::int64_t sequences, std::int64_t rows, std::int64_t count,
        std::int64_t head_size, std::int64_t gap)
      : memory(type, {sequences, rows, gap + count * head_size + gap}),
        before(gap),
        heads(count),
        size(head_size) {}
  TensorView part(const TensorView& x) const {
    return x.slice(2, before, heads * size).split_last(size);
  }
  TensorView host() const { return part(memory.host()); }
  TensorView device() const { return part(memory.device()); }
};

struct Operands {
  Heads q, k, v, o, d_o, dq, dk, dv;
  Mirror lse, documents;
  AttentionShape host, device;
  Dropout dropout;
  std::vector<std::int64_t> samples;

  Operands(DType type, const Case& c)
      : q(type, c.sequences, c.queries, c.heads, c.size, c.before),
        k(type, c.sequences, c.keys, c.kv_heads, c.size, c.before),
        v(type, c.sequences, c.keys, c.kv_heads, c.size, c.before),
        o(c.wide ? accumulator_of(type) : type, c.sequences, c.queries, c.heads, c.size, c.before),
        d_o(type, c.sequences, c.queries, c.heads, c.size, c.before),
        dq(o.memory.dtype(), c.sequences, c.queries, c.heads, c.size, c.before),
        dk(o.memory.dtype(), c.sequences, c.keys, c.kv_heads, c.size, c.before),
        dv(type, c.sequences, c.keys, c.kv_heads, c.size, c.before),
        lse(accumulator_of(type), {c.sequences, c.heads, c.queries}),
        documents(DType::kI32, {c.sequences, c.queries + 5}) {
    q.memory.normal("q"), k.memory.normal("k"), v.memory.normal("v"), d_o.memory.normal("do");
    if (c.accumulate) dq.memory.normal("dq"), dk.memory.normal("dk"), dv.memory.normal("dv");
    host.scale = 1.0 / std::sqrt(static_cast<double>(c.size));
    host.window = c.window;
    host.first_query = c.first_query;
    host.first_key = c.first_key;
    host.seq = std::max(c.first_query + c.queries, c.first_key + c.keys) + 2;
    device = host;
    if (c.documents) {
      // Beginnings at every 37th position, later in later sequences.
      std::vector<double> from;
      for (std::int64_t b = 0; b < c.sequences; ++b) {
        for (std::int64_t i = 0; i < c.queries + 5; ++i) {
          const auto p = c.first_query + i;
          from.push_back(
              static_cast<double>(p - (p + 11 * b) % 37 < 0 ? 0 : p - (p + 11 * b) % 37));
        }
      }
      documents.values(from);
      host.visible_from = documents.host().slice(1, 0, c.queries);
      device.visible_from = documents.device().slice(1, 0, c.queries);
    }
    if (c.rate > 0.0) {
      for (std::int64_t b = 0; b < c.sequences; ++b) samples.push_back(1000 + 7 * b);
      dropout = {c.rate, comm::random_key(3, "attention"), samples};
      dropout.first_head = 2;
    }
  }
};

void forward(Backends& both, Operands& x) {
  both.cpu->attention_forward(x.o.host(), x.lse.host(), x.q.host(), x.k.host(), x.v.host(), x.host,
                              x.dropout);
  both.cuda->attention_forward(x.o.device(), x.lse.device(), x.q.device(), x.k.device(),
                               x.v.device(), x.device, x.dropout);
}
void backward_on_gpu(Backends& both, Operands& x, bool accumulate) {
  both.cuda->attention_backward(x.dq.device(), x.dk.device(), x.dv.device(), x.d_o.device(),
                                x.q.device(), x.k.device(), x.v.device(), x.o.device(),
                                x.lse.device(), x.device, x.dropout, accumulate);
}
void backward(Backends& both, Operands& x, bool accumulate) {
  both.cpu->attention_backward(x.dq.host(), x.dk.host(), x.dv.host(), x.d_o.host(), x.q.host(),
                               x.k.host(), x.v.host(), x.o.host(), x.lse.host(), x.host, x.dropout,
                               accumulate);
  backward_on_gpu(both, x, accumulate);
}

void expect_same(Backends& both, DType type, const Case& c) {
  SCOPED_TRACE(std::string(dtype_name(type)) + " " + text(c));
  const double most = bound(type, c);
  Operands x(type, c);
  forward(both, x);
  EXPECT_LE(error_of(x.o.memory, c), most) << "o";
  EXPECT_LE(error_of(x.lse, c), most) << "lse";
  const auto o = x.o.memory.from_device(), lse = x.lse.from_device();
  both.cuda->attention_forward(x.o.device(), x.lse.device(), x.q.device(), x.k.device(),
                               x.v.device(), x.device, x.dropout);
  EXPECT_TRUE(same_bits(o, x.o.memory.from_device()) && same_bits(lse, x.lse.from_device()))
      << "another forward has other bits";

  // Both differentiate the same forward.
  x.o.memory.upload(), x.lse.upload();
  backward(both, x, c.accumulate);
  const Heads* const gradients[] = {&x.dq, &x.dk, &x.dv};
  std::vector<std::vector<double>> first;
  for (const auto* g : gradients) {
    EXPECT_LE(error_of(g->memory, c), most) << (g == &x.dq ? "dq" : g == &x.dk ? "dk" : "dv");
    first.push_back(g->memory.from_device());
  }
  if (c.accumulate) return;
  backward_on_gpu(both, x, false);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_TRUE(same_bits(first[i], gradients[i]->memory.from_device())) << "gradient " << i;
  }
}

TEST(CudaAttention, is_the_cpus_for_odd_sizes_and_grouped_heads) {
  Backends both;
  for (const auto type : kComputeTypes) {
    for (const Case& c : std::vector<Case>{{1, 1, 1, 1, 1, 1},
                                           {2, 3, 3, 2, 1, 3},
                                           {1, 17, 17, 3, 3, 16},
                                           {2, 65, 65, 4, 2, 24},
                                           {1, 129, 129, 2, 1, 64},
                                           {1, 130, 130, 2, 2, 96},
                                           {1, 100, 100, 4, 1, 128}}) {
      expect_same(both, type, c);
    }
  }
}

TEST(CudaAttention, is_the_cpus_for_large_heads) {
  Backends both;
  for (const auto type : kComputeTypes) {
    expect_same(both, type, {1, 70, 70, 1, 1, 136});
    expect_same(both, type, {1, 70, 70, 2, 1, 256});
    expect_same(both, type, {1, 33, 33, 1, 1, 300});
  }
}

TEST(CudaAttention, windows_positions_and_documents) {
  Backends both;
  for (const auto type : kComputeTypes) {
    for (const Case& c :
         std::vector<Case>{{1, 150, 150, 2, 1, 64, /*window=*/1},
                           {1, 150, 150, 2, 1, 64, /*window=*/40},
                           {1, 140, 140, 1, 1, 32, /*window=*/100},
                           {1, 50, 150, 2, 1, 64, 0, /*first_query=*/100, /*first_key=*/0},
                           {1, 70, 150, 2, 1, 64, 33, 100, 20},
                           // Later keys, the last of which some queries see; and none.
                           {1, 100, 60, 2, 2, 64, 0, 30, 70},
                           {1, 40, 60, 2, 2, 64, 0, 3, 70},
                           // Keys beyond the window of some queries, and of all.
                           {1, 90, 50, 2, 2, 64, 20, 60, 20},
                           {1, 20, 30, 2, 2, 64, 5, 60, 20},
                           {2, 150, 150, 2, 1, 64, 0, 0, 0, /*documents=*/true},
                           {2, 70, 170, 2, 1, 40, 30, 100, 0, true},
                           {2, 200, 64, 2, 1, 128, 0, 64, 0, true}}) {
      expect_same(both, type, c);
    }
  }
}

TEST(CudaAttention, dropout_drops_what_the_cpu_drops) {
  Backends both;
  for (const auto type : kComputeTypes) {
    expect_same(both, type, {2, 67, 67, 2, 1, 64, 0, 0, 0, false, 0.1});
    expect_same(both, type, {3, 33, 90, 2, 2, 20, 50, 57, 0, true, 0.5});
    expect_same(both, type, {1, 35, 35, 1, 1, 256, 0, 0, 0, false, 0.25});
  }
}

TEST(CudaAttention, wide_outputs_added_gradients_and_strides) {
  Backends both;
  for (const auto type : kComputeTypes) {
    expect_same(both, type, {2, 66, 66, 2, 1, 64, 0, 0, 0, false, 0.0, /*wide=*/true});
    expect_same(both, type, {1, 66, 66, 2, 1, 24, 0, 0, 0, true, 0.0, true, /*accumulate=*/true});
    expect_same(both, type, {1, 66, 66, 2, 1, 64, 0, 0, 0, false, 0.0, false, true});
    // Aligned rows, rows of any alignment, and odd heads.
    for (const std::int64_t before : {8, 3, 1}) {
      expect_same(both, type,
                  {2, 40, 40, 4, 2, 32, 0, 0, 0, false, 0.0, before == 1, false, before});
    }
    expect_same(both, type, {1, 40, 40, 3, 1, 7, 0, 0, 0, false, 0.0, false, false, 2});
  }
}

TEST(CudaAttention, any_scale) {
  Backends both;
  for (const auto type : kComputeTypes) {
    for (const double scale : {-0.2, 0.0, 0.7}) {
      const Case c{1, 40, 40, 2, 1, 16};
      Operands x(type, c);
      x.host.scale = x.device.scale = scale;
      forward(both, x);
      EXPECT_LE(error_of(x.o.memory, c), bound(type, c)) << scale;
      EXPECT_LE(error_of(x.lse, c), bound(type, c)) << scale;
      x.o.memory.upload(), x.lse.upload();
      backward(both, x, false);
      for (const auto* g : {&x.dq, &x.dk, &x.dv}) {
        EXPECT_LE(error_of(g->memory, c), bound(type, c)) << scale;
      }
    }
  }
}

TEST(CudaAttention, bits_do_not_depend_on_alignment) {
  Backends both;
  for (const auto type : kComputeTypes) {
    // With documents: cuDNN, which would take aligned rows alone, is not asked.
    const Case aligned{1, 70, 70, 2, 1, 64, 0, 0, 0, true, 0.0, false, false, 8};
    Case other = aligned;
    other.before = 3;
    Operands x(type, aligned), y(type, other);
    for (const auto member : {&Operands::q, &Operands::k, &Operands::v, &Operands::d_o}) {
      both.cuda->copy((y.*member).device(), (x.*member).device());
    }
    for (auto* at : {&x, &y}) {
      both.cuda->attention_forward(at->o.device(), at->lse.device(), at->q.device(), at->k.device(),
                                   at->v.device(), at->device, {});
      backward_on_gpu(both, *at, false);
    }
    for (const auto member : {&Operands::o, &Operands::dq, &Operands::dk, &Operands::dv}) {
      // What one wrote, over what the other wrote: nothing changes.
      const auto before = (y.*member).memory.from_device();
      both.cuda->copy((y.*member).device(), (x.*member).device());
      const auto after = (y.*member).memory.from_device();
      EXPECT_EQ(0, std::memcmp(before.data(), after.data(), before.size() * sizeof(double)))
          << dtype_name(type);
    }
  }
}

TEST(CudaAttention, no_keys_and_no_queries) {
  Backends both;
  for (const auto type : kComputeTypes) {
    expect_same(both, type, {1, 5, 0, 2, 1, 64, 0, 5, 0});
    expect_same(both, type, {1, 0, 5, 2, 1, 64});
    expect_same(both, type, {0, 5, 5, 2, 1, 64});
  }
}

TEST(CudaAttention, infinite_and_nan_operands_are_not_taken_for_invisible_ones) {
  Backends both;
  for (const auto type : kComputeTypes) {
    const Case c{1, 20, 20, 1, 1, 1};
    Operands x(type, c);
    x.q.memory.fill(1.0);
    x.k.memory.fill(-INFINITY);
    forward(both, x);
    for (const double o : x.o.memory.from_device()) EXPECT_TRUE(std::isnan(o));
    for (const double lse : x.lse.from_device()) EXPECT_TRUE(std::isnan(lse));
    EXPECT_EQ(error_of(x.o.memory, c), 0.0);

    Operands y(type, c);
    std::vector<double> q(20, 0.5);
    q[7] = NAN;
    y.q.memory.values(q);
    forward(both, y);
    EXPECT_TRUE(std::isnan(y.o.memory.from_device()[7]));
    EXPECT_LE(error_of(y.o.memory, c), bound(type, c));
    EXPECT_LE(error_of(y.lse, c), bound(type, c));
  }
}

TEST(CudaAttention, the_comparison_can_fail) {
  Backends both;
  for (const auto type : kComputeTypes) {
    // One key more or less in the window; one position later; another mask of the same rate.
    for (int wrong = 0; wrong < 3; ++wrong) {
      const Case c{1, 80, 80, 1, 1, 64, 40, 0, 0, false, wrong == 2 ? 0.1 : 0.0};
      Operands x(type, c);
      if (wrong == 0) x.device.window += 1;
      if (wrong == 1) x.device.first_query += 1;
      if (wrong == 2) x.device.seq += 1;
      forward(both, x);
      EXPECT_GT(error_of(x.o.memory, c), bound(type, c)) << dtype_name(type) << " " << wrong;
    }
  }
}

TEST(CudaAttention, merged_halves_are_the_whole) {
  Backends both;
  for (const auto type : kComputeTypes) {
    const Case whole{1, 60, 90, 2, 1, 64, 0, 50, 0, false, 0.0, /*wide=*/true};
    Operands x(type, whole);
    Case half = whole;
    half.keys = 45;
    Operands a(type, half), b(type, half);
    forward(both, x);
    for (auto* part : {&a, &b}) {
      const std::int64_t first = part == &a ? 0 : 45;
      part->device.first_key = first;
      both.cuda->attention_forward(part->o.device(), part->lse.device(), x.q.device(),
                                   x.k.device().slice(1, first, 45),
                                   x.v.device().slice(1, first, 45), part->device, {});
    }
    both.cuda->attention_merge(a.o.device(), a.lse.device(), b.o.device(), b.lse.device());
    both.cuda->copy(x.o.device(), a.o.device());
    both.cuda->copy(x.lse.device(), a.lse.device());
    EXPECT_LE(error_of(x.o.memory, whole), bound(type, whole));
    EXPECT_LE(error_of(x.lse, whole), bound(type, whole));
  }
}

TEST(CudaAttention, cudnn_is_asked_for_what_it_computes_alone) {
  const auto view = [](DType type, std::int64_t rows, std::int64_t heads, std::int64_t size) {
    return TensorView(nullptr, type, {2, rows, heads, size}, Device::kCuda);
  };
  const auto refuses = [&](DType type, DType of_o, std::int64_t queries, std::int64_t keys,
                           std::int64_t size, const AttentionShape& shape = {}, double rate = 0.0) {
    Dropout dropout;
    dropout.rate = rate;
    const auto q = view(type, queries, 8, size), k = view(type, keys, 2, size);
    const auto why =
        cuda::CudaAttention::cudnn_refuses(view(of_o, queries, 8, size), q, k, k, shape, dropout);
    EXPECT_EQ(why.empty(),
              cuda::CudaAttention::takes(view(of_o, queries, 8, size), q, k, k, shape, dropout));
    return why;
  };
  constexpr auto kHalf = DType::kBF16, kSingle = DType::kF32;
  AttentionShape apart, ring, documents, window, negative;
  negative.scale = -1.0;
  apart.first_query = 64;
  ring.first_query = ring.first_key = 64;
  documents.visible_from = TensorView(nullptr, DType::kI32, {2, 128}, Device::kCuda);
  window.window = 16;
  EXPECT_EQ(refuses(kHalf, kHalf, 128, 128, 64), "");
  EXPECT_EQ(refuses(kHalf, kHalf, 128, 128, 128, ring), "");
  EXPECT_EQ(refuses(kHalf, kHalf, 128, 128, 128, window), "");
  EXPECT_EQ(refuses(kSingle, kSingle, 128, 128, 64), "fp32");
  EXPECT_EQ(refuses(DType::kF64, DType::kF64, 128, 128, 64), "fp64");
  EXPECT_EQ(refuses(kHalf, kSingle, 128, 128, 64), "an output in fp32");
  EXPECT_EQ(refuses(kHalf, kHalf, 128, 128, 64, {}, 0.1), "dropout");
  EXPECT_EQ(refuses(kHalf, kHalf, 128, 128, 64, documents), "documents");
  EXPECT_EQ(refuses(kHalf, kHalf, 128, 128, 64, apart), "queries that stand apart from the keys");
  EXPECT_EQ(refuses(kHalf, kHalf, 128, 128, 64, negative), "a scale that is not positive");
  EXPECT_EQ(refuses(kHalf, kHalf, 128, 256, 64), "other queries than keys");
  EXPECT_EQ(refuses(kHalf, kHalf, 128, 128, 60), "heads of 60");
  EXPECT_EQ(refuses(kHalf, kHalf, 128, 128, 256), "heads of 256");
}

}  // namespace
}  // namespace pg::model::testing

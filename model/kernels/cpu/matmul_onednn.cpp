#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <exception>
#include <map>
#include <oneapi/dnnl/dnnl.hpp>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "comm/error.h"
#include "model/kernels/cpu/matmul.h"

namespace pg::model {

namespace {

using Tag = dnnl::memory::format_tag;

dnnl::memory::data_type onednn_type(DType type) {
  PG_ASSERT(type == DType::kF32 || type == DType::kBF16, "{}", dtype_name(type));
  return type == DType::kF32 ? dnnl::memory::data_type::f32 : dnnl::memory::data_type::bf16;
}

// A stored matrix seen as [rows, cols] after an optional transposition.
dnnl::memory::desc matrix(const TensorView& x, bool transpose) {
  const auto type = onednn_type(x.dtype());
  if (transpose) return {{x.dim(1), x.dim(0)}, type, dnnl::memory::dims{1, x.stride(0)}};
  return {{x.dim(0), x.dim(1)}, type, dnnl::memory::dims{x.stride(0), 1}};
}

// What tells one primitive from another.
using Key = std::tuple<std::int64_t, std::int64_t, std::int64_t, std::int64_t, std::int64_t, DType,
                       DType, bool, bool, bool, bool, bool>;

struct Product {
  dnnl::matmul primitive;
  dnnl::memory::desc a, b, packed_b, c, bias, scratchpad;
};

// Who works on a product: all threads, or the calling one alone.
enum class Team : std::uint8_t { kAll, kOne };

// A primitive is cut for the threads that OpenMP would take while it is made.
class ThreadsOf {
 public:
  explicit ThreadsOf(Team team) : before_(omp_get_max_threads()) {
    if (team == Team::kOne) omp_set_num_threads(1);
  }
  ~ThreadsOf() { omp_set_num_threads(before_); }
  ThreadsOf(const ThreadsOf&) = delete;
  ThreadsOf& operator=(const ThreadsOf&) = delete;

 private:
  int before_;
};

struct Packed {
  dnnl::memory::desc from;
  dnnl::memory memory;
  bool current = false;
};

}  // namespace

struct MatmulEngine::Impl {
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream{engine};
  std::map<Key, Product> products;
  std::unordered_map<const void*, std::vector<Packed>> packed;  // by the weight's address
  std::vector<char> scratch;                                    // a packed operand of one call

  Product make(const MatmulArgs& args, Team team) {
    const ThreadsOf threads(team);
    Product p;
    p.a = matrix(args.a, args.transpose_a);
    p.b = matrix(args.b, args.transpose_b);
    p.c = matrix(args.c, false);
    dnnl::primitive_attr attributes;
    // The library's own scratch memory belongs to the thread that made the primitive.
    if (team == Team::kOne) attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    if (args.accumulate) {
      dnnl::post_ops post;
      post.append_sum(1.0F);
      attributes.set_post_ops(post);
    }
    const auto dims = p.b.dims();
    const dnnl::memory::desc any(dims, onednn_type(args.b.dtype()), Tag::any);
    if (!args.bias.empty()) {
      p.bias = {{1, args.bias.dim(0)}, onednn_type(args.bias.dtype()), Tag::ab};
    }
#if DNNL_VERSION_MAJOR >= 3
    const dnnl::matmul::primitive_desc pd =
        args.bias.empty() ? dnnl::matmul::primitive_desc(engine, p.a, any, p.c, attributes)
                          : dnnl::matmul::primitive_desc(engine, p.a, any, p.bias, p.c, attributes);
#else
    const auto description = args.bias.empty() ? dnnl::matmul::desc(p.a, any, p.c)
                                               : dnnl::matmul::desc(p.a, any, p.bias, p.c);
    const dnnl::matmul::primitive_desc pd(description, attributes, engine);
#endif
    p.packed_b = pd.weights_desc();
    p.scratchpad = pd.scratchpad_desc();
    p.primitive = dnnl::matmul(pd);
    return p;
  }

  Product& product(const MatmulArgs& args, Team team) {
    const Key key{args.c.dim(0),    args.c.dim(1),   p_inner(args),     args.a.stride(0),
                  args.b.stride(0), args.a.dtype(),  args.c.dtype(),    args.transpose_a,
                  args.transpose_b, args.accumulate, args.bias.empty(), team == Team::kOne};
    auto found = products.find(key);
    if (found == products.end()) found = products.emplace(key, make(args, team)).first;
    PG_ASSERT(args.c.stride(0) == args.c.dim(1), "strided result {}", args.c.text());
    return found->second;
  }

  static std::int64_t p_inner(const MatmulArgs& args) {
    return args.transpose_a ? args.a.dim(0) : args.a.dim(1);
  }

  void reorder(const Product& p, const MatmulArgs& args, dnnl::memory& to) {
    dnnl::memory from(p.b, engine, args.b.raw());
    dnnl::reorder(from, to).execute(stream, from, to);
  }

  dnnl::memory second_operand(const Product& p, const MatmulArgs& args) {
    if (p.packed_b == p.b) return {p.b, engine, args.b.raw()};
    if (!args.keep_packed) {
      if (scratch.size() < p.packed_b.get_size()) scratch.resize(p.packed_b.get_size());
      dnnl::memory packed_b(p.packed_b, engine, scratch.data());
      reorder(p, args, packed_b);
      return packed_b;
    }
    auto& copies = packed[args.b.raw()];
    for (auto& copy : copies) {
      if (copy.from != p.b || copy.memory.get_desc() != p.packed_b) continue;
      if (!copy.current) reorder(p, args, copy.memory);
      copy.current = true;
      return copy.memory;
    }
    auto& copy = copies.emplace_back(Packed{p.b, dnnl::memory(p.packed_b, engine), true});
    reorder(p, args, copy.memory);
    return copy.memory;
  }

  template <class Counts>
  std::size_t bytes(const Counts& counts) const {
    std::size_t total = 0;
    for (const auto& [address, copies] : packed) {
      for (const auto& copy : copies) {
        if (counts(copy)) total += copy.memory.get_desc().get_size();
      }
    }
    return total;
  }

  std::unordered_map<int, dnnl::memory> operands(const Product& p, const MatmulArgs& args,
                                                 const dnnl::memory& weights) const {
    std::unordered_map<int, dnnl::memory> all{{DNNL_ARG_SRC, {p.a, engine, args.a.raw()}},
                                              {DNNL_ARG_WEIGHTS, weights},
                                              {DNNL_ARG_DST, {p.c, engine, args.c.raw()}}};
    if (!args.bias.empty()) {
      all.insert({DNNL_ARG_BIAS, dnnl::memory(p.bias, engine, args.bias.raw())});
    }
    return all;
  }

  void run(const MatmulArgs& args) {
    auto& p = product(args, Team::kAll);
    p.primitive.execute(stream, operands(p, args, second_operand(p, args)));
    stream.wait();
  }

  void run_each(std::span<const MatmulArgs> all) {
    // What the engine keeps changes here only, before the threads share it.
    std::vector<std::pair<const Product*, dnnl::memory>> prepared;
    prepared.reserve(all.size());
    for (const MatmulArgs& args : all) {
      PG_ASSERT(args.keep_packed, "{} is not a weight", args.b.text());
      const Product& p = product(args, Team::kOne);
      prepared.emplace_back(&p, second_operand(p, args));
    }
    const int count = static_cast<int>(all.size());
    std::exception_ptr failure;
#pragma omp parallel num_threads(std::clamp(count, 1, omp_get_max_threads()))
    {
      omp_set_num_threads(1);  // of this thread's own, within this region
      dnnl::stream own(engine);
      std::vector<char> scratchpad;
#pragma omp for schedule(static)
      for (int i = 0; i < count; ++i) {
        const auto& [p, weights] = prepared[i];
        try {
          auto memories = operands(*p, all[i], weights);
          scratchpad.resize(std::max(scratchpad.size(), p->scratchpad.get_size()));
          memories.insert({DNNL_ARG_SCRATCHPAD, {p->scratchpad, engine, scratchpad.data()}});
          p->primitive.execute(own, memories);
          own.wait();
        } catch (...) {
#pragma omp critical(pg_matmul_failure)
          failure = std::current_exception();
        }
      }
    }
    if (failure) std::rethrow_exception(failure);
  }
};

MatmulEngine::MatmulEngine() : impl_(std::make_unique<Impl>()) {}
MatmulEngine::~MatmulEngine() = default;

namespace {

// What oneDNN throws, as one of our own errors.
template <class Work>
void translating_errors(const MatmulArgs& args, const Work& work) {
  try {
    work();
  } catch (const dnnl::error& error) {
    if (error.status == dnnl_unimplemented) {
      throw fail(ExitCode::kDeck,
                 "run.precision: this processor or oneDNN has no {} matrix product (legal here: "
                 "fp32, fp64)",
                 dtype_name(args.a.dtype()));
    }
    throw fail(ExitCode::kBug, "bug: oneDNN: {} for {} = {} x {}", error.what(), args.c.text(),
               args.a.text(), args.b.text());
  }
}

}  // namespace

void MatmulEngine::run(const MatmulArgs& args) {
  if (args.a.dtype() == DType::kF64) return matmul_f64(args);
  translating_errors(args, [&] { impl_->run(args); });
}

void MatmulEngine::run_each(std::span<const MatmulArgs> products) {
  if (products.empty()) return;
  if (products.front().a.dtype() == DType::kF64) {
    for (const MatmulArgs& args : products) matmul_f64(args);
    return;
  }
  translating_errors(products.front(), [&] { impl_->run_each(products); });
}

void MatmulEngine::forget_packed() {
  for (auto& [address, copies] : impl_->packed) {
    for (auto& copy : copies) copy.current = false;
  }
}

void MatmulEngine::forget_packed(const void* begin, std::size_t bytes) {
  // As numbers: weights lie in unrelated allocations. A weight that only reaches into the range is
  // stale as well.
  const auto from = reinterpret_cast<std::uintptr_t>(begin), to = from + bytes;
  for (auto& [address, copies] : impl_->packed) {
    const auto weight = reinterpret_cast<std::uintptr_t>(address);
    if (weight >= to) continue;
    for (auto& copy : copies) {
      if (weight + copy.from.get_size() > from) copy.current = false;
    }
  }
}

std::size_t MatmulEngine::packed_bytes() const {
  return impl_->bytes([](const Packed&) { return true; });
}

std::size_t MatmulEngine::current_bytes() const {
  return impl_->bytes([](const Packed& copy) { return copy.current; });
}

}  // namespace pg::model

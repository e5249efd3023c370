// Each operation of the CUDA backend at the sizes of large models, beside this GPU's own ceilings,
// in one process: the bytes that must move at the least beside a copy's rate, and the arithmetic of
// products and attention beside that of a product of 8192^3.
//
//   build/tests/bench_gpu_kernels [--out FILE] [--tiny] [NAME...]
//   build/tests/bench_gpu_kernels --floors
//
// NAME: only operations whose name or shape holds one of these. A time is that of a batch of calls
// between two reads of one element, the calls taking turns on sets of operands that are together
// larger than the cache; the median of several batches.
#include <fmt/format.h>

#include <chrono>
#include <cmath>

#include "app/matmul_rate.h"
#include "bench/gpu_bench.h"
#include "bench/gpu_kernel_cases.h"
#include "comm/gpu.h"
#include "comm/mpi_session.h"

namespace {

using namespace pg;
using Clock = std::chrono::steady_clock;

constexpr std::size_t kCache = std::size_t{64} << 20;  // a large GPU's, rounded up

struct Sizes {
  std::vector<bench::ModelSizes> models;
  bench::ExpertSizes experts;
  std::int64_t copied, noise;  // elements
};
Sizes large_sizes() {
  return {{{"8B", 1, 8192, 4096, 32, 8, 128, 14336, 128256, true, 2048},
           {"1.5B", 16, 1024, 1600, 25, 25, 64, 6400, 50257, false, 4096}},
          {"64 experts", 8192, 2048, 1024, 64, 8},
          std::int64_t{1} << 29,
          (std::int64_t{1} << 22) + 7};
}
// One of each, as small as they may be.
Sizes tiny_sizes() {
  return {{{"tiny llama", 1, 24, 32, 4, 2, 8, 40, 61, true, 9},
           {"tiny gpt2", 2, 12, 24, 3, 3, 8, 33, 51, false, 8}},
          {"4 experts", 12, 16, 8, 4, 2},
          1024,
          1000};
}

std::vector<bench::KernelCase> all_cases(const Sizes& sizes) {
  std::vector<bench::KernelCase> cases;
  for (const auto& model : sizes.models) {
    for (auto& c : bench::model_cases(model)) cases.push_back(std::move(c));
  }
  for (auto& c : bench::expert_cases(sizes.experts)) cases.push_back(std::move(c));
  return cases;
}

struct Times {
  double seconds = 0, least = 0, most = 0;  // a call
  std::int64_t sets = 0, calls = 0;
};

class Clockwork {
 public:
  Clockwork(model::Kernels& kernels, const Sizes& sizes, bool tiny)
      : kernels_(kernels),
        noise_arena_(static_cast<std::size_t>(sizes.noise) * sizeof(float) + 4096,
                     model::Buffer::Kind::kReal, Device::kCuda),
        tiny_(tiny) {
    const auto key = comm::random_key(1, "bench/noise");
    std::vector<float> values(static_cast<std::size_t>(sizes.noise));
#pragma omp parallel for
    for (std::int64_t i = 0; i < sizes.noise; ++i) {
      values[static_cast<std::size_t>(i)] =
          static_cast<float>(comm::random_normal(key, static_cast<std::uint64_t>(i)));
    }
    noise_ = noise_arena_.push(DType::kF32, {sizes.noise});
    kernels_.copy(noise_, model::TensorView(values.data(), DType::kF32, {sizes.noise}));
  }

  Times measure(const bench::KernelCase& c) {
    const auto bytes = bytes_of(c);
    // Two sets at the least, so that no call finds what the one before it wrote; one where the
    // cache could hold next to nothing of it.
    const auto sets = std::clamp<std::size_t>(4 * kCache / std::max<std::size_t>(bytes, 1) + 1,
                                              bytes > 32 * kCache ? 1 : 2, tiny_ ? 2 : 64);
    model::Arena arena(sets * bytes, model::Buffer::Kind::kReal, Device::kCuda);
    bench::Operands make(kernels_, arena, noise_);
    std::vector<bench::Call> calls;
    for (std::size_t i = 0; i < sets; ++i) calls.push_back(c.prepare(make));
    return time(calls);
  }

 private:
  std::size_t bytes_of(const bench::KernelCase& c) const {
    auto arena = model::Arena::dry();
    const auto nothing = model::make_dry_kernels(Device::kCuda);
    bench::Operands make(*nothing, arena,
                         model::TensorView(nullptr, DType::kF32, {noise_.elements()}));
    (void)c.prepare(make);
    return arena.high_water();
  }

  // The GPU has done all that was issued once one element is here.
  void finish() {
    float element = 0;
    kernels_.copy(model::TensorView(&element, DType::kF32, {1}), noise_.slice(0, 0, 1));
  }
  double batch(const std::vector<bench::Call>& calls, std::int64_t count) {
    finish();
    const auto begin = Clock::now();
    for (std::int64_t i = 0; i < count; ++i) calls[static_cast<std::size_t>(i) % calls.size()]();
    finish();
    return std::chrono::duration<double>(Clock::now() - begin).count() / static_cast<double>(count);
  }
  Times time(const std::vector<bench::Call>& calls) {
    constexpr double kBatchSeconds = 0.02;
    constexpr int kBatches = 9;
    Times t;
    t.sets = std::ssize(calls);
    batch(calls, t.sets);  // chooses algorithms, makes workspaces
    const double once = batch(calls, t.sets);
    // Rounds over all sets.
    t.calls = tiny_ ? t.sets
                    : t.sets * std::max<std::int64_t>(
                                   1, static_cast<std::int64_t>(std::ceil(
                                          kBatchSeconds / once / static_cast<double>(t.sets))));
    std::vector<double> seconds;
    for (int i = 0; i < (tiny_ ? 1 : kBatches); ++i) seconds.push_back(batch(calls, t.calls));
    t.seconds = bench::median(seconds);
    t.least = bench::least(seconds);
    t.most = bench::most(seconds);
    return t;
  }

  model::Kernels& kernels_;
  model::Arena noise_arena_;
  model::TensorView noise_;
  bool tiny_;
};

// The ceiling of whatever is bound by memory: a copy, bytes read and bytes written.
bench::KernelCase plain_copy(std::int64_t n) {
  return {"copy", fmt::format("{} bf16", n), 2 * 2 * static_cast<double>(n), 0,
          [n](bench::Operands& make) -> bench::Call {
            const auto from = make.normal(DType::kBF16, {n}), to = make.normal(DType::kBF16, {n});
            return [=, &k = make.kernels()] { k.copy(to, from); };
          }};
}

void print_floors(const Sizes& sizes) {
  fmt::print("| operation | shape | GB | GFLOP | bound by |");
  for (const auto& card : bench::kCards) fmt::print(" us on an {} |", card.name);
  fmt::print("\n|---|---|---|---|---|---|---|\n");
  for (const auto& c : all_cases(sizes)) {
    fmt::print("| {} | {} | {:.3f} | {} | {} |", c.name, c.shape, c.bytes * 1e-9,
               c.flops > 0 ? fmt::format("{:.1f}", c.flops * 1e-9) : "",
               bench::floor_of(bench::kCards[0], c.flops, c.bytes).bound);
    for (const auto& card : bench::kCards) {
      fmt::print(" {:.1f} |", bench::floor_of(card, c.flops, c.bytes).seconds * 1e6);
    }
    fmt::print("\n");
  }
}

bool asked_for(const bench::KernelCase& c, const std::vector<std::string>& names) {
  return names.empty() || std::any_of(names.begin(), names.end(), [&](const auto& name) {
           return c.name.find(name) != std::string::npos || c.shape.find(name) != std::string::npos;
         });
}

int run(int argc, char** argv) {
  const auto arguments = bench::read_arguments(argc, argv);
  const auto sizes = arguments.tiny ? tiny_sizes() : large_sizes();
  if (arguments.floors) {
    print_floors(sizes);
    return 0;
  }
  if (arguments.list) {
    for (const auto& c : all_cases(sizes)) fmt::print("{} {}\n", c.name, c.shape);
    return 0;
  }
  if (const auto missing = comm::gpu_missing(); !missing.empty()) {
    throw fail(ExitCode::kDeck, "no GPU: {}", missing);
  }
  comm::Gpu gpu(0);
  const auto kernels = model::make_cuda_kernels(gpu);
  Clockwork clockwork(*kernels, sizes, arguments.tiny);
  const double product = app::measure_matmul_rate(*kernels, DType::kBF16);
  const auto copy_case = plain_copy(sizes.copied);
  const double copy = copy_case.bytes / clockwork.measure(copy_case).seconds;
  fmt::print("{}: product {:.1f} TFLOP/s, copy {:.0f} GB/s\n", gpu.info().name, product * 1e-12,
             copy * 1e-9);
  bench::JsonLine()
      .text("bench", "ceilings")
      .text("gpu", gpu.info().name)
      .number("product_flops", product)
      .number("copy_bytes", copy)
      .append_to(arguments.out);

  for (const auto& c : all_cases(sizes)) {
    if (!asked_for(c, arguments.names)) continue;
    const auto t = clockwork.measure(c);
    const double rate = (c.flops > 0 ? c.flops : c.bytes) / t.seconds;
    const double share = rate / (c.flops > 0 ? product : copy);
    fmt::print("{:<30} {:<48} {:9.1f} us ({:.1f} to {:.1f})  {:>14}  {:5.1f} % of the {}\n", c.name,
               c.shape, t.seconds * 1e6, t.least * 1e6, t.most * 1e6,
               c.flops > 0 ? fmt::format("{:.1f} TFLOP/s", rate * 1e-12)
                           : fmt::format("{:.0f} GB/s", rate * 1e-9),
               100 * share, c.flops > 0 ? "product" : "copy");
    std::fflush(stdout);
    bench::JsonLine()
        .text("bench", "kernel")
        .text("name", c.name)
        .text("shape", c.shape)
        .text("gpu", gpu.info().name)
        .number("seconds", t.seconds)
        .number("least_s", t.least)
        .number("most_s", t.most)
        .count("sets", t.sets)
        .count("calls", t.calls)
        .number("bytes", c.bytes)
        .number("flops", c.flops)
        .number("share", share)
        .append_to(arguments.out);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const comm::MpiSession mpi(argc, argv);
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    fmt::print(stderr, "bench_gpu_kernels: {}\n", error.what());
    comm::abort_job(1);
  }
}

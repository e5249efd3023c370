// The plans of all kinds of product met so far, and how an algorithm is chosen for a new one.
#include "model/kernels/cuda/matmul.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "comm/activity.h"
#include "comm/cuda/cuda_check.h"
#include "comm/cuda/gpu_watch.h"
#include "model/kernels/cuda/matmul_plan.h"

namespace pg::model::cuda {

namespace {

// An axis that varies has this size when the heuristics are asked, and when candidates are timed:
// rows of an expert of a usual micro-batch.
constexpr std::int64_t kUsualSize = 1024;
constexpr std::int64_t kAskedSizes[] = {kUsualSize, 64, 4096, 16384};
// What an algorithm must take before it may serve an axis that varies: single rows, odd sizes,
// tiles and their neighbours, and the largest groups.
constexpr std::int64_t kAnySize[] = {1,  2,   3,   7,    8,    15,   17,    31,     64,
                                     65, 127, 129, 1000, 1024, 4097, 16383, 1 << 16};
// A tile of 256 x 256 sums twice over.
constexpr std::size_t kWorkspacePerProcessor = std::size_t{512} << 10;
// A later candidate must be faster by this much: the clock's noise decides nothing.
constexpr float kWorthwhile = 0.97f;

using Words = std::array<std::uint64_t, 8>;
static_assert(sizeof(Words) == sizeof(cublasLtMatmulAlgo_t));

class Event {
 public:
  Event() { PG_CUDA(cudaEventCreateWithFlags(&event_, cudaEventDefault)); }
  ~Event() { cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  cudaEvent_t get() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

// Memory that only timing needs.
class Room {
 public:
  Room(comm::GpuStream stream, std::size_t bytes)
      : stream_(stream), data_(comm::gpu_allocate_on(stream, bytes)) {}
  ~Room() { comm::gpu_free_on(stream_, data_); }
  Room(const Room&) = delete;
  Room& operator=(const Room&) = delete;
  char* data() const { return static_cast<char*>(data_); }

 private:
  comm::GpuStream stream_;
  void* data_;
};

template <class T>
bool parse(std::string_view& text, T& value, int base) {
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc()) return false;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return true;
}

std::string_view take_line(std::string_view& text) {
  const auto end = text.find('\n');
  const auto line = text.substr(0, end);
  text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  return line;
}

}  // namespace

struct CudaMatmul::Impl {
  comm::Gpu& gpu;
  MatmulPolicy policy;
  std::size_t workspace_bytes;
  Owned<cublasLtContext> handle;
  std::map<MatmulKind, MatmulPlan> plans;
  std::map<MatmulKind, Words> choices;  // made here, or kept from another run

  Impl(comm::Gpu& on, MatmulPolicy with)
      : gpu(on),
        policy(with),
        workspace_bytes(static_cast<std::size_t>(on.info().processors) * kWorkspacePerProcessor) {
    cublasLtHandle_t made = nullptr;
    const auto status = cublasLtCreate(&made);
    if (status != CUBLAS_STATUS_SUCCESS) {
      throw fail(ExitCode::kComm, "cuBLASLt: {} in cublasLtCreate on {}",
                 cublasLtGetStatusString(status), gpu.info().name);
    }
    handle.reset(made);
  }

  // The plan's axes at each size the algorithm must take, then as the product has them.
  template <class Work>
  bool for_sizes(MatmulPlan& plan, const Product& product, const Work& work) const {
    const MatmulSizes own(product);
    bool all = true;
    if (product.varies == Varies::kNothing) return work();
    for (const auto size : kAnySize) {
      if (!all) break;
      plan.fit(resized(own, product.varies, size), product);
      all = work();
    }
    plan.fit(own, product);
    return all;
  }

  static MatmulSizes resized(MatmulSizes sizes, Varies varies, std::int64_t size) {
    (varies == Varies::kRows ? sizes.m : sizes.k) = size;
    return sizes;
  }

  bool takes(MatmulPlan& plan, const Product& product,
             const cublasLtMatmulAlgo_t& algorithm) const {
    return for_sizes(plan, product, [&] {
      cublasLtMatmulHeuristicResult_t result{};
      return cublasLtMatmulAlgoCheck(handle.get(), plan.desc.get(), plan.b.get(), plan.a.get(),
                                     plan.c.get(), plan.c.get(), &algorithm,
                                     &result) == CUBLAS_STATUS_SUCCESS &&
             result.workspaceSize <= workspace_bytes;
    });
  }

  // In the heuristics' order, those that fit.
  std::vector<cublasLtMatmulAlgo_t> candidates(MatmulPlan& plan, const MatmulKind& kind,
                                               const Product& product) const {
    cublasLtMatmulPreference_t made = nullptr;
    cublas_check(cublasLtMatmulPreferenceCreate(&made), "cublasLtMatmulPreferenceCreate", product);
    const Owned<cublasLtMatmulPreferenceOpaque_t> preference(made);
    const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
      cublas_check(cublasLtMatmulPreferenceSetAttribute(made, attribute, &value, sizeof(value)),
                   "cublasLtMatmulPreferenceSetAttribute", product);
    };
    set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, std::uint64_t{workspace_bytes});
    const bool varies = product.varies != Varies::kNothing;
    const bool epilogue = !product.bias.empty() || product.gelu != Gelu::kNone;
    const bool adds_rounded = product.accumulate && product.c.dtype() == DType::kBF16;
    set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
        static_cast<std::uint32_t>(varies || epilogue || adds_rounded
                                       ? CUBLASLT_REDUCTION_SCHEME_NONE
                                       : CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
    const auto align = [&](std::size_t i) {
      return static_cast<std::uint32_t>(kind.fields[MatmulKind::kFields - 3 + i]);
    };
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, align(1));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, align(0));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, align(2));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, align(2));

    // For an axis that varies those of several sizes, until some take them all.
    std::vector<cublasLtMatmulAlgo_t> fitting;
    for (const auto size : varies ? std::span<const std::int64_t>(kAskedSizes)
                                  : std::span<const std::int64_t>(kAskedSizes).first(1)) {
      if (varies) plan.fit(resized(MatmulSizes(product), product.varies, size), product);
      const int most = std::max(1, varies ? 4 * policy.candidates : policy.candidates);
      std::vector<cublasLtMatmulHeuristicResult_t> results(static_cast<std::size_t>(most));
      int found = 0;
      const auto status = cublasLtMatmulAlgoGetHeuristic(
          handle.get(), plan.desc.get(), plan.b.get(), plan.a.get(), plan.c.get(), plan.c.get(),
          made, most, results.data(), &found);
      if (varies) plan.fit(MatmulSizes(product), product);
      if (status == CUBLAS_STATUS_NOT_SUPPORTED ||
          (status == CUBLAS_STATUS_INVALID_VALUE && epilogue)) {
        continue;  // (Which of the two refuses an epilogue is not documented.)
      }
      cublas_check(status, "cublasLtMatmulAlgoGetHeuristic", product);
      for (const auto& result : std::span(results).first(static_cast<std::size_t>(found))) {
        if (result.state != CUBLAS_STATUS_SUCCESS || std::ssize(fitting) >= policy.candidates) {
          continue;
        }
        if (takes(plan, product, result.algo)) fitting.push_back(result.algo);
      }
      if (!fitting.empty()) break;
    }
    return fitting;
  }

  // The fastest. Results that are added to, and operands of a size that is not the product's, are
  // timed in memory of their own.
  std::optional<cublasLtMatmulAlgo_t> fastest(MatmulPlan& plan, const Product& product,
                                              void* workspace,
                                              std::span<const cublasLtMatmulAlgo_t> all) const {
    const bool varies = product.varies != Varies::kNothing;
    const auto sizes =
        varies ? resized(MatmulSizes(product), product.varies, kUsualSize) : MatmulSizes(product);
    const auto bytes = [](const TensorView& x, std::int64_t rows) {
      const auto elements = static_cast<std::size_t>(rows * std::max(x.stride(0), x.dim(1)));
      return (elements * dtype_size(x.dtype()) + 255) / 256 * 256;
    };
    // (Those that keep their size are read where they are.)
    const std::size_t a = varies ? bytes(product.a, product.transpose_a ? sizes.k : sizes.m) : 0;
    const std::size_t b = product.varies == Varies::kTerms
                              ? bytes(product.b, product.transpose_b ? sizes.n : sizes.k)
                              : 0;
    const std::size_t c = varies || product.accumulate ? bytes(product.c, sizes.m) : 0;
    if (a + b + c > kTimingBytes) return std::nullopt;
    std::optional<Room> room;
    if (a + b + c > 0) {
      try {
        room.emplace(gpu.compute(), a + b + c);
      } catch (const Error&) {
        return std::nullopt;  // no room on this GPU
      }
    }
    const MatmulPlaces places{
        a > 0 ? room->data() : product.a.raw(), b > 0 ? room->data() + a : product.b.raw(),
        c > 0 ? room->data() + a + b : product.c.raw(), workspace, workspace_bytes};
    plan.fit(sizes, product);
    const auto stream = gpu.compute();
    const Event begin, end;
    std::optional<cublasLtMatmulAlgo_t> best;
    float best_time = 0.0f;
    for (const auto& algorithm : all) {
      const auto once = [&] {
        return run_plan(handle.get(), plan, algorithm, product, places, stream) ==
               CUBLAS_STATUS_SUCCESS;
      };
      if (!once()) continue;
      PG_CUDA(cudaEventRecord(begin.get(), stream));
      for (int i = 0; i < policy.timed_runs; ++i) once();
      PG_CUDA(cudaEventRecord(end.get(), stream));
      comm::wait_for(stream);  // which may wait for other ranks, and they may fail
      float time = 0.0f;
      PG_CUDA(cudaEventElapsedTime(&time, begin.get(), end.get()));
      if (!best || time < kWorthwhile * best_time) best = algorithm, best_time = time;
    }
    plan.fit(MatmulSizes(product), product);
    return best;
  }

  std::optional<cublasLtMatmulAlgo_t> choose(MatmulPlan& plan, const MatmulKind& kind,
                                             const Product& product, void* workspace) {
    if (const auto kept = choices.find(kind); kept != choices.end()) {
      const auto algorithm = std::bit_cast<cublasLtMatmulAlgo_t>(kept->second);
      if (takes(plan, product, algorithm)) return algorithm;
      choices.erase(kept);
    }
    const comm::Place place("tuning a matrix product");
    const auto all = candidates(plan, kind, product);
    if (all.empty()) return std::nullopt;
    auto chosen = all.front();
    if (policy.timed_runs > 0 && all.size() > 1) {
      if (const auto best = fastest(plan, product, workspace, all)) chosen = *best;
    }
    choices[kind] = std::bit_cast<Words>(chosen);
    return chosen;
  }

  std::string header() const {
    return fmt::format("matmul choices 2\ngpu {}, {} processors\ncublasLt {}\n", gpu.info().name,
                       gpu.info().processors, cublasLtGetVersion());
  }
};

CudaMatmul::CudaMatmul(comm::Gpu& gpu, MatmulPolicy policy)
    : impl_(std::make_unique<Impl>(gpu, policy)) {}
CudaMatmul::~CudaMatmul() = default;

bool CudaMatmul::run(const Product& product, void* workspace) {
  const MatmulKind kind(product);
  auto found = impl_->plans.find(kind);
  if (found == impl_->plans.end()) {
    MatmulPlan plan(product);
    if (const auto algorithm = impl_->choose(plan, kind, product, workspace)) {
      plan.exists = true;
      plan.algorithm = *algorithm;
    }
    found = impl_->plans.emplace(kind, std::move(plan)).first;
  }
  auto& plan = found->second;
  if (!plan.exists) {
    if (product.bias.empty() && product.gelu == Gelu::kNone) {
      cublas_check(CUBLAS_STATUS_NOT_SUPPORTED, "cublasLtMatmulAlgoGetHeuristic", product);
    }
    return false;
  }
  plan.fit(MatmulSizes(product), product);
  const MatmulPlaces places{product.a.raw(), product.b.raw(), product.c.raw(), workspace,
                            impl_->workspace_bytes};
  cublas_check(
      run_plan(impl_->handle.get(), plan, plan.algorithm, product, places, impl_->gpu.compute()),
      "cublasLtMatmul", product);
  return true;
}

std::size_t CudaMatmul::workspace_bytes() const {
  return impl_->workspace_bytes;
}

std::string CudaMatmul::choices_text() const {
  auto text = impl_->header();
  for (const auto& [kind, words] : impl_->choices) {
    text += fmt::format("{} : {:x}\n", fmt::join(kind.fields, " "), fmt::join(words, " "));
  }
  return text;
}

std::string CudaMatmul::set_choices(std::string_view text) {
  const auto header = impl_->header();
  if (!text.starts_with(header)) {
    std::string kept;
    for (int line = 0; line < 3; ++line)
      kept += fmt::format("{}\n", take_line(text).substr(0, 100));
    return fmt::format("matrix products are chosen anew: kept are\n{}but these would be\n{}", kept,
                       header);
  }
  text.remove_prefix(header.size());
  std::map<MatmulKind, Words> read;
  while (!text.empty()) {
    auto line = take_line(text);
    const std::string whole(line);
    std::array<std::int64_t, MatmulKind::kFields> fields{};
    Words words{};
    bool good = true;
    for (auto& field : fields) good = good && parse(line, field, 10);
    good = good && line.starts_with(" : ");
    if (good) line.remove_prefix(3);
    for (auto& word : words) good = good && parse(line, word, 16);
    if (!good || !line.empty()) {
      return fmt::format("matrix products are chosen anew: \"{}\" is not a kept choice", whole);
    }
    read.emplace(fields, words);
  }
  for (const auto& [kind, words] : read) impl_->choices.emplace(kind, words);
  return "";
}

}  // namespace pg::model::cuda

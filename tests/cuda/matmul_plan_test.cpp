// How the GPU's matrix products choose their algorithms, and that kept choices are taken, refused
// and kept.
#include "model/kernels/cuda/matmul.h"

#include "model/kernels/cuda/workspace.h"
#include "tests/cuda/products.h"

namespace pg::model::testing {
namespace {

using cuda::CudaMatmul;
using cuda::Product;
using cuda::Varies;

constexpr cuda::MatmulPolicy kUntimed{.candidates = 8, .timed_runs = 0};

struct Case {
  comm::Gpu gpu{0};
  cuda::Workspace workspace{gpu.compute()};
  Mirror x{DType::kBF16, {64, 256}}, w{DType::kBF16, {48, 256}}, y{DType::kF32, {64, 48}};

  Case() { x.normal("x"), w.normal("w"); }
  // Rows [first, first + rows) of y.
  Product product(std::int64_t first = 0, std::int64_t rows = 64,
                  Varies varies = Varies::kNothing) const {
    return {.c = y.device().slice(0, first, rows),
            .a = x.device().slice(0, first, rows),
            .b = w.device(),
            .transpose_b = true,
            .varies = varies};
  }
  void run(CudaMatmul& matmul, const Product& what) {
    EXPECT_TRUE(matmul.run(what, workspace.take(matmul.workspace_bytes())));
  }
  std::vector<double> result(CudaMatmul& matmul) {
    run(matmul, product());
    return y.from_device();
  }
  bool simulated() const { return gpu.info().name == "simulated GPU"; }
};

std::int64_t lines(const std::string& text) {
  return std::count(text.begin(), text.end(), '\n');
}

TEST(CudaMatmulChoice, kept_choices_make_another_run_the_same) {
  Case c;
  CudaMatmul first(c.gpu);
  const auto result = c.result(first);
  const auto kept = first.choices_text();
  EXPECT_EQ(lines(kept), 4) << kept;
  CudaMatmul second(c.gpu, kUntimed);
  EXPECT_EQ(second.set_choices(kept), "");
  EXPECT_EQ(c.result(second), result);
  EXPECT_EQ(second.choices_text(), kept);
  // A negative control: the untimed choice is another one, and its bits are.
  if (c.simulated()) {
    CudaMatmul third(c.gpu, kUntimed);
    EXPECT_NE(c.result(third), result);
    EXPECT_NE(third.choices_text(), kept);
  }
}

TEST(CudaMatmulChoice, without_timing_every_run_takes_the_same) {
  Case c;
  CudaMatmul first(c.gpu, kUntimed), second(c.gpu, kUntimed);
  const auto result = c.result(first);
  EXPECT_EQ(c.result(second), result);
  EXPECT_EQ(first.choices_text(), second.choices_text());
}

TEST(CudaMatmulChoice, timing_leaves_accumulated_results_as_they_are) {
  Case c;
  CudaMatmul timed(c.gpu), untimed(c.gpu, kUntimed);
  auto product = c.product();
  product.accumulate = true;
  c.y.fill(1000.0);
  c.run(timed, product);
  const auto with = c.y.from_device();
  c.y.fill(0.0);
  c.run(untimed, c.product());
  const auto without = c.y.from_device();
  for (std::size_t i = 0; i < with.size(); ++i) EXPECT_NEAR(with[i], without[i] + 1000.0, 0.01);
}

TEST(CudaMatmulChoice, one_choice_for_each_kind) {
  Case c;
  CudaMatmul matmul(c.gpu);
  c.run(matmul, c.product(0, 32));
  c.run(matmul, c.product(32, 32));  // elsewhere
  EXPECT_EQ(lines(matmul.choices_text()), 3 + 1);
  c.run(matmul, c.product(0, 33));
  EXPECT_EQ(lines(matmul.choices_text()), 3 + 2);
  for (const std::int64_t rows : {61, 1, 17}) c.run(matmul, c.product(3, rows, Varies::kRows));
  EXPECT_EQ(lines(matmul.choices_text()), 3 + 3);
  Mirror dw(DType::kF32, {256, 48}), dy(DType::kBF16, {64, 48});
  dy.normal("dy"), dw.fill(0.0);
  for (const std::int64_t terms : {64, 1, 17}) {
    c.run(matmul, {.c = dw.device(),
                   .a = c.x.device().slice(0, 0, terms),
                   .b = dy.device().slice(0, 0, terms),
                   .transpose_a = true,
                   .accumulate = true,
                   .varies = Varies::kTerms});
  }
  EXPECT_EQ(lines(matmul.choices_text()), 3 + 4);
}

// Otherwise layers would run in two steps, and nobody would see it.
TEST(CudaMatmulChoice, the_library_takes_the_epilogues) {
  Case c;
  CudaMatmul matmul(c.gpu);
  Mirror y(DType::kBF16, {64, 48}), h(DType::kBF16, {64, 48}), bias(DType::kBF16, {48});
  Mirror wide_bias(DType::kF32, {48});
  h.normal("h"), bias.normal("bias"), wide_bias.normal("bias");
  auto product = c.product();
  product.bias = wide_bias.device();
  c.run(matmul, product);
  product.c = y.device(), product.bias = bias.device();
  c.run(matmul, product);
  product.aux = h.device(), product.gelu = cuda::Gelu::kForward;
  c.run(matmul, product);
  product.bias = {};
  c.run(matmul, product);
  product.gelu = cuda::Gelu::kBackward;
  c.run(matmul, product);
  for (const auto type : {DType::kF32, DType::kF64}) {
    Mirror a(type, {64, 16}), b(type, {48, 16}), sum(type, {64, 48}), add(type, {48});
    a.normal("a"), b.normal("b"), add.normal("add");
    c.run(matmul, {.c = sum.device(),
                   .a = a.device(),
                   .b = b.device(),
                   .bias = add.device(),
                   .transpose_b = true});
  }
}

TEST(CudaMatmulChoice, choices_of_another_gpu_or_library_are_refused) {
  Case c;
  CudaMatmul first(c.gpu);
  c.result(first);
  const auto kept = first.choices_text();
  const auto changed = [&](const std::string& from, const std::string& to) {
    auto text = kept;
    text.replace(text.find(from), from.size(), to);
    return text;
  };
  for (const auto& text :
       {changed(c.gpu.info().name, "another GPU"), changed("cublasLt ", "cublasLt 1"),
        changed("choices 2", "choices 1"), std::string(), std::string("nonsense"),
        kept.substr(0, kept.size() - 9), kept + "1 2 3\n", kept + "\n", changed(" : ", " ; ")}) {
    CudaMatmul other(c.gpu, kUntimed);
    const auto before = other.choices_text();
    EXPECT_NE(other.set_choices(text), "") << text;
    EXPECT_EQ(other.choices_text(), before);
  }
}

TEST(CudaMatmulChoice, a_kept_choice_that_does_not_run_is_made_anew) {
  Case c;
  if (!c.simulated()) GTEST_SKIP() << "the simulated library knows what is none of its algorithms";
  CudaMatmul first(c.gpu);
  const auto result = c.result(first);
  const auto kept = first.choices_text();
  auto text = kept;
  text.replace(text.find(" : ") + 3, 1, "f");
  CudaMatmul second(c.gpu);
  EXPECT_EQ(second.set_choices(text), "");
  EXPECT_EQ(c.result(second), result);
  EXPECT_EQ(second.choices_text(), kept);
}

}  // namespace
}  // namespace pg::model::testing

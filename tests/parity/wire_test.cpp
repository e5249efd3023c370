// The bytes that training steps send, as Open MPI counts them at the wire, against the least that
// each method allows: formulas of the published methods in counts of parameters, tokens and layers,
// written here and nowhere else.
//
// n ranks, P elements of parameters, e bytes of an element, S = N*C elements of the stream of a
// micro-batch, L layers, m micro-batches a rank; sums over all ranks:
//   data parallel     2 (n-1) P e                 ring all-reduce of gradients
//   ZeRO 1            2 (n-1) P e                 reduce-scatter, all-gather of weights
//   ZeRO 2            (n-1) P e (m + 1)           reduce-scatter every micro-batch
//   ZeRO 3            (n-1) e (m P + gathers)     and weights forward and backward
//   tensor parallel   2 (n-1) S e (4 L + 2) m     two all-reduces a layer each way, embedding, head
//   + sequence        (n-1) S e (10 L + 4) m      the same as gathers and scatters, and inputs of
//                                                 products gathered again in backward
//   pipeline          2 (p-1) S e m               the stream forward, its gradient backward
// What comes on top (the loss, norms, checks that all ranks agree, statistics of the vocabulary) is
// small and bounded by kExtra.
#include <gtest/gtest.h>

#include "wire_count.h"

namespace pg::testing {
namespace {

constexpr std::int64_t kMicroBatches = 4;

double place_elements(const app::Deck& deck, std::int64_t place) {
  double n = 0;
  const model::ParamTable table(deck.model);
  for (const auto& spec : table.specs()) {
    if (spec.place == place) n += static_cast<double>(spec.elements());
  }
  return n;
}

TEST(Wire, data_parallel_and_zero_send_what_their_methods_need) {
  const double n = ranks(), m = kMicroBatches / n;
  auto deck = wire_deck(kMicroBatches);
  const auto p = static_cast<double>(model::ParamTable(deck.model).elements());
  deck.grid.dp = static_cast<std::int64_t>(n);
  expect_wire("data parallel", deck, 2 * (n - 1) * p * kBytes);
  deck.grid.zero = 1;
  expect_wire("zero 1", deck, 2 * (n - 1) * p * kBytes);
  deck.grid.zero = 2;
  expect_wire("zero 2", deck, (n - 1) * p * kBytes * (m + 1));
  deck.grid.zero = 3;
  // Forward gathers every place once a micro-batch, backward the blocks again. Two blocks are still
  // in their slots when the direction turns: the last two, and from the second micro-batch on the
  // first two. The embedding's backward needs no weights.
  double again = 0;
  for (std::int64_t block = 0; block < kLayers - 2; ++block) {
    again += place_elements(deck, model::ParamTable::block_place(block));
  }
  const double kept = place_elements(deck, model::ParamTable::block_place(0)) +
                      place_elements(deck, model::ParamTable::block_place(1));
  expect_wire("zero 3", deck, (n - 1) * kBytes * (m * p + m * (p + again) - (m - 1) * kept));
}

TEST(Wire, tensor_parallel_sends_two_all_reduces_a_layer_each_way) {
  const double n = ranks();
  auto deck = wire_deck(kMicroBatches);
  deck.grid.tp = static_cast<std::int64_t>(n);
  const double reduces = 4 * kLayers + 2;  // and the embedding's forward, the head's backward
  expect_wire("tensor parallel", deck, 2 * (n - 1) * kStream * kBytes * reduces * kMicroBatches);
  deck.grid.sequence_parallel = true;
  // An all-reduce is a gather and a scatter. Each layer's two products gather their inputs once
  // more in backward (Korthikanti et al. 2022), the head needs its input once.
  const double moves = 2 * (4 * kLayers + 2) + 2 * kLayers;
  expect_wire("tensor and sequence parallel", deck,
              (n - 1) * kStream * kBytes * moves * kMicroBatches);
}

TEST(Wire, pipeline_sends_the_stream_and_its_gradient) {
  const double p = ranks();
  auto deck = wire_deck(kMicroBatches);
  deck.model.layers = 4;
  deck.grid.pp = static_cast<std::int64_t>(p);
  expect_wire("pipeline 1f1b", deck, 2 * (p - 1) * kStream * kBytes * kMicroBatches);
  deck.pipeline.schedule = model::ScheduleKind::kGPipe;
  expect_wire("pipeline gpipe", deck, 2 * (p - 1) * kStream * kBytes * kMicroBatches);
}

}  // namespace
}  // namespace pg::testing

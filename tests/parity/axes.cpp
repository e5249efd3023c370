#include "axes.h"

namespace pg::testing {

namespace {

using model::ContextMethod;
using model::Recompute;
using model::ScheduleKind;

constexpr ContextMethod kMethods[] = {ContextMethod::kRing, ContextMethod::kUlysses,
                                      ContextMethod::kAllGather};

// Each style, dense grid, schedule, ZeRO stage, recomputation and micro-batch of one or two
// sequences, in one order.
template <class Use>
void for_dense_axes(Use use) {
  struct Stages {
    int pp;
    ScheduleKind schedule;
    int chunks;
  };
  constexpr Stages kStages[] = {{1, ScheduleKind::k1F1B, 1},
                                {2, ScheduleKind::k1F1B, 1},
                                {2, ScheduleKind::kGPipe, 1},
                                {2, ScheduleKind::kInterleaved, 2}};
  struct Tensor {
    int tp;
    bool sequence;
  };
  constexpr Tensor kTensors[] = {{1, false}, {2, false}, {2, true}};
  for (const auto style : {Style::kLlama, Style::kGpt2}) {
    for (const int dp : {1, 2}) {
      for (const auto& tensor : kTensors) {
        for (const auto& stages : kStages) {
          for (int zero = 0; zero <= 3; ++zero) {
            for (const auto mode : {Recompute::kNone, Recompute::kSelective, Recompute::kFull}) {
              for (const int sequences : {1, 2}) {
                MatrixCase c;
                c.style = style;
                c.dp = dp;
                c.tp = tensor.tp;
                c.sequence_parallel = tensor.sequence;
                c.pp = stages.pp;
                c.schedule = stages.schedule;
                c.chunks = stages.chunks;
                c.zero = zero;
                c.recompute.mode = mode;
                c.sequences = sequences;
                use(c);
              }
            }
          }
        }
      }
    }
  }
}

void add(std::vector<MatrixCase>& all, const MatrixCase& c, int ranks) {
  if (c.ranks() <= ranks && c.legal()) all.push_back(c);
}

}  // namespace

std::vector<MatrixCase> expert_cases(int ranks) {
  std::vector<MatrixCase> all;
  for_dense_axes([&](MatrixCase c) {
    for (const auto feed : {Feed::kTopK, Feed::kTopKShared, Feed::kTopKCapacity, Feed::kSwitch,
                            Feed::kBalanced, Feed::kExpertChoice}) {
      c.feed = feed;
      for (const int ep : {1, 2, 4}) {
        c.ep = ep;
        c.cp = 1;
        c.context = ContextMethod::kRing;
        add(all, c, ranks);
        c.cp = 2;
        for (const auto method : kMethods) {
          c.context = method;
          add(all, c, ranks);
        }
      }
    }
  });
  return all;
}

std::vector<MatrixCase> context_cases(int ranks) {
  std::vector<MatrixCase> all;
  for_dense_axes([&](MatrixCase c) {
    for (const auto mask : {Mask::kCausal, Mask::kWindow, Mask::kDocuments}) {
      c.mask = mask;
      for (const int cp : {2, 3, 4}) {
        c.cp = cp;
        for (const auto method : kMethods) {
          c.context = method;
          add(all, c, ranks);
        }
      }
    }
  });
  return all;
}

MatrixCase of_style(Style style, Feed feed) {
  MatrixCase c;
  c.style = style;
  c.feed = feed;
  c.sequences = 1;
  return c;
}

MatrixCase with_experts(MatrixCase c, int ep) {
  c.ep = ep;
  return c;
}

MatrixCase with_context(MatrixCase c, int cp, ContextMethod method) {
  c.cp = cp;
  c.context = method;
  return c;
}

MatrixCase with_tensor(MatrixCase c, int tp, bool sequence_parallel) {
  c.tp = tp;
  c.sequence_parallel = sequence_parallel;
  return c;
}

MatrixCase with_stages(MatrixCase c, int pp, ScheduleKind schedule) {
  c.pp = pp;
  c.schedule = schedule;
  c.chunks = schedule == ScheduleKind::kInterleaved ? 2 : 1;
  return c;
}

MatrixCase with_zero(MatrixCase c, int dp, int zero) {
  c.dp = dp;
  c.zero = zero;
  return c;
}

MatrixCase with_recompute(MatrixCase c, Recompute mode) {
  c.recompute.mode = mode;
  return c;
}

MatrixCase with_mask(MatrixCase c, Mask mask) {
  c.mask = mask;
  return c;
}

}  // namespace pg::testing

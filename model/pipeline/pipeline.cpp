#include "model/pipeline/pipeline.h"

#include <algorithm>
#include <map>
#include <optional>

#include "model/buffer_view.h"
#include "model/optim/zero.h"
#include "model/pipeline/stream_pool.h"
#include "model/pipeline/verify_schedule.h"

namespace pg::model {

namespace {

ScheduleShape shape_of(const PipelineOptions& options, const Sharding& sharding) {
  return {options.schedule, sharding.pp, sharding.chunks, options.micro_batches};
}

// Memory of one micro-batch between its forward and its backward.
struct Slot {
  Arena keep;
  ModelChunk::Saved saved;
  TensorView input;
  int micro = -1;  // -1: free

  explicit Slot(Arena arena) : keep(std::move(arena)) {}
};

struct ChunkState {
  ModelChunk chunk;
  std::vector<Slot> slots;
};

}  // namespace

std::int64_t ActivationBytes::total() const {
  auto all = scratch + recompute + messages;
  for (std::size_t c = 0; c < slot.size(); ++c) all += slot[c] * slots[c];
  return all;
}

struct Pipeline::Impl {
  ModelConfig config;
  PipelineOptions options;
  ParamStore& params;
  Kernels& kernels;
  Groups groups;
  std::int64_t seed;
  PlaceUse& use;
  TensorParallel tensor;
  ContextParallel context_ranks;
  ExpertParallel experts;
  MoeCounters counters;
  double sequence_scale = 0.0;
  Sharding sharding;
  std::vector<Action> training;                   // as posted: each send behind what made it
  std::map<int, std::vector<Action>> validating;  // by number of micro-batches
  ActivationBytes planned;
  std::vector<ChunkState> chunks;
  Arena scratch, recompute, messages;
  Buffer loss;  // fp64 [1], where the kernels compute: of the micro-batches so far
  StreamPool activations, gradients;

  // Without `sizes`: arenas that only count.
  Impl(const ModelConfig& c, const PipelineOptions& o, ParamStore& p, Kernels& k, Groups g,
       std::int64_t s, PlaceUse& u, const ActivationBytes* sizes,
       std::optional<ExpertLoad> load = {})
      : config(c),
        options(o),
        params(p),
        kernels(k),
        groups(std::move(g)),
        seed(s),
        use(u),
        tensor(p.layout().sharding(), *groups.tensor),
        context_ranks(p.layout().sharding(), *groups.context, o.seq),
        experts(p.layout().sharding(), c.moe.experts, *groups.experts, load),
        sharding(p.layout().sharding()),
        scratch(sizes == nullptr ? Arena::dry() : activation_arena(sizes->scratch)),
        recompute(sizes == nullptr ? Arena::dry() : activation_arena(sizes->recompute)),
        messages(sizes == nullptr ? Arena::dry()
                                  : Arena(static_cast<std::size_t>(sizes->messages),
                                          Buffer::Kind::kReal, k.device())),
        loss(sizeof(double), sizes == nullptr ? Buffer::Kind::kDry : Buffer::Kind::kReal,
             k.device()) {
    PG_ASSERT(static_cast<int>(p.layout().parts().size()) == sharding.chunks, "{} chunks of {}",
              p.layout().parts().size(), sharding.chunks);
    const auto list = make_schedule(shape_of(o, sharding), sharding.stage);
    training = early_sends(list);
    // Validation needs no more: it holds a micro-batch only from its receive to its forward.
    const auto slots = live_slots(list, sharding.chunks);
    for (std::size_t i = 0; i < p.layout().parts().size(); ++i) {
      chunks.push_back({ModelChunk(p.layout().rank_config(), p.layout(), p.layout().parts()[i],
                                   options.recompute),
                        {}});
      for (int n = 0; n < slots[i]; ++n) {
        chunks[i].slots.emplace_back(sizes == nullptr ? Arena::dry()
                                                      : activation_arena(sizes->slot[i]));
      }
    }
    if (c.moe.experts > 0) {
      std::vector<std::int64_t> blocks;
      for (std::int64_t i = 0; i < c.layers; ++i) {
        if (c.has_experts(i)) blocks.push_back(i);
      }
      counters =
          MoeCounters(std::move(blocks), c.moe.experts,
                      sizes == nullptr ? Buffer::Kind::kDry : Buffer::Kind::kReal, k.device());
    }
    const auto streams = streams_needed(list, sharding);
    fill(activations, streams.activations);
    fill(gradients, streams.gradients);
    planned.slots = slots;
    if (sizes != nullptr) planned = *sizes;
  }

  // Experts seldom receive as much as they could, which may be more than a host has.
  Arena activation_arena(std::int64_t bytes) const {
    return Arena(static_cast<std::size_t>(bytes),
                 config.moe.experts > 0 ? Buffer::Kind::kReserved : Buffer::Kind::kReal,
                 kernels.device());
  }

  const std::vector<Action>& forward_list(int count) {
    auto& list = validating[count];
    if (list.empty()) {
      auto shape = shape_of(options, sharding);
      shape.micro_batches = count;
      list = early_sends(make_forward_schedule(shape, sharding.stage));
    }
    return list;
  }

  // Positions of a sequence on this rank, and rows of the stream.
  std::int64_t seq() const { return options.seq / sharding.cp; }
  std::int64_t rows() const { return tensor.rows(options.sequences * seq()); }

  void fill(StreamPool& pool, int streams) {
    for (int i = 0; i < streams; ++i) {
      pool.add(messages.push(params.compute(), {rows(), config.hidden}));
    }
  }

  LayerContext context(Slot& slot, const MicroBatch& batch, bool train) {
    return {.kernels = kernels,
            .keep = slot.keep,
            .scratch = scratch,
            .config = params.layout().rank_config(),
            .params = params,
            .tensor = tensor,
            .context = context_ranks,
            .experts = experts,
            .batch = batch,
            .seed = seed,
            .training = train,
            .sequence_scale = sequence_scale,
            .counters = train && !counters.empty() ? &counters : nullptr,
            .loss = loss_view()};
  }

  Slot& take_slot(int chunk, int micro) {
    for (auto& slot : chunks[static_cast<std::size_t>(chunk)].slots) {
      if (slot.micro >= 0) continue;
      slot.keep.release(0);
      slot.micro = micro;
      return slot;
    }
    throw fail(ExitCode::kBug, "bug: no slot for micro-batch {} of chunk {}", micro, chunk);
  }

  Slot& slot_of(int chunk, int micro) {
    for (auto& slot : chunks[static_cast<std::size_t>(chunk)].slots) {
      if (slot.micro == micro) return slot;
    }
    throw fail(ExitCode::kBug, "bug: micro-batch {} is not in chunk {}", micro, chunk);
  }

  bool receives(int chunk) const { return sharding.stage > 0 || chunk > 0; }

  // Between two ranks order alone tells messages apart, as the schedule promises; tags only make a
  // broken promise visible. Small ones: MPI promises no more than 32767.
  static int tag(const Message& message) {
    return message.micro % 4096 * 8 + message.sender % 4 * 2 + (message.gradient ? 1 : 0);
  }

  comm::Pending send(const Action& action, TensorView stream) {
    const auto message = *message_of(action, sharding.stage, sharding.pp);
    return groups.pipeline->send(buffer_view(stream), message.to, tag(message));
  }

  void receive(const Action& action, TensorView stream) {
    const auto message = *message_of(action, sharding.stage, sharding.pp);
    groups.pipeline->recv(buffer_view(stream), message.from, tag(message)).wait();
  }

  TensorView loss_view() const { return TensorView(loss.at(0), DType::kF64, {1}, loss.device()); }

  void forward(const Action& action, const MicroBatchOf& micro, double loss_scale, bool train) {
    auto& state = chunks[static_cast<std::size_t>(action.chunk)];
    auto& slot = receives(action.chunk) ? slot_of(action.chunk, action.micro)
                                        : take_slot(action.chunk, action.micro);
    const auto batch = micro(action.micro);
    const auto out =
        state.chunk.head() ? TensorView() : activations.open(action.chunk, action.micro);
    state.chunk.forward(context(slot, batch, train), recompute, slot.saved, slot.input, out,
                        loss_scale, use);
  }

  void backward(const Action& action, const MicroBatchOf& micro) {
    auto& state = chunks[static_cast<std::size_t>(action.chunk)];
    auto& slot = slot_of(action.chunk, action.micro);
    const auto batch = micro(action.micro);
    const auto dr = state.chunk.head() ? slot.saved.dr : gradients.at(action.chunk, action.micro);
    state.chunk.backward(context(slot, batch, /*train=*/true), recompute, slot.saved, dr, use);
    if (receives(action.chunk)) {
      // Its slot may be needed before the gradient has gone.
      if (state.chunk.head()) kernels.copy(gradients.open(action.chunk, action.micro), dr);
    } else if (!state.chunk.head()) {
      gradients.close(action.chunk, action.micro, {});
    }
    slot.micro = -1;
  }

  double run(const std::vector<Action>& list, const MicroBatchOf& micro, double loss_scale,
             int count, bool train) {
    kernels.fill_zero(loss_view());
    for (const auto& action : list) {
      use.micro_batch(action.micro == count - 1);
      switch (action.kind) {
        case ActionKind::kRecvActivation: {
          auto& slot = take_slot(action.chunk, action.micro);
          slot.input = slot.keep.push(params.compute(), {rows(), config.hidden});
          receive(action, slot.input);
          break;
        }
        case ActionKind::kForward:
          forward(action, micro, loss_scale, train);
          if (!train) slot_of(action.chunk, action.micro).micro = -1;
          break;
        case ActionKind::kSendActivation:
          activations.close(action.chunk, action.micro,
                            send(action, activations.at(action.chunk, action.micro)));
          break;
        case ActionKind::kRecvGradient:
          receive(action, gradients.open(action.chunk, action.micro));
          break;
        case ActionKind::kBackward:
          backward(action, micro);
          break;
        case ActionKind::kSendGradient:
          gradients.close(action.chunk, action.micro,
                          send(action, gradients.at(action.chunk, action.micro)));
          break;
      }
    }
    settle();
    // The one reading of a step: here the host waits for what it has issued.
    double sum = 0.0;
    kernels.copy(TensorView(&sum, DType::kF64, {1}), loss_view());
    return sum;
  }

  void settle() {
    activations.settle();
    gradients.settle();
  }
};

Pipeline::Pipeline(const ModelConfig& config, const PipelineOptions& options, ParamStore& params,
                   Kernels& kernels, Groups groups, std::int64_t seed, PlaceUse& use) {
  const auto sizes = activation_bytes(config, params.layout(), params.compute(), options,
                                      AssumedLoad::kLargest, kernels.device());
  impl_ = std::make_unique<Impl>(config, options, params, kernels, std::move(groups), seed, use,
                                 &sizes);
}

Pipeline::~Pipeline() = default;

double Pipeline::forward_backward(const MicroBatchOf& micro, double loss_scale,
                                  double sequence_scale) {
  impl_->sequence_scale = sequence_scale;
  return impl_->run(impl_->training, micro, loss_scale, impl_->options.micro_batches, true);
}

double Pipeline::loss(const MicroBatchOf& micro, int count) {
  return impl_->run(impl_->forward_list(count), micro, 0.0, count, false);
}

void Pipeline::logits(const MicroBatch& batch, TensorView logits) {
  auto& p = *impl_;
  PG_ASSERT(p.sharding.pp == 1, "logits on {} stages", p.sharding.pp);
  auto& slot = p.take_slot(0, 0);
  p.chunks[0].chunk.logits(p.context(slot, batch, false), p.recompute, {}, logits, p.use);
  slot.micro = -1;
}

MoeCounters& Pipeline::counters() {
  return impl_->counters;
}

void Pipeline::set_sabotage(const Sabotage& sabotage) {
  impl_->context_ranks.set_sabotage(sabotage);
}

const ActivationBytes& Pipeline::planned() const {
  return impl_->planned;
}

std::int64_t Pipeline::high_water() const {
  const auto& p = *impl_;
  std::int64_t all = 0;
  for (const auto* arena : {&p.scratch, &p.recompute, &p.messages}) {
    all += static_cast<std::int64_t>(arena->high_water());
  }
  for (const auto& state : p.chunks) {
    for (const auto& slot : state.slots) all += static_cast<std::int64_t>(slot.keep.high_water());
  }
  return all;
}

ActivationBytes activation_bytes(const ModelConfig& config, const ParamLayout& layout,
                                 DType compute, const PipelineOptions& options, AssumedLoad load,
                                 Device device) {
  const auto kernels = make_dry_kernels(device);
  const auto groups = dry_groups(layout.sharding(), config.kv_heads);
  ParamStore params(layout, compute, Buffer::Kind::kDry);
  WeightGatherer weights(params, *kernels, groups);
  GradReducer grads(params, *kernels, groups);
  ZeroPlaceUse use(weights, grads);
  MicroBatch batch;
  batch.sequences = options.sequences;
  batch.seq = options.seq / layout.sharding().cp;
  std::optional<ExpertLoad> assumed;
  if (config.moe.experts > 0) {
    const auto& load_of = load == AssumedLoad::kLargest ? largest_load : balanced_load;
    assumed = load_of(config.moe, layout.sharding(), batch.sequences, batch.tokens_count());
  }
  Pipeline::Impl dry(config, options, params, *kernels, groups, 0, use, nullptr, assumed);

  for (auto* view : {&batch.tokens, &batch.positions, &batch.targets}) {
    *view = TensorView(nullptr, DType::kI32, {batch.tokens_count()});
  }
  // Micro-batches are alike: the fewest that the schedule takes show what each slot and each
  // temporary needs.
  auto few = options;
  const bool in_rounds = options.schedule == ScheduleKind::kInterleaved;
  few.micro_batches = in_rounds ? layout.sharding().pp : 1;
  const auto list = make_schedule(shape_of(few, layout.sharding()), layout.sharding().stage);
  dry.run(
      list, [&](int) { return batch; }, 1.0, few.micro_batches, true);

  ActivationBytes bytes = dry.planned;
  for (const auto& state : dry.chunks) {
    std::int64_t largest = 0;
    for (const auto& slot : state.slots) {
      largest = std::max(largest, static_cast<std::int64_t>(slot.keep.high_water()));
    }
    bytes.slot.push_back(largest);
  }
  bytes.scratch = static_cast<std::int64_t>(dry.scratch.high_water());
  bytes.recompute = static_cast<std::int64_t>(dry.recompute.high_water());
  bytes.messages = static_cast<std::int64_t>(dry.messages.high_water());
  return bytes;
}

}  // namespace pg::model

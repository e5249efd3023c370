#include "app/memory_plan.h"

#include <algorithm>
#include <array>

#include "app/expert_checks.h"
#include "app/parallel_plan.h"
#include "comm/staging.h"
#include "model/flops.h"
#include "model/optim/grad_reducer.h"
#include "model/param_store.h"

namespace pg::app {

namespace {

// Elements of matrices that the CPU's products keep packed copies of: all held ones, or under ZeRO
// 3 those of the largest place in each slot, since copies go by address.
std::int64_t packed_elements(const model::ParamLayout& layout, const model::ModelConfig& config) {
  std::array<std::int64_t, model::ParamLayout::kSlots> in_slot{};
  const bool has_head = std::any_of(layout.parts().begin(), layout.parts().end(),
                                    [](const auto& part) { return part.head; });
  std::int64_t all = 0;
  for (std::int64_t place = 0; place < layout.places(); ++place) {
    // Without the head a tied table is only looked up.
    if (place == model::ParamTable::kTokenPlace && !has_head) continue;
    std::int64_t here = 0;
    for (const auto id : layout.params_of(place)) {
      const auto& spec = layout.table()[id];
      if (spec.shape.size() == 2 && !model::is_lookup_only(spec, config)) {
        here += layout.part(id).elements();
      }
    }
    all += here;
    auto& largest = in_slot[static_cast<std::size_t>(layout.slot_of(place))];
    largest = std::max(largest, here);
  }
  if (!layout.gathers_weights()) return all;
  std::int64_t slots = 0;
  for (const auto elements : in_slot) slots += elements;
  return slots;
}

// The largest second operand of a product for a weight's gradient, which is packed for the call:
// the input of a block's linear layer. (Experts take short runs of rows.)
std::int64_t packed_activation_elements(const Deck& deck, const model::ModelConfig& rank_config,
                                        std::int64_t cp) {
  const auto& moe = rank_config.moe;
  const auto widest = std::max({deck.model.hidden, rank_config.q_width(),
                                has_dense_blocks(deck.model) ? rank_config.ffn : 0,
                                has_expert_blocks(deck.model) ? moe.shared_experts * moe.ffn : 0});
  return deck.train.micro_batch * deck.train.seq / cp * widest;
}

// What a group's reductions receive into, which it keeps for later ones.
std::int64_t communication_bytes(const Deck& deck, const model::ParamLayout& layout, DType compute,
                                 int micro_batches) {
  const auto& cut = layout.sharding();
  const auto element = dtype_size(accumulator_of(compute));

  // Gradients over the replicas, from the head to the embedding; from stage 2 on micro-batches
  // follow each other without a pause, and places meet other rooms the second time.
  std::vector<std::int64_t> needs, expert_needs;
  std::int64_t replicas = 0, of_experts = 0;
  const auto add = [&](std::int64_t p) {
    const auto& place = layout.place(p);
    if (!place.held) return;
    const int copies = layout.is_experts(p) ? cut.expert_replicas : cut.replicas;
    auto& longest = layout.is_experts(p) ? of_experts : replicas;
    longest = std::max(longest, comm::all_reduce_room(copies, place.piece, element));
    (layout.is_experts(p) ? expert_needs : needs)
        .push_back(
            comm::reduce_scatter_room(copies, place.piece * static_cast<std::int64_t>(element)));
  };
  const auto head = model::ParamTable::head_place(deck.model);
  const int rounds = cut.zero >= 2 && micro_batches > 1 ? 2 : 1;
  for (int round = 0; round < rounds; ++round) {
    for (auto p = head; p >= 0; --p) add(p);
    for (auto p = head + 1; p < layout.places(); ++p) add(p);
  }
  if (cut.zero > 0) {
    replicas = comm::rooms_after(needs, model::GradReducer::kInFlight);
    of_experts = comm::rooms_after(expert_needs, model::GradReducer::kInFlight);
  }

  // The stream over tp, and the gradients of gates.
  const auto tokens_here = deck.train.micro_batch * deck.train.seq / cut.cp;
  const auto stream = tokens_here * deck.model.hidden;
  const auto width = dtype_size(compute);
  const auto tensor = std::max(
      cut.sequence
          ? comm::reduce_scatter_room(cut.tp, stream / cut.tp * static_cast<std::int64_t>(width))
          : comm::all_reduce_room(cut.tp, stream, width),
      comm::all_reduce_room(cut.tp, tokens_here * deck.model.moe.experts, element));

  // The gradients of gathered keys and values over cp.
  const auto keys = tokens_here * 2 * layout.rank_config().kv_width();
  const auto context =
      cut.context == model::ContextMethod::kAllGather
          ? comm::reduce_scatter_room(cut.cp, keys * static_cast<std::int64_t>(element))
          : 0;

  // A tied table over its two stages.
  const bool at_end = cut.pp > 1 && (cut.stage == 0 || cut.stage == cut.pp - 1);
  const auto& tokens = layout.place(model::ParamTable::kTokenPlace);
  const auto ends = layout.tied() && at_end ? comm::all_reduce_room(2, tokens.piece, element) : 0;
  return replicas + of_experts + tensor + context + ends;
}

// What the CUDA backend's libraries are given to work in: cuBLASLt on a GPU of 132 processors
// (CudaMatmul::workspace_bytes) and, in their turn, cuDNN's attention where it serves
// (CudaAttention::cudnn_refuses), by the one large tensor that it holds (kMostAttentionWorkspace).
// A build without cuDNN takes less.
std::int64_t workspace_bytes(const Deck& deck, const model::ParamLayout& layout, DType compute) {
  constexpr std::int64_t kProducts = std::int64_t{132} << 19;
  const auto& cut = layout.sharding();
  const auto& config = layout.rank_config();
  // (Copies of a KV head add their gradients up in fp32, which cuDNN's backward does not give.)
  const bool whole =
      cut.cp == 1 || (cut.context == model::ContextMethod::kUlysses && config.kv_heads >= cut.cp);
  const bool cudnn = compute == DType::kBF16 && whole && deck.model.dropout == 0.0 &&
                     !deck.data.mask_documents && config.head_dim % 8 == 0 &&
                     config.head_dim <= 128;
  const auto heads = config.q_width() / config.head_dim / cut.cp;
  const auto scores = deck.train.micro_batch * heads * deck.train.seq * deck.train.seq *
                      static_cast<std::int64_t>(dtype_size(compute));
  return std::max(kProducts, cudnn && scores <= model::kMostAttentionWorkspace ? scores : 0);
}

// What a checkpoint gets from this rank.
std::int64_t owned_bytes(const std::vector<comm::TensorRecord>& records) {
  std::int64_t bytes = 0;
  for (const auto& record : records) {
    for (const auto& slab : record.slabs) {
      auto count = static_cast<std::int64_t>(dtype_size(record.dtype));
      for (const auto extent : slab.extent) count *= extent;
      if (slab.owner) bytes += count;
    }
  }
  return bytes;
}

}  // namespace

MemoryPlan plan_memory(const Deck& deck, const comm::GridShape& grid, const comm::Coord& coord) {
  const auto layout = layout_of(deck, sharding_of(deck, grid, coord));
  const auto compute = deck.run.precision;
  const model::ParamStore store(layout, compute, model::Buffer::Kind::kDry);
  const auto bytes = store.bytes();
  const bool gpu = deck.run.device == "cuda";
  MemoryPlan plan;
  plan.parameters = layout.table().elements();
  plan.weights = bytes.weights;
  plan.gradients = bytes.gradients;
  plan.master = bytes.master;
  plan.moments = bytes.moments;
  plan.slots = bytes.slots;
  const auto activations = [&](model::AssumedLoad load) {
    return model::activation_bytes(deck.model, layout, compute, pipeline_options(deck, grid), load,
                                   gpu ? Device::kCuda : Device::kCpu)
        .total();
  };
  plan.activations = activations(model::AssumedLoad::kBalanced);
  plan.activations_most =
      deck.model.moe.experts > 0 ? activations(model::AssumedLoad::kLargest) : plan.activations;
  // On a GPU what is reserved is taken; products take matrices as they are, and sums receive into
  // memory of the library's own.
  if (gpu) plan.activations = plan.activations_most;
  if (compute != DType::kF64 && !gpu) {
    plan.packed = (2 * packed_elements(layout, deck.model) +
                   packed_activation_elements(deck, layout.rank_config(), layout.sharding().cp)) *
                  static_cast<std::int64_t>(dtype_size(compute));
  }
  if (gpu) {
    plan.workspace = workspace_bytes(deck, layout, compute);
  } else {
    plan.communication =
        communication_bytes(deck, layout, compute, pipeline_options(deck, grid).micro_batches);
  }
  // A save from a GPU is written from the copy on the host.
  if (deck.checkpoint.async && !gpu) plan.saving = owned_bytes(store.records());
  plan.total = plan.saving + bytes.total() + plan.activations + plan.packed + plan.communication +
               plan.workspace;
  return plan;
}

std::vector<MemoryPlan> plan_stages(const Deck& deck, const comm::GridShape& grid) {
  std::vector<MemoryPlan> plans;
  for (int stage = 0; stage < grid.size(comm::Axis::kPP); ++stage) {
    comm::Coord coord;
    coord[comm::Axis::kPP] = stage;
    plans.push_back(plan_memory(deck, grid, coord));
  }
  return plans;
}

std::size_t largest_stage(const std::vector<MemoryPlan>& stages) {
  const auto largest = std::max_element(stages.begin(), stages.end(),
                                        [](auto& a, auto& b) { return a.total < b.total; });
  return static_cast<std::size_t>(largest - stages.begin());
}

}  // namespace pg::app

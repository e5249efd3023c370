// The memory of this rank's part of the parameters and of everything that goes with them: weights
// in the compute type, gradients, AdamW's moments, and exact values (fp32 masters under bf16).
//
// ZeRO (Rajbhandari et al. 2020) keeps of each place a piece a replica: of moments and masters from
// stage 1 on, of gradients from stage 2, of weights in stage 3. What a stage cuts exists in full
// only inside slots, while a place is in use: WeightGatherer and GradReducer fill and empty them.
//
// On a GPU all of it lies there. Records, which files are read into and written from, then point
// into a copy on the host: to_host() before a save, from_host() after a load.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "comm/tensor_record.h"
#include "model/buffer.h"
#include "model/kernels/kernels.h"
#include "model/param_layout.h"
#include "model/tensor.h"

namespace pg::model {

class ParamStore {
 public:
  // Buffer::Kind::kDry: views without storage.
  ParamStore(ParamLayout layout, DType compute, Buffer::Kind kind = Buffer::Kind::kReal,
             Device device = Device::kCpu);

  const ParamLayout& layout() const { return layout_; }
  const ParamTable& table() const { return layout_.table(); }
  DType compute() const { return compute_; }
  DType accumulator() const { return accumulator_of(compute_); }
  Device device() const { return m_.device(); }

  // -- what layers use: this rank's part of a parameter, in its own shape
  // -------------------------- A bug while the place is not in its slot.
  TensorView weight(std::size_t id) const { return weight_pack(id, id); }
  TensorView grad(std::size_t id) const { return grad_pack(id, id); }
  // One view over a pack of neighbours first..last: their rows one after another.
  TensorView weight_pack(std::size_t first, std::size_t last) const;
  TensorView grad_pack(std::size_t first, std::size_t last) const;

  // -- what the optimizer uses: this rank's piece of a parameter, flat (possibly of no elements)
  // ---
  TensorView kept_exact(std::size_t id) const;
  TensorView kept_m(std::size_t id) const;
  TensorView kept_v(std::size_t id) const;
  TensorView kept_grad(std::size_t id) const;
  // The rounded weights that follow the exact values; empty where those are the weights, and in
  // stage 3, where the next gather rounds.
  TensorView kept_rounded(std::size_t id) const;

  // -- what gathers and reductions use: whole places, flat, padding included
  // -----------------------
  bool gathers_weights() const { return layout_.gathers_weights(); }
  bool scatters_grads() const { return layout_.scatters_grads(); }
  TensorView place_weights(std::int64_t place) const;  // in the slot in stage 3
  TensorView place_grads(std::int64_t place) const;    // in the slot from stage 2 on
  TensorView kept_exact_of_place(std::int64_t place) const;
  TensorView kept_grads_of_place(std::int64_t place) const;
  // This rank's piece inside place_weights or place_grads of `place`.
  TensorView own_piece(std::int64_t place, TensorView whole) const;
  // Which place's weights (gradients) its slot holds; -1: none. Whoever fills a slot says so.
  void set_weights_in_slot(int slot, std::int64_t place) { weights_in_slot_[slot] = place; }
  std::int64_t weights_in_slot(int slot) const { return weights_in_slot_[slot]; }
  void set_grads_in_slot(int slot, std::int64_t place) { grads_in_slot_[slot] = place; }
  std::int64_t grads_in_slot(int slot) const { return grads_in_slot_[slot]; }

  // Every gradient that this rank keeps between micro-batches: flat.
  TensorView all_grads() const;
  // The biases [E] of a block's router, in the accumulator type, the same on every rank that holds
  // the block; empty when moe.bias_update is 0. Not trained by gradients.
  TensorView router_bias(std::int64_t block) const;

  // Initial values of this rank's pieces: element e of the global tensor depends on (seed, name, e)
  // alone. Also clears the moments. Rounds own pieces; others arrive by WeightGatherer::publish.
  void initialise(std::int64_t seed);
  void round_weights(Kernels& kernels);  // this rank's pieces of the weights from the exact values

  // What a checkpoint holds of this rank: exact weights under their names, moments as NAME.adam_m
  // and NAME.adam_v; the slabs are this rank's pieces. Every parameter has three records,
  // possibly without slabs; a router's biases have one.
  std::vector<comm::TensorRecord> records() const;
  // The copy on the host that the records point into becomes what the GPU holds, or the GPU's what
  // it holds. Nothing on the CPU.
  void to_host();
  void from_host();
  // Frees that copy; records made before point nowhere then.
  void drop_host_copy() { mirrors_.clear(); }
  // The copy's part that checkpoints hold is from now on page-locked, for one that is made again
  // and again: faster to fill, and no longer memory that nothing uses until it is. Records made
  // before point nowhere then.
  void pin_host_copy();
  // The gradients likewise, under the parameters' names: after GradReducer::finish the whole sums,
  // of this moment.
  std::vector<comm::TensorRecord> gradient_records() const;

  struct Bytes {
    std::int64_t weights = 0, gradients = 0, master = 0, moments = 0, slots = 0;
    std::int64_t total() const { return weights + gradients + master + moments + slots; }
  };
  Bytes bytes() const;

 private:
  enum class Space { kFull, kShard, kSlot };
  // On a GPU a buffer's copy on the host, untouched pages until it is used.
  struct Mirror {
    const Buffer* of;
    Buffer copy;
  };
  bool saved(const Buffer& buffer) const;
  void* on_host(void* data) const;  // where records find what the GPU has at `data`
  // Element `offset` of a place's range in `buffer`.
  void* at(const Buffer& buffer, DType type, Space space, std::int64_t place,
           std::int64_t offset) const;
  TensorView pack(void* data, DType type, std::size_t first, std::size_t last) const;
  std::array<const Buffer*, 6> state() const {
    return {&weights_, &grads_, &exact_, &m_, &v_, &router_biases_};
  }
  comm::TensorRecord record(std::size_t id, const std::string& name, TensorView values) const;
  TensorView kept(const Buffer& buffer, DType type, Space space, std::size_t id) const;
  bool exact_apart() const { return compute_ != accumulator() || gathers_weights(); }

  ParamLayout layout_;
  DType compute_;
  Buffer weights_, grads_, exact_, m_, v_, router_biases_;
  std::vector<std::int64_t> biased_blocks_;  // ascending; their biases lie in this order
  Buffer weight_slots_, grad_slots_;
  mutable std::vector<Mirror> mirrors_;  // of state(), made when first asked for
  bool pins_mirrors_ = false;
  std::array<std::int64_t, ParamLayout::kSlots> slot_begin_{};
  std::array<std::int64_t, ParamLayout::kSlots> weights_in_slot_{}, grads_in_slot_{};
};

}  // namespace pg::model

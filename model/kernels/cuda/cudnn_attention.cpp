#include "model/kernels/cuda/cudnn_attention.h"

#include <cudnn_frontend.h>
#include <fmt/format.h>

#include <bit>
#include <functional>
#include <map>
#include <unordered_map>
#include <vector>

#include "comm/error.h"

namespace pg::model::cuda {

namespace {

namespace fe = cudnn_frontend;
using fe::graph::Graph;
using fe::graph::Tensor_attributes;
using Tensor = std::shared_ptr<Tensor_attributes>;

// Names of a graph's tensors.
enum Id : std::int64_t { kQ = 1, kK, kV, kO, kStats, kDo, kDq, kDk, kDv };

// Shape, strides and constants: all that a graph depends on.
using Key = std::vector<std::int64_t>;

// [B, T, H, D] in our order of axes is [B, H, T, D] in cuDNN's.
Tensor_attributes heads_tensor(const TensorView& x, Id id) {
  return Tensor_attributes()
      .set_uid(id)
      .set_dim({x.dim(0), x.dim(2), x.dim(1), x.dim(3)})
      .set_stride({x.stride(0), x.stride(2), x.stride(1), x.stride(3)})
      .set_data_type(fe::DataType_t::BFLOAT16);
}
// Log-sum-exp [B, H, T]: natural logarithms, as ours.
Tensor_attributes stats_tensor(const TensorView& lse) {
  return Tensor_attributes()
      .set_uid(kStats)
      .set_dim({lse.dim(0), lse.dim(1), lse.dim(2), 1})
      .set_stride({lse.stride(0), lse.stride(1), lse.stride(2), 1})
      .set_data_type(fe::DataType_t::FLOAT);
}
void put(const Tensor& to, const Tensor_attributes& like) {
  to->set_output(true)
      .set_uid(like.get_uid())
      .set_dim(like.get_dim())
      .set_stride(like.get_stride())
      .set_data_type(like.get_data_type());
}

// `capability`: of a GPU that is only described, before nodes are added; else 0.
std::shared_ptr<Graph> empty_graph(int capability) {
  auto graph = std::make_shared<Graph>();
  if (capability > 0) graph->set_sm_version(capability);
  graph->set_io_data_type(fe::DataType_t::BFLOAT16)
      .set_intermediate_data_type(fe::DataType_t::FLOAT)
      .set_compute_data_type(fe::DataType_t::FLOAT);
  return graph;
}

// Causal; its window is ours: key + window > query.
template <class Attributes>
Attributes masked(const char* name, const AttentionShape& shape, std::int64_t positions) {
  Attributes attributes;
  attributes.set_name(name)
      .set_attn_scale(static_cast<float>(shape.scale))
      .set_diagonal_alignment(fe::DiagonalAlignment_t::TOP_LEFT)
      .set_diagonal_band_right_bound(0);
  if (shape.window > 0 && shape.window < positions) {
    attributes.set_diagonal_band_left_bound(static_cast<int>(shape.window));
  }
  return attributes;
}

std::shared_ptr<Graph> graph_of(const ForwardOperands& call, int capability) {
  auto graph = empty_graph(capability);
  auto attributes =
      masked<fe::graph::SDPA_attributes>("attention forward", call.shape, call.q.dim(1));
  attributes.set_generate_stats(true);
  const auto [o, stats] =
      graph->sdpa(graph->tensor(heads_tensor(call.q, kQ)), graph->tensor(heads_tensor(call.k, kK)),
                  graph->tensor(heads_tensor(call.v, kV)), attributes);
  put(o, heads_tensor(call.o, kO));
  put(stats, stats_tensor(call.lse));
  return graph;
}

std::shared_ptr<Graph> graph_of(const BackwardOperands& call, int capability) {
  auto graph = empty_graph(capability);
  auto attributes =
      masked<fe::graph::SDPA_backward_attributes>("attention backward", call.shape, call.q.dim(1));
  attributes.set_deterministic_algorithm(true);
  const auto [dq, dk, dv] = graph->sdpa_backward(
      graph->tensor(heads_tensor(call.q, kQ)), graph->tensor(heads_tensor(call.k, kK)),
      graph->tensor(heads_tensor(call.v, kV)), graph->tensor(heads_tensor(call.o, kO)),
      graph->tensor(heads_tensor(call.d_o, kDo)), graph->tensor(stats_tensor(call.lse)),
      attributes);
  put(dq, heads_tensor(call.dq, kDq));
  put(dk, heads_tensor(call.dk, kDk));
  put(dv, heads_tensor(call.dv, kDv));
  return graph;
}

Key key_of(const AttentionShape& shape, std::initializer_list<TensorView> operands) {
  Key key{std::bit_cast<std::int64_t>(shape.scale), shape.window};
  for (const auto& x : operands) {
    for (int axis = 0; axis < x.rank(); ++axis) {
      key.push_back(x.dim(axis));
      key.push_back(x.stride(axis));
    }
  }
  return key;
}
Key key_of(const ForwardOperands& call) {
  return key_of(call.shape, {call.q, call.k, call.v, call.o, call.lse});
}
Key key_of(const BackwardOperands& call) {
  return key_of(call.shape,
                {call.q, call.k, call.v, call.o, call.lse, call.d_o, call.dq, call.dk, call.dv});
}

class Cudnn final : public CudnnAttention {
 public:
  explicit Cudnn(cudnnHandle_t handle) : handle_(handle) {}
  Cudnn(std::shared_ptr<const fe::DeviceProperties> gpu, int capability)
      : gpu_(std::move(gpu)), capability_(capability) {}
  Cudnn(const Cudnn&) = delete;
  Cudnn& operator=(const Cudnn&) = delete;
  ~Cudnn() override {
    if (handle_ != nullptr) cudnnDestroy(handle_);
  }

  std::string version() const override {
    const auto version = cudnnGetVersion();
    return fmt::format("{}.{}.{}", version / 10000, version / 100 % 100, version % 100);
  }

  std::string refuses(const ForwardOperands& call) override { return built(call).refusal; }
  std::string refuses(const BackwardOperands& call) override { return built(call).refusal; }

  void forward(const ForwardOperands& call, Workspace& workspace) override {
    run(built(call), "forward",
        {{kQ, call.q.raw()},
         {kK, call.k.raw()},
         {kV, call.v.raw()},
         {kO, call.o.raw()},
         {kStats, call.lse.raw()}},
        workspace);
  }
  void backward(const BackwardOperands& call, Workspace& workspace) override {
    run(built(call), "backward",
        {{kQ, call.q.raw()},
         {kK, call.k.raw()},
         {kV, call.v.raw()},
         {kO, call.o.raw()},
         {kStats, call.lse.raw()},
         {kDo, call.d_o.raw()},
         {kDq, call.dq.raw()},
         {kDk, call.dk.raw()},
         {kDv, call.dv.raw()}},
        workspace);
  }

 private:
  struct Built {
    std::shared_ptr<Graph> graph;
    std::string refusal;
    std::size_t bytes = 0;  // of workspace
  };

  // The first of the plans that cuDNN's heuristics propose: the same in every run.
  template <class Call>
  const Built& built(const Call& call) {
    const auto [at, is_new] = graphs_.try_emplace(key_of(call));
    auto& built = at->second;
    if (!is_new) return built;
    built.graph = graph_of(call, capability_);
    auto& graph = *built.graph;
    const std::vector<fe::HeurMode_t> modes{fe::HeurMode_t::A};
    if (handle_ == nullptr) {
      // Nothing is compiled: its code could not be loaded.
      graph.set_device_properties(gpu_);
      for (const auto& step : {std::function([&] { return graph.build_operation_graph(); }),
                               std::function([&] { return graph.create_execution_plans(modes); }),
                               std::function([&] { return graph.check_support(); })}) {
        if (auto status = step(); status.is_bad()) {
          built.refusal = "refused: " + status.get_message();
          break;
        }
      }
      return built;
    }
    auto status = graph.build(handle_, modes);
    std::int64_t bytes = 0;
    if (status.is_good()) status = graph.get_workspace_size(bytes);
    if (status.is_bad()) {
      built.refusal = "refused: " + status.get_message();
    } else if (bytes > kMostAttentionWorkspace) {
      built.refusal =
          fmt::format("it wants {:.1f} GiB of workspace", static_cast<double>(bytes) / (1 << 30));
      built.graph.reset();
    } else {
      built.bytes = static_cast<std::size_t>(bytes);
    }
    return built;
  }

  void run(const Built& built, const char* direction,
           std::unordered_map<std::int64_t, void*> operands, Workspace& workspace) {
    PG_ASSERT(built.refusal.empty() && handle_ != nullptr, "attention {} by cuDNN: {}", direction,
              built.refusal);
    void* const memory = workspace.take(built.bytes);
    auto status = built.graph->execute(handle_, operands, memory);
    if (status.is_bad()) {
      throw fail(ExitCode::kComm, "cuDNN {}: attention {}: {}", version(), direction,
                 status.get_message());
    }
  }

  cudnnHandle_t handle_ = nullptr;  // null: of a GPU that is only described
  std::shared_ptr<const fe::DeviceProperties> gpu_;
  int capability_ = 0;
  std::map<Key, Built> graphs_;
};

}  // namespace

std::unique_ptr<CudnnAttention> CudnnAttention::make(comm::Gpu& gpu) {
  cudnnHandle_t handle = nullptr;
  if (cudnnCreate(&handle) != CUDNN_STATUS_SUCCESS) return nullptr;
  auto cudnn = std::make_unique<Cudnn>(handle);
  if (cudnnSetStream(handle, gpu.compute()) != CUDNN_STATUS_SUCCESS) return nullptr;
  return cudnn;
}

std::unique_ptr<CudnnAttention> CudnnAttention::for_gpu_of(const std::string& description,
                                                           int capability) {
  auto gpu = std::make_shared<fe::DeviceProperties>();
  auto status = gpu->deserialize({description.begin(), description.end()});
  PG_ASSERT(status.is_good(), "{}: {}", description, status.get_message());
  return std::make_unique<Cudnn>(gpu, capability);
}

}  // namespace pg::model::cuda

#include "model/kernels/cuda/attention_prepare.cuh"

#include <cmath>
#include <limits>

namespace pg::model::cuda {

namespace {

constexpr int kThreads = 256;
// Queries are padded to whole tiles of the largest kernel.
constexpr std::int64_t kPadding = 128;

// By kernel arguments: a copy from the host's pageable memory could wait for the stream.
struct SomeSamples {
  static constexpr int kMost = 256;
  std::int64_t at[kMost];
};
__global__ void put_samples(std::int64_t* to, SomeSamples samples, int count) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < count) to[i] = samples.at[i];
}

// A warp for each tile.
__global__ void __launch_bounds__(kThreads)
    document_ranges(DocumentRange* ranges, const std::int32_t* documents, std::int64_t stride,
                    int queries, int tiles, int all) {
  const int warp = static_cast<int>(blockIdx.x * (kThreads / 32) + threadIdx.x / 32);
  const int lane = static_cast<int>(threadIdx.x % 32);
  if (warp >= all) return;
  const std::int32_t* from = documents + warp / tiles * stride;
  const int first = warp % tiles * kDocumentTile;
  DocumentRange range{std::numeric_limits<std::int32_t>::max(),
                      std::numeric_limits<std::int32_t>::min()};
  for (int i = first + lane; i < first + kDocumentTile && i < queries; i += 32) {
    range.lowest = from[i] < range.lowest ? from[i] : range.lowest;
    range.highest = larger(range.highest, from[i]);
  }
  range.highest = warp_max(range.highest);
  for (int other = 16; other > 0; other /= 2) {
    const auto low = __shfl_xor_sync(0xFFFFFFFFu, range.lowest, other);
    range.lowest = low < range.lowest ? low : range.lowest;
  }
  if (lane == 0) ranges[warp] = range;
}

// A warp for each query of each head, also of those that pad.
template <class T, class E>
__global__ void __launch_bounds__(kThreads)
    row_stats(RowStats<acc_t<T>>* stats, Input<T> d_o, Input<E> o, const acc_t<T>* lse,
              std::int64_t lse_sequence, std::int64_t lse_head, acc_t<T> lse_factor,
              AttentionCall call) {
  using A = acc_t<T>;
  const std::int64_t row = std::int64_t{blockIdx.x} * (kThreads / 32) + threadIdx.x / 32;
  const int lane = static_cast<int>(threadIdx.x % 32);
  if (row >= std::int64_t{call.sequences} * call.heads * call.padded) return;
  // Neighbouring warps read neighbouring heads of a query, which mostly are neighbours in memory.
  const int h = static_cast<int>(row % call.heads);
  const int query = static_cast<int>(row / call.heads % call.padded);
  const int b = static_cast<int>(row / call.heads / call.padded);
  RowStats<A> result{std::numeric_limits<A>::infinity(), A{0}};
  if (query < call.queries) {
    const auto left = d_o.rows(b, h);
    const auto right = o.rows(b, h);
    const T* x = left.at(query);
    const E* y = right.at(query);
    constexpr int kPer = Pack<T>::kSize, kOther = Pack<E>::kSize;
    A sum{0};
    // The same terms in the same order however the rows lie.
    for (int d = lane * kPer; d < call.size; d += 32 * kPer) {
      Pack<T> xs;
      Pack<E> ys[kPer / kOther];
      if (left.packs && right.packs) {
        xs = load_pack(x + d);
        for (int i = 0; i < kPer / kOther; ++i) ys[i] = load_pack(y + d + i * kOther);
      } else {
        for (int i = 0; i < kPer; ++i) {
          const bool there = d + i < call.size;
          xs.at[i] = there ? x[d + i] : T(0.0f);
          ys[i / kOther].at[i % kOther] = there ? y[d + i] : E(0.0f);
        }
      }
      for (int i = 0; i < kPer; ++i) sum += load(xs.at[i]) * load(ys[i / kOther].at[i % kOther]);
    }
    result.delta = warp_sum(sum);
    // A query that sees no key at all has probabilities of zero.
    const A own = lse[b * lse_sequence + h * lse_head + query];
    if (own != -std::numeric_limits<A>::infinity()) result.lse = own * lse_factor;
  }
  if (lane == 0) stats[(std::int64_t{b} * call.heads + h) * call.padded + query] = result;
}

}  // namespace

PreparedCall prepare_attention(const TensorView& q, const TensorView& k,
                               const AttentionShape& shape, const Dropout& dropout,
                               std::size_t stats_size, Workspace& workspace, cudaStream_t stream) {
  constexpr std::int64_t kMost = 1 << 30;
  const auto sequences = q.dim(0), queries = q.dim(1), heads = q.dim(2), keys = k.dim(1);
  PG_ASSERT(
      sequences < kMost && queries < kMost && keys < kMost && heads < kMost && q.dim(3) < kMost,
      "q {} k {}", q.text(), k.text());
  PreparedCall prepared{};
  auto& call = prepared.call;
  call.sequences = static_cast<int>(sequences);
  call.queries = static_cast<int>(queries);
  call.keys = static_cast<int>(keys);
  call.heads = static_cast<int>(heads);
  call.kv_heads = static_cast<int>(k.dim(2));
  call.size = static_cast<int>(q.dim(3));
  call.group = call.heads / call.kv_heads;
  call.padded = static_cast<int>(ceil_div(queries, kPadding) * kPadding);
  call.scale = shape.scale;
  call.offset = shape.first_query - shape.first_key;
  call.window = shape.window;
  call.first_key = shape.first_key;

  const bool drops = dropout.rate > 0.0, documents = !shape.visible_from.empty();
  const auto tiles = ceil_div(queries, kDocumentTile);
  const auto aligned = [](std::size_t bytes) { return (bytes + 255) / 256 * 256; };
  const auto stats_bytes =
      aligned(static_cast<std::size_t>(sequences * heads * call.padded) * stats_size);
  const auto range_bytes =
      documents ? aligned(static_cast<std::size_t>(sequences * tiles) * sizeof(DocumentRange)) : 0;
  const auto sample_bytes =
      drops ? aligned(static_cast<std::size_t>(sequences) * sizeof(std::int64_t)) : 0;
  auto* memory =
      static_cast<unsigned char*>(workspace.take(stats_bytes + range_bytes + sample_bytes));
  prepared.stats = memory;

  if (documents) {
    auto* ranges = reinterpret_cast<DocumentRange*>(memory + stats_bytes);
    call.documents = shape.visible_from.data<std::int32_t>();
    call.documents_stride = shape.visible_from.stride(0);
    call.document_ranges = ranges;
    launch("attention_documents", document_ranges,
           dim3(blocks_of(ceil_div(sequences * tiles, kThreads / 32))), dim3(kThreads), 0, stream,
           ranges, call.documents, call.documents_stride, call.queries, static_cast<int>(tiles),
           static_cast<int>(sequences * tiles));
  }
  if (drops) {
    auto* samples = reinterpret_cast<std::int64_t*>(memory + stats_bytes + range_bytes);
    for (std::int64_t first = 0; first < sequences; first += SomeSamples::kMost) {
      const auto count = std::min<std::int64_t>(sequences - first, SomeSamples::kMost);
      SomeSamples some{};
      std::copy_n(dropout.samples.data() + first, count, some.at);
      launch("attention_samples", put_samples, dim3(1), dim3(SomeSamples::kMost), 0, stream,
             samples + first, some, static_cast<int>(count));
    }
    call.samples = samples;
    call.key = dropout.key;
    call.length = shape.seq > 0 ? shape.seq : keys;
    call.row = dropout.first_head * call.length + shape.first_query;
    call.column = shape.first_key;
    // Scaling by a power of two is exact: a survivor has bits / 2^32 >= rate, as contracted.
    call.largest_dropped = static_cast<std::uint32_t>(
        static_cast<std::uint64_t>(std::ceil(dropout.rate * 4294967296.0)) - 1);
    call.survivor = 1.0 / (1.0 - dropout.rate);
  }
  return prepared;
}

void launch_row_stats(const PreparedCall& prepared, const BackwardOperands& call, double lse_factor,
                      cudaStream_t stream) {
  const auto rows = std::int64_t{prepared.call.sequences} * prepared.call.heads *
                    std::int64_t{prepared.call.padded};
  if (rows == 0) return;
  const dim3 grid(blocks_of(ceil_div(rows, kThreads / 32)));
  dispatch(call.q.dtype(), [&]<class T>() {
    using A = acc_t<T>;
    const auto run = [&]<class E>(E /*of o*/) {
      launch("attention_row_stats", row_stats<T, E>, grid, dim3(kThreads), 0, stream,
             static_cast<RowStats<A>*>(prepared.stats), input<T>(call.d_o), input<E>(call.o),
             call.lse.data<A>(), call.lse.stride(0), call.lse.stride(1), static_cast<A>(lse_factor),
             prepared.call);
    };
    call.o.dtype() == call.q.dtype() ? run(T{}) : run(A{});
  });
}

}  // namespace pg::model::cuda

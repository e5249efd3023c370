// Group over MPI: non-blocking calls on host buffers.
#include <climits>
#include <cstdint>

#include "comm/error.h"
#include "comm/mpi_internal.h"

namespace pg::comm {

namespace mpi {

MPI_Datatype datatype(DType type) {
  switch (type) {
    case DType::kF64:
      return MPI_DOUBLE;
    case DType::kF32:
      return MPI_FLOAT;
    case DType::kBF16:
      return MPI_UINT16_T;
    case DType::kI32:
      return MPI_INT32_T;
    case DType::kI64:
      return MPI_INT64_T;
    case DType::kU8:
      return MPI_UINT8_T;
  }
  return MPI_DATATYPE_NULL;
}

}  // namespace mpi

namespace {

using mpi::check;

// MPI knows no bf16: its reductions come from here, on 16-bit words.
template <class Combine>
void reduce_bf16(void* in, void* inout, int* length, Combine combine) {
  const auto* x = static_cast<const bf16*>(in);
  auto* y = static_cast<bf16*>(inout);
  for (int i = 0; i < *length; ++i) {
    y[i] = bf16(combine(static_cast<float>(y[i]), static_cast<float>(x[i])));
  }
}
void sum_bf16(void* in, void* inout, int* length, MPI_Datatype*) {
  reduce_bf16(in, inout, length, [](float a, float b) { return a + b; });
}
void max_bf16(void* in, void* inout, int* length, MPI_Datatype*) {
  reduce_bf16(in, inout, length, [](float a, float b) { return a < b ? b : a; });
}
void min_bf16(void* in, void* inout, int* length, MPI_Datatype*) {
  reduce_bf16(in, inout, length, [](float a, float b) { return b < a ? b : a; });
}

class MpiGroup final : public Group {
 public:
  MpiGroup(Communicator communicator, std::string name)
      : communicator_(std::move(communicator)),
        comm_(mpi::handle(communicator_)),
        name_(std::move(name)),
        size_(communicator_.size()),
        rank_(communicator_.rank()) {
    check(MPI_Op_create(sum_bf16, 1, &bf16_ops_[0]), name_, "MPI_Op_create");
    check(MPI_Op_create(max_bf16, 1, &bf16_ops_[1]), name_, "MPI_Op_create");
    check(MPI_Op_create(min_bf16, 1, &bf16_ops_[2]), name_, "MPI_Op_create");
  }
  MpiGroup(const MpiGroup&) = delete;
  MpiGroup& operator=(const MpiGroup&) = delete;
  ~MpiGroup() override {
    for (auto& op : bf16_ops_) MPI_Op_free(&op);
  }

  std::string_view name() const override { return name_; }
  int size() const override { return size_; }
  int rank() const override { return rank_; }

  Pending all_reduce(BufferView inout, ReduceOp op) override {
    if (size_ == 1) return {};
    return in_pieces(inout, "all_reduce", [&](void* data, int count, MPI_Request* request) {
      return MPI_Iallreduce(MPI_IN_PLACE, data, count, mpi::datatype(inout.dtype),
                            reduction(inout.dtype, op), comm_, request);
    });
  }

  Pending all_gather(BufferView send, BufferView recv) override {
    PG_ASSERT(recv.count == send.count * static_cast<std::size_t>(size_), "{} from {} ranks of {}",
              recv.count, size_, send.count);
    MPI_Request request = MPI_REQUEST_NULL;
    check(MPI_Iallgather(send.data, one_message(send), mpi::datatype(send.dtype), recv.data,
                         one_message(send), mpi::datatype(recv.dtype), comm_, &request),
          name_, "all_gather");
    return waits({request}, "all_gather");
  }

  Pending reduce_scatter(BufferView send, BufferView recv, ReduceOp op) override {
    PG_ASSERT(send.count == recv.count * static_cast<std::size_t>(size_), "{} to {} ranks of {}",
              send.count, size_, recv.count);
    MPI_Request request = MPI_REQUEST_NULL;
    check(MPI_Ireduce_scatter_block(send.data, recv.data, one_message(recv),
                                    mpi::datatype(recv.dtype), reduction(recv.dtype, op), comm_,
                                    &request),
          name_, "reduce_scatter");
    return waits({request}, "reduce_scatter");
  }

  Pending broadcast(BufferView inout, int root) override {
    if (size_ == 1) return {};
    return in_pieces(inout, "broadcast", [&](void* data, int count, MPI_Request* request) {
      return MPI_Ibcast(data, count, mpi::datatype(inout.dtype), root, comm_, request);
    });
  }

  Pending send(BufferView buffer, int to, int tag) override {
    return in_pieces(buffer, "send", [&](void* data, int count, MPI_Request* request) {
      return MPI_Isend(data, count, mpi::datatype(buffer.dtype), to, tag, comm_, request);
    });
  }

  Pending recv(BufferView buffer, int from, int tag) override {
    return in_pieces(buffer, "recv", [&](void* data, int count, MPI_Request* request) {
      return MPI_Irecv(data, count, mpi::datatype(buffer.dtype), from, tag, comm_, request);
    });
  }

  void barrier() override { check(MPI_Barrier(comm_), name_, "barrier"); }

 private:
  // MPI counts are int: longer buffers go as several calls, in order.
  static constexpr std::size_t kMaxCount = std::size_t{1} << 30;

  int one_message(BufferView buffer) const {
    PG_ASSERT(buffer.count <= kMaxCount, "{} elements on group {}", buffer.count, name_);
    return static_cast<int>(buffer.count);
  }

  template <class Start>
  Pending in_pieces(BufferView buffer, const char* operation, Start start) {
    std::vector<MPI_Request> requests;
    for (std::size_t done = 0; done < buffer.count; done += kMaxCount) {
      const auto count = std::min(kMaxCount, buffer.count - done);
      char* data = static_cast<char*>(buffer.data) + done * dtype_size(buffer.dtype);
      check(start(data, static_cast<int>(count), &requests.emplace_back(MPI_REQUEST_NULL)), name_,
            operation);
    }
    return waits(std::move(requests), operation);
  }

  Pending waits(std::vector<MPI_Request> requests, const char* operation) {
    return Pending([this, requests = std::move(requests), operation]() mutable {
      check(MPI_Waitall(static_cast<int>(requests.size()), requests.data(), MPI_STATUSES_IGNORE),
            name_, operation);
    });
  }

  MPI_Op reduction(DType type, ReduceOp op) const {
    const MPI_Op kOps[] = {MPI_SUM, MPI_MAX, MPI_MIN};
    const auto index = static_cast<int>(op);
    return type == DType::kBF16 ? bf16_ops_[index] : kOps[index];
  }

  Communicator communicator_;
  MPI_Comm comm_;
  std::string name_;
  int size_, rank_;
  MPI_Op bf16_ops_[3] = {MPI_OP_NULL, MPI_OP_NULL, MPI_OP_NULL};
};

}  // namespace

std::unique_ptr<Group> make_mpi_group(Communicator communicator, std::string name) {
  return std::make_unique<MpiGroup>(std::move(communicator), std::move(name));
}

}  // namespace pg::comm

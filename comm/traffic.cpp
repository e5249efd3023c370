#include "comm/traffic.h"

#include <utility>

#include "comm/error.h"

namespace pg::comm {

const char* operation_name(Operation operation) {
  switch (operation) {
    case Operation::kAllReduce:
      return "all_reduce";
    case Operation::kAllGather:
      return "all_gather";
    case Operation::kReduceScatter:
      return "reduce_scatter";
    case Operation::kAllToAll:
      return "all_to_all";
    case Operation::kBroadcast:
      return "broadcast";
    case Operation::kSend:
      return "send";
    case Operation::kRecv:
      return "recv";
    case Operation::kBarrier:
      return "barrier";
  }
  throw fail(ExitCode::kBug, "bug: no operation {}", static_cast<int>(operation));
}

std::vector<TrafficRow> Traffic::rows() const {
  std::vector<TrafficRow> rows;
  for (const auto& [name, counts] : groups_) {
    for (int i = 0; i < kOperations; ++i) {
      const Count& c = (*counts)[static_cast<std::size_t>(i)];
      if (c.calls == 0) continue;
      rows.push_back({name, static_cast<Operation>(i), c.calls, c.payload, c.least_sent});
    }
  }
  return rows;
}

void Traffic::reset() {
  for (auto& [name, counts] : groups_) counts->fill({});
}

class CountedGroup final : public Group {
 public:
  CountedGroup(std::unique_ptr<Group> inner, std::shared_ptr<Traffic::Counts> counts)
      : inner_(std::move(inner)),
        counts_(std::move(counts)),
        others_((inner_->size() - 1.0) / inner_->size()) {}

  std::string_view name() const override { return inner_->name(); }
  int size() const override { return inner_->size(); }
  int rank() const override { return inner_->rank(); }

  Pending all_reduce(BufferView inout, ReduceOp op) override {
    return counted(inner_->all_reduce(inout, op), Operation::kAllReduce, inout, 2 * others_);
  }
  Pending all_gather(BufferView send, BufferView recv) override {
    return counted(inner_->all_gather(send, recv), Operation::kAllGather, recv, others_);
  }
  Pending reduce_scatter(BufferView send, BufferView recv, ReduceOp op) override {
    return counted(inner_->reduce_scatter(send, recv, op), Operation::kReduceScatter, send,
                   others_);
  }
  Pending all_to_all(BufferView send, std::span<const std::size_t> send_counts, BufferView recv,
                     std::span<const std::size_t> recv_counts) override {
    auto call = inner_->all_to_all(send, send_counts, recv, recv_counts);
    // Only what stays is not sent. The inner group has checked the counts.
    const auto leaves = send.count - send_counts[static_cast<std::size_t>(rank())];
    add(Operation::kAllToAll, send, static_cast<double>(leaves * dtype_size(send.dtype)));
    return call;
  }
  Pending broadcast(BufferView inout, int root) override {
    return counted(inner_->broadcast(inout, root), Operation::kBroadcast, inout, others_);
  }
  Pending send(BufferView buffer, int to, int tag) override {
    return counted(inner_->send(buffer, to, tag), Operation::kSend, buffer, 1);
  }
  Pending recv(BufferView buffer, int from, int tag) override {
    return counted(inner_->recv(buffer, from, tag), Operation::kRecv, buffer, 0);
  }
  void barrier() override {
    inner_->barrier();
    add(Operation::kBarrier, {}, 0);
  }

 private:
  // `factor`: the least bytes to send for each byte of `payload`.
  Pending counted(Pending call, Operation operation, const BufferView& payload, double factor) {
    add(operation, payload, factor * static_cast<double>(payload.bytes()));
    return call;
  }
  void add(Operation operation, const BufferView& payload, double least_sent) {
    auto& count = (*counts_)[static_cast<std::size_t>(operation)];
    ++count.calls;
    count.payload += static_cast<std::int64_t>(payload.bytes());
    count.least_sent += least_sent;
  }

  std::unique_ptr<Group> inner_;
  std::shared_ptr<Traffic::Counts> counts_;
  double others_;  // (n-1)/n
};

std::unique_ptr<Group> make_counted_group(std::unique_ptr<Group> inner, Traffic& traffic) {
  if (inner->size() == 1) return inner;
  auto& counts = traffic.groups_[std::string(inner->name())];
  if (!counts) counts = std::make_shared<Traffic::Counts>();
  return std::make_unique<CountedGroup>(std::move(inner), counts);
}

}  // namespace pg::comm

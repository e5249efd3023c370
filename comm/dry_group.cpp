#include "comm/dry_group.h"

#include <utility>

#include "comm/error.h"
#include "comm/group_checks.h"

namespace pg::comm {

namespace {

class DryGroup final : public Group {
 public:
  DryGroup(std::string name, int size, int rank)
      : name_(std::move(name)), size_(size), rank_(rank) {
    PG_ASSERT(size_ >= 1, "group {} of {}", name_, size_);
    require_rank(*this, rank_);
  }

  std::string_view name() const override { return name_; }
  int size() const override { return size_; }
  int rank() const override { return rank_; }
  Pending all_reduce(BufferView, ReduceOp) override { return {}; }
  Pending all_gather(BufferView send, BufferView recv) override {
    require_part_of(*this, send, recv);
    return {};
  }
  Pending reduce_scatter(BufferView send, BufferView recv, ReduceOp) override {
    require_part_of(*this, recv, send);
    return {};
  }
  Pending all_to_all(BufferView send, std::span<const std::size_t> send_counts, BufferView recv,
                     std::span<const std::size_t> recv_counts) override {
    require_exchange(*this, send, send_counts, recv, recv_counts);
    return {};
  }
  Pending broadcast(BufferView, int root) override {
    require_rank(*this, root);
    return {};
  }
  Pending send(BufferView, int to, int tag) override { return message(to, tag); }
  Pending recv(BufferView, int from, int tag) override { return message(from, tag); }
  void barrier() override {}

 private:
  Pending message(int peer, int tag) {
    require_rank(*this, peer);
    require_tag(*this, tag);
    return {};
  }

  std::string name_;
  int size_, rank_;
};

}  // namespace

std::unique_ptr<Group> make_dry_group(std::string name, int size, int rank) {
  return std::make_unique<DryGroup>(std::move(name), size, rank);
}

}  // namespace pg::comm

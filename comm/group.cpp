#include "comm/group.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>

#include "comm/error.h"
#include "comm/gpu.h"
#include "comm/group_checks.h"
#include "comm/mpi_session.h"

namespace pg::comm {

void Pending::wait() {
  if (!wait_) return;
  const auto wait = std::exchange(wait_, nullptr);
  wait();
}

Pending::~Pending() {
  try {
    wait();
  } catch (const std::exception& error) {
    if (std::uncaught_exceptions() > 0) return;  // the exception that unwinds came first
    std::fprintf(stderr, "%s\n", error.what());
    abort_job(static_cast<int>(ExitCode::kComm));
  }
}

namespace {

class SelfGroup final : public Group {
 public:
  SelfGroup(std::string name, const Gpu* gpu) : name_(std::move(name)), gpu_(gpu) {}

  std::string_view name() const override { return name_; }
  int size() const override { return 1; }
  int rank() const override { return 0; }
  Pending all_reduce(BufferView inout, ReduceOp op) override {
    require_reduction(*this, inout, op);
    return {};
  }
  Pending all_gather(BufferView send, BufferView recv) override {
    require_all_gather(*this, send, recv);
    return copy(send, recv);
  }
  Pending reduce_scatter(BufferView send, BufferView recv, ReduceOp op) override {
    require_reduce_scatter(*this, send, recv, op);
    return copy(send, recv);
  }
  Pending all_to_all(BufferView send, std::span<const std::size_t> send_counts, BufferView recv,
                     std::span<const std::size_t> recv_counts) override {
    require_all_to_all(*this, send, send_counts, recv, recv_counts);
    return copy(send, recv);
  }
  Pending broadcast(BufferView, int root) override {
    require_rank(*this, root);
    return {};
  }
  Pending send(BufferView, int to, int) override { return alone("send", to); }
  Pending recv(BufferView, int from, int) override { return alone("recv", from); }
  void barrier() override {}

 private:
  Pending copy(BufferView from, BufferView to) const {
    if (from.count == 0 || from.data == to.data) return {};
    if (from.device == Device::kCuda) {
      PG_ASSERT(gpu_ != nullptr, "group {} was made without a GPU", name_);
      gpu_copy_on(gpu_->compute(), to.data, from.data, from.bytes());
    } else {
      std::memcpy(to.data, from.data, from.bytes());
    }
    return {};
  }
  Pending alone(const char* operation, int peer) {
    throw fail(ExitCode::kBug, "bug: {} with rank {} on the one-rank group {}", operation, peer,
               name_);
  }
  std::string name_;
  const Gpu* gpu_;
};

}  // namespace

std::unique_ptr<Group> make_self_group(std::string name, const Gpu* gpu) {
  return std::make_unique<SelfGroup>(std::move(name), gpu);
}

Pending all_to_all(Group& group, BufferView send, BufferView recv) {
  const auto ranks = static_cast<std::size_t>(group.size());
  PG_ASSERT(send.count == recv.count && send.count % ranks == 0, "group {}: {} to {} elements",
            group.name(), send.count, recv.count);
  const std::vector<std::size_t> counts(ranks, send.count / ranks);
  return group.all_to_all(send, counts, recv, counts);
}

double all_reduce(Group& group, double value, ReduceOp op) {
  group.all_reduce({&value, 1, DType::kF64}, op).wait();
  return value;
}

std::int64_t all_reduce(Group& group, std::int64_t value, ReduceOp op) {
  group.all_reduce({&value, 1, DType::kI64}, op).wait();
  return value;
}

std::string broadcast(Group& group, std::string text, int root) {
  auto size = static_cast<std::int64_t>(text.size());
  group.broadcast({&size, 1, DType::kI64}, root).wait();
  text.resize(static_cast<std::size_t>(size));
  if (size > 0) group.broadcast({text.data(), text.size(), DType::kU8}, root).wait();
  return text;
}

std::vector<std::string> all_gather(Group& group, const std::string& text) {
  const auto ranks = static_cast<std::size_t>(group.size());
  auto size = static_cast<std::int64_t>(text.size());
  std::vector<std::int64_t> sizes(ranks);
  group.all_gather({&size, 1, DType::kI64}, {sizes.data(), ranks, DType::kI64}).wait();
  std::int64_t longest = 0;
  for (const auto s : sizes) longest = std::max(longest, s);
  if (longest == 0) return std::vector<std::string>(ranks);

  // Padded to the longest: texts are short, and one collective serves all.
  const auto width = static_cast<std::size_t>(longest);
  std::string mine = text;
  mine.resize(width);
  std::string all(width * ranks, '\0');
  group.all_gather({mine.data(), width, DType::kU8}, {all.data(), all.size(), DType::kU8}).wait();
  std::vector<std::string> texts;
  for (std::size_t r = 0; r < ranks; ++r) {
    texts.push_back(all.substr(r * width, static_cast<std::size_t>(sizes[r])));
  }
  return texts;
}

}  // namespace pg::comm

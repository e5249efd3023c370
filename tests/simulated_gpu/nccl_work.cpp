#include "tests/simulated_gpu/nccl_work.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "comm/dtype.h"

namespace pg::simulated {

void stop(const std::string& what) {
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  std::fprintf(stderr, "simulated NCCL: rank %d: %s\n", rank, what.c_str());
  std::fflush(stderr);
  MPI_Abort(MPI_COMM_WORLD, 70);
  std::abort();
}

void Outbox::send(std::vector<char> bytes, int to, int tag) {
  auto& [kept, request] = letters_.emplace_back(std::move(bytes), MPI_REQUEST_NULL);
  MPI_Issend(kept.data(), static_cast<int>(kept.size()), MPI_BYTE, to, tag, MPI_COMM_WORLD,
             &request);
}

bool Outbox::empty() {
  std::erase_if(letters_, [](auto& letter) {
    int done = 0;
    MPI_Test(&letter.second, &done, MPI_STATUS_IGNORE);
    return done != 0;
  });
  return letters_.empty();
}

bool receive(int from, int tag, std::vector<char>& bytes) {
  int there = 0, size = 0;
  MPI_Message message;
  MPI_Status status;
  MPI_Improbe(from, tag, MPI_COMM_WORLD, &there, &message, &status);
  if (there == 0) return false;
  MPI_Get_count(&status, MPI_BYTE, &size);
  bytes.resize(static_cast<std::size_t>(size));
  MPI_Mrecv(bytes.data(), size, MPI_BYTE, &message, MPI_STATUS_IGNORE);
  return true;
}

std::map<std::uint64_t, Handle>& live() {
  static std::map<std::uint64_t, Handle> all;
  return all;
}

std::size_t size_of(ncclDataType_t type) {
  switch (type) {
    case ncclFloat64:
    case ncclInt64:
      return 8;
    case ncclFloat32:
    case ncclInt32:
      return 4;
    case ncclBfloat16:
      return 2;
    case ncclUint8:
      return 1;
    default:
      stop("a type that is not simulated");
  }
}

namespace {

template <class T, class Compute = T>
void combine(void* into, const void* from, std::size_t count, ncclRedOp_t op) {
  auto* a = static_cast<T*>(into);
  const auto* b = static_cast<const T*>(from);
  for (std::size_t i = 0; i < count; ++i) {
    const auto x = static_cast<Compute>(a[i]), y = static_cast<Compute>(b[i]);
    a[i] = static_cast<T>(static_cast<Compute>(op == ncclSum   ? x + y
                                               : op == ncclMax ? std::max(x, y)
                                                               : std::min(x, y)));
  }
}

void combine(void* into, const void* from, std::size_t count, ncclDataType_t type, ncclRedOp_t op) {
  switch (type) {
    case ncclFloat64:
      return combine<double>(into, from, count, op);
    case ncclFloat32:
      return combine<float>(into, from, count, op);
    case ncclBfloat16:
      return combine<bf16, float>(into, from, count, op);
    case ncclInt32:
      return combine<std::int32_t>(into, from, count, op);
    case ncclInt64:
      return combine<std::int64_t>(into, from, count, op);
    default:
      return combine<std::uint8_t>(into, from, count, op);
  }
}

constexpr const char* kNames[] = {"all_reduce", "all_gather", "reduce_scatter", "broadcast"};

std::string text(const Header& h) {
  return std::string(kNames[h.operation]) + " number " + std::to_string(h.number) + " of " +
         std::to_string(h.count) + " elements of type " + std::to_string(h.type) + ", reduction " +
         std::to_string(h.reduction) + ", root " + std::to_string(h.root);
}

class CollectiveWork {
 public:
  CollectiveWork(Handle state, const Header& header, const void* send, void* recv)
      : state_(std::move(state)), header_(header), send_(send), recv_(recv) {
    for (const auto& [key, other] : live()) issued_.push_back({key, other->collectives});
    header_.others = issued_.size();
    header_.number = state_->collectives++;
  }

  bool operator()() {
    if (state_->aborted) return true;
    if (!parts_) start();
    if (state_->result != ncclSuccess) return false;  // broken: for ever
    const int size = state_->size;
    for (int r = 0; r < size; ++r) {
      auto& part = (*parts_)[static_cast<std::size_t>(r)];
      std::vector<char> bytes;
      if (part || r == state_->rank) continue;
      if (!receive(state_->world_of(r), tag_of(state_->key, kCollective), bytes)) continue;
      part = std::make_shared<std::vector<char>>(opened(bytes, r));
    }
    for (int r = 0; r < size; ++r) {
      if (!(*parts_)[static_cast<std::size_t>(r)]) return false;
    }
    if (!finished_) finish();
    finished_ = true;
    return state_->outbox.empty();
  }

 private:
  std::size_t bytes() const {
    return header_.count * size_of(static_cast<ncclDataType_t>(header_.type));
  }
  // Of what this rank gives: the part for rank r, or all of it.
  std::vector<char> given(int r) const {
    const auto* from = static_cast<const char*>(send_);
    if (header_.operation == kReduceScatter) from += static_cast<std::size_t>(r) * bytes();
    if (header_.operation == kBroadcast && state_->rank != header_.root) return {};
    return {from, from + bytes()};
  }

  void start() {
    parts_ = std::make_shared<std::vector<std::shared_ptr<std::vector<char>>>>(
        static_cast<std::size_t>(state_->size));
    for (int r = 0; r < state_->size; ++r) {
      const auto part = given(r);
      if (r == state_->rank) {
        (*parts_)[static_cast<std::size_t>(r)] = std::make_shared<std::vector<char>>(part);
        continue;
      }
      std::vector<char> bytes(sizeof(Header) + issued_.size() * sizeof(Issued));
      std::memcpy(bytes.data(), &header_, sizeof(Header));
      std::memcpy(bytes.data() + sizeof(Header), issued_.data(), issued_.size() * sizeof(Issued));
      bytes.insert(bytes.end(), part.begin(), part.end());
      state_->outbox.send(std::move(bytes), state_->world_of(r), tag_of(state_->key, kCollective));
    }
  }

  std::vector<char> opened(const std::vector<char>& bytes, int from) const {
    Header theirs;
    std::memcpy(&theirs, bytes.data(), sizeof(Header));
    Header mine = header_;
    mine.others = theirs.others;
    if (std::memcmp(&mine, &theirs, sizeof(Header)) != 0) {
      stop(text(header_) + ", but rank " + std::to_string(from) + " of the communicator calls " +
           text(theirs));
    }
    std::vector<Issued> issued(theirs.others);
    std::memcpy(issued.data(), bytes.data() + sizeof(Header), issued.size() * sizeof(Issued));
    for (const auto& [communicator, collectives] : issued) {
      for (const auto& own : issued_) {
        if (own.communicator == communicator && own.collectives != collectives) {
          stop("collectives of two communicators come in different orders: " + text(header_) +
               " after " + std::to_string(own.collectives) + " of another, on rank " +
               std::to_string(from) + " after " + std::to_string(collectives));
        }
      }
    }
    return {bytes.begin() +
                static_cast<std::ptrdiff_t>(sizeof(Header) + issued.size() * sizeof(Issued)),
            bytes.end()};
  }

  // Sums begin with rank 1: an order that is the same everywhere, but not MPI's.
  void finish() {
    auto* to = static_cast<char*>(recv_);
    const auto part = [&](int r) { return (*parts_)[static_cast<std::size_t>(r)]->data(); };
    const int size = state_->size;
    if (header_.operation == kAllGather) {
      for (int r = 0; r < size; ++r) {
        std::memcpy(to + static_cast<std::size_t>(r) * bytes(), part(r), bytes());
      }
      return;
    }
    if (header_.operation == kBroadcast) {
      std::memcpy(to, part(header_.root), bytes());
      return;
    }
    std::memcpy(to, part(1 % size), bytes());
    for (int step = 1; step < size; ++step) {
      combine(to, part((1 + step) % size), header_.count, static_cast<ncclDataType_t>(header_.type),
              static_cast<ncclRedOp_t>(header_.reduction));
    }
  }

  Handle state_;
  Header header_;
  const void* send_;
  void* recv_;
  std::vector<Issued> issued_;
  std::shared_ptr<std::vector<std::shared_ptr<std::vector<char>>>> parts_;
  bool finished_ = false;
};

// The sends and receives of one group of calls: they begin together and end together.
class MessagesWork {
 public:
  MessagesWork(Handle state, std::vector<Message> messages)
      : state_(std::move(state)), messages_(std::move(messages)) {}

  bool operator()() {
    if (state_->aborted) return true;
    const int tag = tag_of(state_->key, kMessage);
    if (!begun_) {
      for (auto& m : messages_) {
        if (!m.sends) continue;
        const auto* from = static_cast<const char*>(m.data);
        state_->outbox.send({from, from + m.bytes}, state_->world_of(m.peer), tag);
        m.done = true;
      }
      begun_ = true;
    }
    if (state_->result != ncclSuccess) return false;
    bool all = true;
    std::vector<char> bytes;
    for (auto& m : messages_) {
      if (m.done) continue;
      m.done = receive(state_->world_of(m.peer), tag, bytes);
      all = all && m.done;
      if (!m.done) continue;
      if (bytes.size() != m.bytes) {
        stop("a message of " + std::to_string(bytes.size()) + " bytes came from rank " +
             std::to_string(m.peer) + " where " + std::to_string(m.bytes) + " were expected");
      }
      std::memcpy(m.data, bytes.data(), bytes.size());
    }
    return all && state_->outbox.empty();
  }

 private:
  Handle state_;
  std::vector<Message> messages_;
  bool begun_ = false;
};

}  // namespace

std::function<bool()> collective_work(Handle state, const Header& header, const void* send,
                                      void* recv) {
  return CollectiveWork(std::move(state), header, send, recv);
}

std::function<bool()> messages_work(Handle state, std::vector<Message> messages) {
  return MessagesWork(std::move(state), std::move(messages));
}

}  // namespace pg::simulated

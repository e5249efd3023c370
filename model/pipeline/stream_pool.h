// Buffers of the stream [rows,C] on their way between pipeline stages. A buffer is open from the
// moment it is filled until it has been handed over; after that a send may still read it, and it is
// used again once that is complete.
#pragma once

#include <vector>

#include "comm/group.h"
#include "model/pipeline/schedule.h"
#include "model/sharding.h"
#include "model/tensor.h"

namespace pg::model {

class StreamPool {
 public:
  void add(TensorView buffer) { buffers_.push_back({buffer, -1, -1, {}}); }

  TensorView open(int chunk, int micro) {
    Entry* best = nullptr;
    for (auto& entry : buffers_) {
      // The one that was handed over longest ago: its send is the likeliest to be complete.
      if (entry.chunk < 0 && (best == nullptr || entry.closed < best->closed)) best = &entry;
    }
    PG_ASSERT(best != nullptr, "no buffer for chunk {}, micro-batch {}", chunk, micro);
    best->sending.wait();
    best->chunk = chunk;
    best->micro = micro;
    return best->stream;
  }
  TensorView at(int chunk, int micro) { return find(chunk, micro).stream; }
  // Handed over; `sending` may still read it.
  void close(int chunk, int micro, comm::Pending sending) {
    auto& entry = find(chunk, micro);
    entry.sending = std::move(sending);
    entry.chunk = -1;
    entry.closed = ++clock_;
  }
  void settle() {
    for (auto& entry : buffers_) entry.sending.wait();
  }

 private:
  struct Entry {
    TensorView stream;
    int chunk, micro;
    comm::Pending sending;
    long closed = 0;
  };
  Entry& find(int chunk, int micro) {
    for (auto& entry : buffers_) {
      if (entry.chunk == chunk && entry.micro == micro) return entry;
    }
    throw fail(ExitCode::kBug, "bug: chunk {}, micro-batch {} has no stream", chunk, micro);
  }
  std::vector<Entry> buffers_;
  long clock_ = 0;
};

// Buffers that a list needs: those open at once, and one more. Sends may be posted earlier than the
// list says, but only at its places are they sure to be complete; with one buffer more, the one
// handed over longest ago is past its place.
struct StreamsNeeded {
  int activations = 0, gradients = 0;
};
StreamsNeeded streams_needed(const std::vector<Action>& list, const Sharding& sharding);

}  // namespace pg::model

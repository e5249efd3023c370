// The operations of the simulated NCCL, as work for a stream: begun, then polled until done.
#pragma once

#include <mpi.h>
#include <nccl.h>

#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace pg::simulated {

// Ends the job with a message.
[[noreturn]] void stop(const std::string& what);

// Above the tags of the program's groups. One for each communicator and channel.
enum Channel { kMaking, kCollective, kMessage };
inline int tag_of(std::uint64_t key, Channel channel) {
  return (1 << 20) + static_cast<int>(key % (1 << 20)) * 4 + channel;
}

// Messages are vectors of bytes. They are sent synchronously: a send ends when it is received.
class Outbox {
 public:
  void send(std::vector<char> bytes, int to, int tag);
  bool empty();  // all have been received

 private:
  std::list<std::pair<std::vector<char>, MPI_Request>> letters_;
};
// False: nothing has come yet.
bool receive(int from, int tag, std::vector<char>& bytes);

struct Member {
  int rank, world;
  char gpu[16];
};

// A communicator; work in flight shares it.
struct State {
  std::uint64_t key = 0;
  int size = 0, rank = 0;
  std::vector<Member> members;
  bool blocking = true, connected = false, aborted = false, finalized = false;
  ncclResult_t result = ncclSuccess;           // the asynchronous one
  int polls = 0;                               // until what is in progress is done
  std::vector<std::function<void()>> waiting;  // operations that come onto their streams then
  cudaStream_t stream = nullptr;
  int in_flight = 0;
  std::uint64_t collectives = 0;  // issued
  Outbox outbox;
  std::size_t joined = 0;

  int world_of(int member) const { return members[static_cast<std::size_t>(member)].world; }
};
using Handle = std::shared_ptr<State>;

// Of this process, by key.
std::map<std::uint64_t, Handle>& live();

std::size_t size_of(ncclDataType_t type);

enum Collective { kAllReduce, kAllGather, kReduceScatter, kBroadcast };
// What all ranks of a collective must agree on.
struct Header {
  int operation, type, reduction, root;
  std::uint64_t count;
  std::uint64_t number = 0;  // of the communicator's collectives
  std::uint64_t others = 0;  // how many Issued follow
};
// How many collectives of a communicator were issued before this one.
struct Issued {
  std::uint64_t communicator, collectives;
};

struct Message {
  bool sends;
  void* data;
  std::size_t bytes;
  int peer;
  bool done = false;
};

// True: it is done.
std::function<bool()> collective_work(Handle state, const Header& header, const void* send,
                                      void* recv);
// The sends and receives of one group of calls: they begin together and end together.
std::function<bool()> messages_work(Handle state, std::vector<Message> messages);

}  // namespace pg::simulated

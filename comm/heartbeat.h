// What one rank writes to shared storage now and then about itself, and others read: text with a
// digest, since a reader may come in the middle of a write. Neither MPI nor HDF5.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace pg::comm {

struct Heartbeat {
  // As comm/activity.h's groups; `members` in rank order of the group.
  struct Group {
    std::string name;
    int serial = 0;
    std::uint64_t issued = 0;
    std::vector<int> members;

    // Seen from two of its members.
    bool same(const Group& other) const {
      return name == other.name && serial == other.serial && members == other.members;
    }
  };

  int rank = 0;  // in the job
  std::string host;
  std::int64_t pid = 0;
  std::uint64_t beat = 0;  // counts
  double idle_s = 0;       // since its progress last changed, by its own clock
  std::int64_t step = 0;
  std::string place, site;     // "step 12 > update", "app/trainer.cpp:157"; may be empty
  std::string operation;       // empty: none, the rank computes
  std::string file;            // of an operation on a file
  std::optional<Group> group;  // of an operation on a group
  std::uint64_t number = 0;    // of a collective
  int peer = -1;               // of a message: that rank in the job
  std::vector<Group> groups;   // all that the rank is in
};

// This process now; `rank`, `beat` and `idle_s` are the caller's.
Heartbeat current_heartbeat(int rank, std::uint64_t beat, double idle_s);

std::string heartbeat_text(const Heartbeat& heartbeat);
// Nothing for a text that is torn, or none of ours.
std::optional<Heartbeat> parse_heartbeat(std::string_view text);

// "0-3, 8": ranks as reports and files list them; consecutive ones are one range.
std::string ranks_text(const std::vector<int>& ranks);

}  // namespace pg::comm

// What this process does at the moment, for the watchdog (which ranks arrived, which did not, and
// where they are) and for the count of how long a rank waits for others.
//
// Marks are made by the process's first thread, which is the one that calls MPI; those of other
// threads are ignored, except note_progress(). One costs a few nanoseconds (a wait two readings of
// the clock besides): no lock, no allocation. A monitor thread reads a consistent record at any
// time.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace pg::comm {

// Something came along: a piece of a file was written or read, a product was tuned. Any thread.
// Work that takes long without a collective call says so now and then, so that a watchdog does not
// take it for a hang.
void note_progress() noexcept;
// How often progress was noted so far, marks included.
std::uint64_t progress_count() noexcept;

// The training step that the marks from now on belong to.
void note_step(std::int64_t step) noexcept;

// A stretch of the work, with the line that began it; they nest. `name` is a literal. The defaults
// are the caller's (std::source_location by its builtins, which clang 14 has too).
class Place {
 public:
  explicit Place(const char* name, std::int64_t index = -1, const char* file = __builtin_FILE(),
                 int line = __builtin_LINE()) noexcept;
  ~Place();
  Place(const Place&) = delete;
  Place& operator=(const Place&) = delete;
};

// A group of ranks as marks name it, for as long as a call on it may be in flight.
class GroupActivity {
 public:
  // `members`: their ranks in the job, in the group's order.
  GroupActivity(std::string name, std::vector<int> members);
  ~GroupActivity();
  GroupActivity(const GroupActivity&) = delete;
  GroupActivity& operator=(const GroupActivity&) = delete;

  // This rank begins the group's next collective; its number counts from 1, alike on all members.
  std::uint64_t issue() const noexcept;
  std::uint64_t id() const;    // in this process
  int member(int rank) const;  // the rank in the job of the group's `rank`

 private:
  struct Entry;
  std::unique_ptr<Entry> entry_;
};

// The thread waits for other ranks, or for the GPU, while this lives.
class Waiting {
 public:
  // Collective `number` of `group`, or (number 0) a message from or to `peer`, its rank in the job.
  Waiting(const GroupActivity& group, const char* operation, std::uint64_t number,
          int peer = -1) noexcept;
  explicit Waiting(const char* operation) noexcept;  // not for a group: "GPU"
  ~Waiting();
  Waiting(const Waiting&) = delete;
  Waiting& operator=(const Waiting&) = delete;
};

// The thread is inside a call on a file that blocks; does not nest.
class FileOperation {
 public:
  FileOperation(const char* operation, std::string_view path) noexcept;
  ~FileOperation();
  FileOperation(const FileOperation&) = delete;
  FileOperation& operator=(const FileOperation&) = delete;
};

// All seconds so far inside Waiting. Of the thread that makes the marks.
double waited_seconds() noexcept;

// For the monitor ------------------------------------------------------------------------------

inline constexpr int kPlaces = 8;      // innermost ones beyond are not recorded
inline constexpr int kPathWords = 32;  // of a file's path: its last 256 bytes

struct ActivityRecord {
  struct Stretch {
    const char* name = nullptr;
    std::int64_t index = -1;
    const char* file = nullptr;
    int line = 0;
  };
  std::uint64_t progress = 0;
  std::int64_t step = 0;
  std::vector<Stretch> places;      // outermost first
  const char* operation = nullptr;  // null: none
  std::uint64_t group = 0;          // GroupActivity::id(); 0: of no group
  std::uint64_t number = 0;
  int peer = -1;
  double operation_s = 0;  // for how long already
  std::string path;        // of a FileOperation
};
// What the thread does now. Any thread.
ActivityRecord activity_record();

struct GroupRecord {
  std::uint64_t id = 0;
  std::string name;
  // Groups of one name, size and first member are told apart by the order they were made in, which
  // is the same on all members.
  int serial = 0;
  std::vector<int> members;
  std::uint64_t issued = 0;  // collectives this rank has begun
};
// The groups there are, in the order they were made. Any thread; takes a lock that marks do not.
std::vector<GroupRecord> activity_groups();

// A call site as reports say it: "app/trainer.cpp:139", from the top of the source tree.
std::string site_text(const char* file, int line);

}  // namespace pg::comm

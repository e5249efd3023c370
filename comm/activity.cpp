#include "comm/activity.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <utility>

#include "comm/error.h"

namespace pg::comm {

namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kRelaxed = std::memory_order_relaxed;

// What one thread writes and a monitor reads: `version` is odd while it changes (a seqlock), and
// counts marks as it goes. All fields are atomic, so that a torn read is only an old one.
struct Live {
  struct Stretch {
    std::atomic<const char*> name{nullptr};
    std::atomic<std::int64_t> index{-1};
    std::atomic<const char*> file{nullptr};
    std::atomic<int> line{0};
  };
  std::atomic<std::uint64_t> version{0};
  std::atomic<int> depth{0};
  std::array<Stretch, kPlaces> places;
  std::atomic<const char*> operation{nullptr};
  std::atomic<std::uint64_t> group{0}, number{0};
  std::atomic<int> peer{-1};
  std::atomic<std::int64_t> since{0};  // of Clock, ns
  std::array<std::atomic<std::uint64_t>, kPathWords> path{};
  std::atomic<std::uint64_t> path_bytes{0};

  std::atomic<std::int64_t> step{0};
  std::atomic<std::int64_t> waited{0};  // ns
  std::atomic<std::uint64_t> noted{0};  // by any thread
};

Live live;

class Change {
 public:
  Change() : version_(live.version.load(kRelaxed)) {
    live.version.store(version_ + 1, kRelaxed);
    std::atomic_thread_fence(std::memory_order_release);
  }
  ~Change() { live.version.store(version_ + 2, std::memory_order_release); }
  Change(const Change&) = delete;
  Change& operator=(const Change&) = delete;

 private:
  std::uint64_t version_;
};

bool first_thread() noexcept {
  thread_local const bool first = ::gettid() == ::getpid();
  return first;
}

std::int64_t now_ns() noexcept {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now().time_since_epoch())
      .count();
}

void begin_operation(const char* operation, std::uint64_t group, std::uint64_t number,
                     int peer) noexcept {
  const auto now = now_ns();
  const Change change;
  live.operation.store(operation, kRelaxed);
  live.group.store(group, kRelaxed);
  live.number.store(number, kRelaxed);
  live.peer.store(peer, kRelaxed);
  live.since.store(now, kRelaxed);
}

void end_operation() noexcept {
  const Change change;
  live.operation.store(nullptr, kRelaxed);
  live.group.store(0, kRelaxed);
  live.path_bytes.store(0, kRelaxed);
}

// Waits inside waits (a GPU group that goes over MPI, a collective made of others) are the
// outermost one's. Of the first thread only.
int waits = 0;

void begin_wait(const char* operation, std::uint64_t group, std::uint64_t number,
                int peer) noexcept {
  if (!first_thread() || waits++ > 0) return;
  begin_operation(operation, group, number, peer);
}

}  // namespace

void note_progress() noexcept {
  live.noted.fetch_add(1, kRelaxed);
}

std::uint64_t progress_count() noexcept {
  return live.noted.load(kRelaxed) + live.version.load(kRelaxed);
}

void note_step(std::int64_t step) noexcept {
  live.step.store(step, kRelaxed);
}

Place::Place(const char* name, std::int64_t index, const char* file, int line) noexcept {
  if (!first_thread()) return;
  const Change change;
  const int depth = live.depth.load(kRelaxed);
  if (depth < kPlaces) {
    auto& place = live.places[static_cast<std::size_t>(depth)];
    place.name.store(name, kRelaxed);
    place.index.store(index, kRelaxed);
    place.file.store(file, kRelaxed);
    place.line.store(line, kRelaxed);
  }
  live.depth.store(depth + 1, kRelaxed);
}

Place::~Place() {
  if (!first_thread()) return;
  const Change change;
  live.depth.store(live.depth.load(kRelaxed) - 1, kRelaxed);
}

Waiting::Waiting(const GroupActivity& group, const char* operation, std::uint64_t number,
                 int peer) noexcept {
  begin_wait(operation, group.id(), number, peer);
}

Waiting::Waiting(const char* operation) noexcept {
  begin_wait(operation, 0, 0, -1);
}

Waiting::~Waiting() {
  if (!first_thread() || --waits > 0) return;
  live.waited.store(live.waited.load(kRelaxed) + now_ns() - live.since.load(kRelaxed), kRelaxed);
  end_operation();
}

double waited_seconds() noexcept {
  return static_cast<double>(live.waited.load(kRelaxed)) * 1e-9;
}

FileOperation::FileOperation(const char* operation, std::string_view path) noexcept {
  if (!first_thread()) return;
  // The end of a long path tells more than its beginning.
  std::array<std::uint64_t, kPathWords> words{};
  if (path.size() > sizeof(words)) path.remove_prefix(path.size() - sizeof(words));
  std::memcpy(words.data(), path.data(), path.size());
  {
    const Change change;
    for (std::size_t i = 0; i < words.size(); ++i) live.path[i].store(words[i], kRelaxed);
    live.path_bytes.store(path.size(), kRelaxed);
  }
  begin_operation(operation, 0, 0, -1);
}

FileOperation::~FileOperation() {
  if (first_thread()) end_operation();
}

ActivityRecord activity_record() {
  for (;;) {
    const auto before = live.version.load(std::memory_order_acquire);
    if (before % 2 != 0) {
      ::usleep(50);  // the thread may have been descheduled inside a mark
      continue;
    }
    ActivityRecord record;
    const int depth = std::min(live.depth.load(kRelaxed), kPlaces);
    for (int i = 0; i < depth; ++i) {
      const auto& place = live.places[static_cast<std::size_t>(i)];
      record.places.push_back({place.name.load(kRelaxed), place.index.load(kRelaxed),
                               place.file.load(kRelaxed), place.line.load(kRelaxed)});
    }
    record.operation = live.operation.load(kRelaxed);
    record.group = live.group.load(kRelaxed);
    record.number = live.number.load(kRelaxed);
    record.peer = live.peer.load(kRelaxed);
    const auto since = live.since.load(kRelaxed);
    std::array<std::uint64_t, kPathWords> words{};
    for (std::size_t i = 0; i < words.size(); ++i) words[i] = live.path[i].load(kRelaxed);
    const auto bytes = live.path_bytes.load(kRelaxed);
    std::atomic_thread_fence(std::memory_order_acquire);
    if (live.version.load(kRelaxed) != before) continue;

    record.progress = before + live.noted.load(kRelaxed);
    record.step = live.step.load(kRelaxed);
    if (record.operation != nullptr) {
      record.operation_s = static_cast<double>(now_ns() - since) * 1e-9;
    }
    record.path.resize(std::min(bytes, sizeof(words)));
    std::memcpy(record.path.data(), words.data(), record.path.size());
    return record;
  }
}

// Groups ---------------------------------------------------------------------------------------

struct GroupActivity::Entry {
  std::uint64_t id = 0;
  std::string name;
  int serial = 0;
  std::vector<int> members;
  std::atomic<std::uint64_t> issued{0};
};

namespace {

struct Groups {
  std::mutex mutex;
  std::uint64_t next = 1;
  std::map<std::string, int> made;  // so far, by what tells groups apart otherwise
  std::vector<std::function<GroupRecord()>> records;
  std::vector<std::uint64_t> ids;  // of `records`
};

// Never destroyed: groups with static lifetime may come after it.
Groups& all_groups() {
  static auto* const groups = std::make_unique<Groups>().release();
  return *groups;
}

}  // namespace

GroupActivity::GroupActivity(std::string name, std::vector<int> members)
    : entry_(std::make_unique<Entry>()) {
  auto& all = all_groups();
  const std::scoped_lock lock(all.mutex);
  auto& e = *entry_;
  e.id = all.next++;
  e.name = std::move(name);
  e.members = std::move(members);
  e.serial = all.made[fmt::format("{} {} {}", e.name, e.members.at(0), e.members.size())]++;
  all.ids.push_back(e.id);
  all.records.emplace_back([&e] {
    return GroupRecord{e.id, e.name, e.serial, e.members, e.issued.load(kRelaxed)};
  });
}

GroupActivity::~GroupActivity() {
  auto& all = all_groups();
  const std::scoped_lock lock(all.mutex);
  const auto at = std::ranges::find(all.ids, entry_->id) - all.ids.begin();
  all.ids.erase(all.ids.begin() + at);
  all.records.erase(all.records.begin() + at);
}

std::uint64_t GroupActivity::id() const {
  return entry_->id;
}

std::uint64_t GroupActivity::issue() const noexcept {
  const auto number = entry_->issued.load(kRelaxed) + 1;
  entry_->issued.store(number, kRelaxed);
  return number;
}

int GroupActivity::member(int rank) const {
  return entry_->members[static_cast<std::size_t>(rank)];
}

std::vector<GroupRecord> activity_groups() {
  auto& all = all_groups();
  const std::scoped_lock lock(all.mutex);
  std::vector<GroupRecord> records;
  for (const auto& record : all.records) records.push_back(record());
  return records;
}

std::string site_text(const char* file, int line) {
  // As the compiler was told this file's own name, so the others'.
  static constexpr std::string_view kOwn = __FILE__, kTail = "comm/activity.cpp";
  std::string_view path(file);
  const auto top = kOwn.substr(0, kOwn.size() - kTail.size());
  if (path.starts_with(top)) path.remove_prefix(top.size());
  return fmt::format("{}:{}", path, line);
}

}  // namespace pg::comm

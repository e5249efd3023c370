#include "app/host_memory.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>
#include <string>

#include "comm/error.h"

namespace pg::app {

namespace fs = std::filesystem;

namespace {

// The number at the begin of a file; nothing when there is none ("max": no limit).
std::optional<std::int64_t> number_in(const fs::path& path) {
  std::ifstream in(path);
  std::int64_t number = 0;
  if (in >> number) return number;
  return std::nullopt;
}

// The number behind `key` in a file of "key number ..." lines.
std::optional<std::int64_t> value_of(const fs::path& path, const std::string& key) {
  std::ifstream in(path);
  std::string word;
  while (in >> word) {
    std::int64_t number = 0;
    if (word == key && in >> number) return number;
    in.clear();
    in.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  }
  return std::nullopt;
}

struct Hierarchy {
  fs::path base;
  const char* limit;
  const char* used;
  const char* cache;  // in memory.stat
};

// What is left in the tightest of a group and those around it. Inside a container the path may be
// one that only the host sees: then the levels that are there count.
std::int64_t left_in_groups(const Hierarchy& h, fs::path group) {
  auto least = std::numeric_limits<std::int64_t>::max();
  for (;; group = group.parent_path()) {
    const auto folder = h.base / group.relative_path();
    const auto limit = number_in(folder / h.limit);
    const auto used = number_in(folder / h.used);
    if (limit && used) {
      const auto cache = value_of(folder / "memory.stat", h.cache).value_or(0);
      least = std::min(least, std::max<std::int64_t>(0, *limit - *used + cache));
    }
    if (!group.has_relative_path()) return least;
  }
}

}  // namespace

std::int64_t available_memory(const fs::path& root) {
  const auto free = value_of(root / "proc/meminfo", "MemAvailable:");
  if (!free) throw fail(ExitCode::kComm, "/proc/meminfo does not tell the available memory");
  auto least = *free * 1024;

  const auto tree = root / "sys/fs/cgroup";
  std::ifstream groups(root / "proc/self/cgroup");  // "number:controllers:path"; v2: "0::path"
  for (std::string line; std::getline(groups, line);) {
    const auto first = line.find(':'), second = line.find(':', first + 1);
    if (second == line.npos) continue;
    const auto controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const auto path = line.substr(second + 1);
    if (controllers == ",,") {
      least = std::min(
          least, left_in_groups({tree, "memory.max", "memory.current", "inactive_file"}, path));
    } else if (controllers.find(",memory,") != controllers.npos) {
      least = std::min(least, left_in_groups({tree / "memory", "memory.limit_in_bytes",
                                              "memory.usage_in_bytes", "total_inactive_file"},
                                             path));
    }
  }
  return least;
}

}  // namespace pg::app

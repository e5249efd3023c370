// How much memory this host can still give: what a command asks before it allocates by a choice of
// its own. Linux only tells through files; a test hands in a tree of its own.
#pragma once

#include <cstdint>
#include <filesystem>

namespace pg::app {

// Bytes: MemAvailable of /proc/meminfo, or less when a control group of this process (a batch
// system's, a container's; v1 or v2) leaves less. File cache that a group can drop counts as free.
// Error(kComm) when the kernel does not tell.
std::int64_t available_memory(const std::filesystem::path& root = "/");

}  // namespace pg::app

// What a save needs of the file system beyond streams: writes that reach the disk or fail, whole
// reads of small files that are bounded, digests of what storage returns, and room checks made
// before the work. Every failure is an Error of the given code with the path, the operation and the
// system's reason.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "comm/error.h"

namespace pg::io {

// "1.25 GiB (1342177280 bytes)"; below 1 KiB only "17 bytes".
std::string readable_bytes(std::int64_t bytes);
// "a, b, c" and "[2, 3]", for messages.
std::string joined(const std::vector<std::string>& items, std::string_view separator = ", ");
std::string shape_text(const std::vector<std::int64_t>& shape);

// Creates `path` (it must not exist), writes all of `text`, fsyncs and closes. Error(kSave).
void write_synced(const std::filesystem::path& path, std::string_view text);
// fsync of an existing file or directory. Error(kSave).
void sync_path(const std::filesystem::path& path);

// Size of a regular file; a link, a directory, a pipe or nothing is Error(code).
std::int64_t regular_file_size(const std::filesystem::path& path, ExitCode code);
// A regular file of at most `limit` bytes, whole. Never follows a link at its last name.
std::string read_small(const std::filesystem::path& path, std::int64_t limit, ExitCode code);

// XXH3-128, 32 lower-case hex digits, as `xxhsum -H2` prints it.
std::string digest_of_text(std::string_view text);

// Bytes an unprivileged writer may still use on the file system that holds `path`; -1: unknown.
std::int64_t free_bytes(const std::filesystem::path& path);

// `directory` is made if missing, takes a new file (one is made and removed) and has room for
// `bytes`. Error(kSave) naming the directory and both sizes. Serial.
void require_space(const std::filesystem::path& directory, std::int64_t bytes);

}  // namespace pg::io

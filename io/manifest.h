// The manifest of a checkpoint entry: name, size and digests of every file, and its own digest. A
// file is digested in chunks of 16 MiB, so that many ranks share the work of one file and damage
// has a place.
//
// It has one legal text for given values: reading parses it, renders it anew and compares the
// bytes, so that any flipped bit, a changed case or a lost newline is found.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "comm/error.h"

namespace pg::io {

inline constexpr const char* kManifestName = "manifest.json";
inline constexpr std::int64_t kChunkBytes = std::int64_t{16} << 20;

struct ManifestFile {
  std::string name;  // inside the entry, no folders
  std::int64_t bytes = 0;
  // XXH3-128 of each kChunkBytes in turn (the last chunk is what remains; an empty file has none),
  // 32 lower-case hex digits each.
  std::vector<std::string> chunks;
};

struct Manifest {
  std::int64_t step = 0;
  std::vector<ManifestFile> files;

  std::int64_t bytes() const;  // of all files
};

// Chunks of a file of that size.
std::int64_t chunk_count(std::int64_t bytes);

// The one text, JSON of a line a file (a line a digest where a file has several). Its last value
// digests every byte before that value's line.
std::string render_manifest(const Manifest& manifest);
// Error(kCheckpoint) naming `where` unless `text` is exactly what render_manifest gives. Memory is
// bounded by the text's size.
Manifest parse_manifest(std::string_view text, const std::string& where);

// The manifest of a checkpoint entry: it lists exactly the files of one, and its step is the one in
// the entry's name. Error(kCheckpoint).
Manifest read_manifest(const std::filesystem::path& entry);

// Digests of the `count` chunks of a regular file from chunk `first` on, as storage returns them,
// through 1 MiB of memory; notes progress. Error(code), also when the file ends before them.
std::vector<std::string> chunk_digests(const std::filesystem::path& path, std::int64_t first,
                                       std::int64_t count, ExitCode code);

// Serial. Sizes and digests of these files of `entry`, as storage returns them. Error(code).
Manifest measure_files(const std::filesystem::path& entry, std::int64_t step,
                       const std::vector<std::string>& names, ExitCode code);

}  // namespace pg::io

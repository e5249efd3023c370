// The manifest of a checkpoint entry: name, size and XXH3-128 of every file, and its own digest.
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

struct ManifestFile {
  std::string name;  // inside the entry, no folders
  std::int64_t bytes = 0;
  std::string digest;  // XXH3-128, 32 lower-case hex digits
};

struct Manifest {
  std::int64_t step = 0;
  std::vector<ManifestFile> files;

  std::int64_t bytes() const;  // of all files
};

// The one text, JSON of a line a file. Its last value digests every byte before that value's line.
std::string render_manifest(const Manifest& manifest);
// Error(kCheckpoint) naming `where` unless `text` is exactly what render_manifest gives.
Manifest parse_manifest(std::string_view text, const std::string& where);

// The manifest of a checkpoint entry: it lists exactly the files of one, and its step is the one in
// the entry's name. Error(kCheckpoint).
Manifest read_manifest(const std::filesystem::path& entry);

// Sizes and digests of these files of `entry`, as storage returns them. Error(code).
Manifest measure_files(const std::filesystem::path& entry, std::int64_t step,
                       const std::vector<std::string>& names, ExitCode code);

}  // namespace pg::io

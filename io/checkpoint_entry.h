// Names inside a checkpoint directory and inside an entry, shared by saving, reading and inspect.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "io/manifest.h"

namespace pg::io {

inline constexpr const char* kDeckName = "deck.toml";
inline constexpr const char* kRunName = "run.json";

// The files that a manifest lists, in its order.
std::vector<std::string> entry_files();

// The parts of verifying. Error(kCheckpoint) naming the file: when a file has another size than the
// manifest says; and when one of these chunks has another digest, naming its bytes (sizes first).
void compare_sizes(const std::filesystem::path& entry, const Manifest& manifest);
void compare_chunks(const std::filesystem::path& entry, const ManifestFile& file,
                    std::int64_t first, std::int64_t count);
// Names of what lies in an entry and is not of it.
std::vector<std::string> foreign_files(const std::filesystem::path& entry);

struct CheckpointInfo;
// run.json's text. Error(kBug) when the provenance is not a JSON object.
std::string render_run(const CheckpointInfo& info);

}  // namespace pg::io

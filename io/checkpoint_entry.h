// Names inside a checkpoint directory and inside an entry, shared by saving, reading and inspect.
#pragma once

#include <string>
#include <vector>

namespace pg::io {

inline constexpr const char* kDeckName = "deck.toml";
inline constexpr const char* kRunName = "run.json";

// The files that a manifest lists, in its order.
std::vector<std::string> entry_files();

struct CheckpointInfo;
// run.json's text. Error(kBug) when the provenance is not a JSON object.
std::string render_run(const CheckpointInfo& info);

}  // namespace pg::io

// See io/checkpoint_commit.h.
#include "io/checkpoint_commit.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <regex>

#include "io/checkpoint_entry.h"
#include "io/checkpoint_state.h"
#include "io/files.h"
#include "io/manifest.h"

namespace pg::io {

namespace fs = std::filesystem;

namespace {

void rename_path(const fs::path& from, const fs::path& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) {
    throw fail(ExitCode::kSave, "{}: renaming it to {} failed: {}", from.string(),
               to.filename().string(), std::strerror(errno));
  }
}

// What a save or pruning left of the entry `final`.
struct Leftover {
  fs::path path, final;
  bool replaced = false;  // it was complete
};

std::vector<Leftover> leftovers(const fs::path& directory) {
  static const std::regex ours(R"(\.(step-\d{9,})\.\d+(\.replaced|\.undone|\.pruned)?)");
  std::vector<Leftover> all;
  std::error_code error;
  for (const auto& item : fs::directory_iterator(directory, error)) {
    const auto name = item.path().filename().string();
    std::smatch match;
    if (!std::regex_match(name, match, ours)) continue;
    all.push_back({item.path(), directory / match[1].str(), match[2] == ".replaced"});
  }
  return all;
}

}  // namespace

void make_lasting_directory(const fs::path& directory) {
  std::vector<fs::path> missing;
  for (auto at = fs::absolute(directory).lexically_normal(); !fs::exists(at);
       at = at.parent_path()) {
    if (at.has_filename()) missing.push_back(at);
  }
  for (auto at = missing.rbegin(); at != missing.rend(); ++at) {
    std::error_code error;
    fs::create_directory(*at, error);
    if (error) {
      throw fail(ExitCode::kSave, "{}: cannot be made: {}", at->string(), error.message());
    }
    sync_path(at->parent_path());
  }
}

void give_names_back(const fs::path& directory) {
  std::error_code error, ignored;
  for (const auto& [path, final, replaced] : leftovers(directory)) {
    if (replaced && !fs::exists(fs::symlink_status(final, error))) fs::rename(path, final, ignored);
  }
}

void remove_leftovers(const fs::path& directory) {
  give_names_back(directory);
  std::error_code error, ignored;
  for (const auto& [path, final, replaced] : leftovers(directory)) {
    if (replaced && !fs::exists(fs::symlink_status(final, error))) continue;  // not to be renamed
    fs::remove_all(path, ignored);
  }
}

void describe_entry(const fs::path& temporary, const CheckpointInfo& info, std::int64_t state_bytes,
                    std::vector<std::string> state_chunks) {
  write_synced(temporary / kRunName, render_run(info));
  write_synced(temporary / kDeckName, info.deck);
  auto manifest = measure_files(temporary, info.step, {kDeckName, kRunName}, ExitCode::kSave);
  manifest.files.push_back({kStateName, state_bytes, std::move(state_chunks)});
  write_synced(temporary / kManifestName, render_manifest(manifest));
  sync_path(temporary);
}

Publication::Publication(fs::path temporary, fs::path final)
    : temporary_(std::move(temporary)),
      final_(std::move(final)),
      replaced_(temporary_.string() + ".replaced") {
  std::error_code error;
  if (!fs::exists(fs::symlink_status(final_, error))) {
    rename_path(temporary_, final_);
  } else if (::renameat2(AT_FDCWD, temporary_.c_str(), AT_FDCWD, final_.c_str(), RENAME_EXCHANGE) ==
             0) {
    old_ = temporary_;
  } else {
    rename_path(final_, replaced_);
    old_ = replaced_;
    try {
      rename_path(temporary_, final_);
    } catch (const Error&) {
      ::rename(replaced_.c_str(), final_.c_str());
      throw;
    }
  }
}

void Publication::undo() noexcept {
  std::error_code error;
  const fs::path aside = temporary_.string() + ".undone";
  fs::rename(final_, aside, error);
  if (!old_.empty()) fs::rename(old_, final_, error);
  fs::rename(aside, temporary_, error);
}

void Publication::finish() noexcept {
  std::error_code error;
  if (!old_.empty()) fs::remove_all(old_, error);
}

}  // namespace pg::io

// See io/checkpoint_commit.h.
#include "io/checkpoint_commit.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <regex>

#include "comm/activity.h"
#include "io/checkpoint_entry.h"
#include "io/checkpoint_state.h"
#include "io/files.h"
#include "io/manifest.h"

namespace pg::io {

namespace fs = std::filesystem;

namespace {

void rename_path(const fs::path& from, const fs::path& to) {
  if (const auto error = move_tree(from, to)) {
    throw fail(ExitCode::kSave, "{}: renaming it to {} failed: {}", from.string(),
               to.filename().string(), error.message());
  }
}

bool exchange_names(const fs::path& one, const fs::path& other) {
  const comm::FileOperation mark("renaming", one.native());
  return ::renameat2(AT_FDCWD, one.c_str(), AT_FDCWD, other.c_str(), RENAME_EXCHANGE) == 0;
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

std::error_code move_tree(const fs::path& from, const fs::path& to) {
  const comm::FileOperation mark("renaming", from.native());
  std::error_code error;
  fs::rename(from, to, error);
  return error;
}

std::error_code remove_tree(const fs::path& path) {
  const comm::FileOperation mark("removing", path.native());
  std::error_code error;
  fs::remove_all(path, error);
  comm::note_progress();
  return error;
}

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
    remove_tree(path);
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
  } else if (exchange_names(temporary_, final_)) {
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
  // As they were exchanged: at no moment without a name.
  if (old_ == temporary_ && exchange_names(temporary_, final_)) return;
  const fs::path aside = temporary_.string() + ".undone";
  move_tree(final_, aside);
  if (!old_.empty()) move_tree(old_, final_);
  move_tree(aside, temporary_);
}

void Publication::finish() noexcept {
  if (!old_.empty()) remove_tree(old_);
}

}  // namespace pg::io

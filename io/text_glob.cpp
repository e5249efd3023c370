// find_text: which files a pattern names.
#include <fnmatch.h>

#include <algorithm>

#include "comm/error.h"
#include "io/text_source.h"

namespace pg::io {

namespace fs = std::filesystem;

namespace {

bool is_glob(const std::string& component) {
  return component.find_first_of("*?[") != std::string::npos;
}

std::vector<fs::directory_entry> entries_of(const fs::path& folder) {
  std::error_code error;
  std::vector<fs::directory_entry> entries;
  fs::directory_iterator it(folder.empty() ? fs::path(".") : folder, error);
  for (; !error && it != fs::directory_iterator(); it.increment(error)) entries.push_back(*it);
  if (error) {
    throw fail(ExitCode::kData, "data.text: {}: cannot list: {}", folder.string(), error.message());
  }
  return entries;
}

bool hidden(const fs::path& path) {
  return path.filename().string().starts_with(".");
}

// Folders below `folder`, and itself: what ** stands for.
void add_folders(const fs::path& folder, std::vector<fs::path>& out) {
  out.push_back(folder);
  for (const auto& entry : entries_of(folder)) {
    if (entry.is_symlink() || !entry.is_directory() || hidden(entry.path())) continue;
    add_folders(folder / entry.path().filename(), out);
  }
}

// Existing paths that `pattern` names, in any order.
std::vector<fs::path> expand(const fs::path& pattern) {
  std::vector<fs::path> bases = {""};
  const auto last = std::prev(pattern.end());
  for (auto it = pattern.begin(); it != pattern.end(); ++it) {
    const auto component = it->string();
    std::vector<fs::path> next;
    for (const auto& base : bases) {
      if (!is_glob(component)) {
        next.push_back(base / *it);
        continue;
      }
      std::error_code error;
      if (!fs::is_directory(base.empty() ? fs::path(".") : base, error)) continue;
      if (component == "**") {
        add_folders(base, next);
        continue;
      }
      for (const auto& entry : entries_of(base)) {
        const auto name = entry.path().filename();
        if (::fnmatch(component.c_str(), name.c_str(), FNM_PERIOD) != 0) continue;
        if (it == last || entry.is_directory()) next.push_back(base / name);
      }
    }
    bases = std::move(next);
  }
  return bases;
}

// A file, or all files below a folder. Named links are followed, met ones only to files.
void add_files(const fs::path& path, std::vector<TextFile>& out) {
  std::error_code error;
  const auto status = fs::status(path, error);
  if (fs::is_regular_file(status)) {
    out.push_back({path.lexically_normal(), static_cast<std::int64_t>(fs::file_size(path))});
  } else if (fs::is_directory(status)) {
    for (const auto& entry : entries_of(path)) {
      if (hidden(entry.path()) || (entry.is_symlink() && entry.is_directory())) continue;
      add_files(path / entry.path().filename(), out);
    }
  }
}

}  // namespace

std::vector<TextFile> find_text(std::span<const std::string> patterns) {
  std::vector<TextFile> files;
  for (const auto& pattern : patterns) {
    const auto before = files.size();
    // A name with glob characters in it may simply exist.
    std::error_code error;
    const bool literal = !is_glob(pattern) || fs::exists(pattern, error);
    const bool recursive = pattern == "**" || pattern.ends_with("/**");
    for (const auto& path : literal ? std::vector<fs::path>{pattern} : expand(pattern)) {
      if (!literal && !recursive && fs::is_directory(path, error)) continue;
      add_files(path, files);
    }
    if (files.size() > before) continue;
    if (literal && !pattern.empty() && !fs::exists(pattern, error)) {
      throw fail(ExitCode::kData, "data.text: {}: no such file", pattern);
    }
    throw fail(ExitCode::kData, "data.text: no file matches '{}'", pattern);
  }
  std::ranges::sort(files, {}, [](const TextFile& file) { return file.path.native(); });
  const auto again = std::ranges::unique(files, {}, &TextFile::path);
  files.erase(again.begin(), again.end());
  return files;
}

}  // namespace pg::io

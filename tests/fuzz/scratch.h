// A folder in memory for the files of one process, and the line between a refusal and a finding.
#pragma once

#include <stdlib.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <string_view>

#include "comm/error.h"

namespace pg::fuzz {

class Scratch {
 public:
  Scratch() {
    std::error_code error;
    const std::filesystem::path memory = "/dev/shm";
    const auto base = std::filesystem::is_directory(memory, error)
                          ? memory
                          : std::filesystem::temp_directory_path();
    auto name = (base / "pg-fuzz-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("cannot make " + name);
    path_ = name;
  }
  ~Scratch() {
    std::error_code error;
    std::filesystem::remove_all(path_, error);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  // The file of this name, with these bytes.
  std::filesystem::path put(std::string_view name, std::string_view bytes) const {
    const auto path = path_ / name;
    std::ofstream out(path, std::ios::binary | std::ios::trunc);
    out.write(bytes.data(), std::ssize(bytes));
    if (!out.flush()) throw std::runtime_error("cannot write " + path.string());
    return path;
  }
  const std::filesystem::path& path() const { return path_; }

  // One for the process: a folder for each input would be most of the time.
  static const Scratch& shared() {
    static const Scratch scratch;
    return scratch;
  }

 private:
  std::filesystem::path path_;
};

// Whether `work` was done; an Error with one of these codes is a refusal. Every other exception
// leaves it.
template <class Work>
bool done_or_refused(std::initializer_list<ExitCode> codes, const Work& work) {
  try {
    work();
    return true;
  } catch (const Error& error) {
    if (std::find(codes.begin(), codes.end(), error.code()) == codes.end()) throw;
    return false;
  }
}

// What must hold whatever the input is.
inline void require(bool holds, const char* what) {
  if (!holds) throw std::logic_error(what);
}

}  // namespace pg::fuzz

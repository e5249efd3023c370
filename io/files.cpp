#include "io/files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "comm/activity.h"

namespace pg::io {

namespace {

namespace fs = std::filesystem;

class Descriptor {
 public:
  Descriptor(const fs::path& path, int flags, ExitCode code)
      : fd_(::open(path.c_str(), flags | O_CLOEXEC, 0666)), path_(path), code_(code) {
    if (fd_ < 0) throw failed("opening");
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }

  int fd() const { return fd_; }
  Error failed(std::string_view operation) const {
    return fail(code_, "{}: {} failed: {}", path_.string(), operation, std::strerror(errno));
  }

  std::int64_t regular_size() const {
    struct stat status {};
    if (::fstat(fd_, &status) != 0) throw failed("stat");
    if (!S_ISREG(status.st_mode)) throw fail(code_, "{}: not a regular file", path_.string());
    return status.st_size;
  }

  // Bytes read at most `size`; 0 at the end.
  std::size_t read(char* data, std::size_t size) const {
    for (;;) {
      const auto n = ::read(fd_, data, size);
      if (n >= 0) return static_cast<std::size_t>(n);
      if (errno != EINTR) throw failed("reading");
    }
  }

  void write(std::string_view text) const {
    while (!text.empty()) {
      const auto n = ::write(fd_, text.data(), text.size());
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) throw failed(fmt::format("writing {} bytes", text.size()));
      text.remove_prefix(static_cast<std::size_t>(n));
    }
  }

  void sync() const {
    const comm::FileOperation mark("fsync of", path_.native());
    if (::fsync(fd_) != 0) throw failed("fsync");
  }

  // Some file systems report a full disk only here.
  void close() {
    const int fd = std::exchange(fd_, -1);
    if (::close(fd) != 0) throw failed("closing");
  }

 private:
  int fd_;
  fs::path path_;
  ExitCode code_;
};

// O_NONBLOCK: opening a pipe must not wait for a writer; it means nothing for regular files.
constexpr int kReadFlags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK;

std::string hex(XXH128_hash_t hash) {
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

}  // namespace

std::string readable_bytes(std::int64_t bytes) {
  constexpr std::array<const char*, 5> kUnits{"KiB", "MiB", "GiB", "TiB", "PiB"};
  if (bytes < 1024) return fmt::format("{} bytes", bytes);
  double value = static_cast<double>(bytes) / 1024;
  std::size_t unit = 0;
  for (; value >= 1024 && unit + 1 < kUnits.size(); ++unit) value /= 1024;
  return fmt::format("{:.2f} {} ({} bytes)", value, kUnits[unit], bytes);
}

std::string joined(const std::vector<std::string>& items, std::string_view separator) {
  std::string text;
  for (const auto& item : items) {
    if (&item != &items.front()) text += separator;
    text += item;
  }
  return text;
}

std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::vector<std::string> extents;
  for (const auto extent : shape) extents.push_back(std::to_string(extent));
  return fmt::format("[{}]", joined(extents));
}

void write_synced(const fs::path& path, std::string_view text) {
  Descriptor file(path, O_WRONLY | O_CREAT | O_EXCL, ExitCode::kSave);
  file.write(text);
  file.sync();
  file.close();
}

void sync_path(const fs::path& path) {
  const Descriptor file(path, O_RDONLY, ExitCode::kSave);
  file.sync();
}

std::int64_t regular_file_size(const fs::path& path, ExitCode code) {
  return Descriptor(path, kReadFlags, code).regular_size();
}

std::string read_small(const fs::path& path, std::int64_t limit, ExitCode code) {
  const Descriptor file(path, kReadFlags, code);
  const auto size = file.regular_size();
  if (size > limit) {
    throw fail(code, "{}: {} is more than the {} such a file may have", path.string(),
               readable_bytes(size), readable_bytes(limit));
  }
  std::string text(static_cast<std::size_t>(size), '\0');
  std::size_t filled = 0;
  while (filled < text.size()) {
    const auto n = file.read(text.data() + filled, text.size() - filled);
    if (n == 0) break;  // it shrank meanwhile
    filled += n;
  }
  text.resize(filled);
  return text;
}

std::string digest_of_text(std::string_view text) {
  return hex(XXH3_128bits(text.data(), text.size()));
}

std::int64_t free_bytes(const fs::path& path) {
  struct statvfs status {};
  if (::statvfs(path.c_str(), &status) != 0) return -1;
  return static_cast<std::int64_t>(status.f_bavail) * static_cast<std::int64_t>(status.f_frsize);
}

void require_space(const fs::path& directory, std::int64_t bytes) {
  const auto name = directory.string();
  const auto available = [&] {
    const auto free = free_bytes(directory);
    return free < 0 ? std::string("unknown") : readable_bytes(free);
  };
  std::error_code error;
  fs::create_directories(directory, error);
  if (error) {
    throw fail(ExitCode::kSave, "{}: cannot be made: {}; {} are needed there", name,
               error.message(), readable_bytes(bytes));
  }
  // A real file: permission bits say little on network file systems and for root.
  const auto probe = directory / fmt::format(".probe.{}", ::getpid());
  fs::remove(probe, error);
  try {
    write_synced(probe, "probe\n");
  } catch (const Error& cause) {
    fs::remove(probe, error);
    throw fail(ExitCode::kSave, "{}: not writable ({}); {} are needed, {} are free", name,
               cause.what(), readable_bytes(bytes), available());
  }
  fs::remove(probe, error);
  const auto free = free_bytes(directory);
  if (free >= 0 && free < bytes) {
    throw fail(ExitCode::kSave, "{}: too little space: {} are needed, {} are free", name,
               readable_bytes(bytes), available());
  }
}

}  // namespace pg::io

#include "io/raw_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "comm/activity.h"

namespace pg::io {

namespace fs = std::filesystem;

namespace {

Error file_error(ExitCode code, const fs::path& path, std::string_view operation) {
  return fail(code, "{}: cannot {}: {}", path.string(), operation, std::strerror(errno));
}

fs::path directory_of(const fs::path& path) {
  return path.has_parent_path() ? path.parent_path() : fs::path(".");
}

}  // namespace

RawFile::RawFile(int fd, fs::path path, ExitCode code)
    : fd_(fd), path_(std::move(path)), code_(code) {}

RawFile::RawFile(RawFile&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), path_(std::move(other.path_)), code_(other.code_) {}

RawFile& RawFile::operator=(RawFile&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(path_, other.path_);
  std::swap(code_, other.code_);
  return *this;
}

RawFile::~RawFile() {
  if (fd_ >= 0) ::close(fd_);
}

RawFile RawFile::open(const fs::path& path, ExitCode code) {
  return open_with(path, 0, code);
}

RawFile RawFile::open_unfollowed(const fs::path& path, ExitCode code) {
  return open_with(path, O_NOFOLLOW, code);
}

RawFile RawFile::open_with(const fs::path& path, int flags, ExitCode code) {
  // Without O_NONBLOCK a pipe would wait here for its writer.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | flags);
  if (fd < 0) throw file_error(code, path, "open");
  RawFile file(fd, path, code);
  struct stat status;
  if (::fstat(fd, &status) != 0) throw file.failed("stat");
  if (!S_ISREG(status.st_mode)) throw fail(code, "{}: not a regular file", path.string());
  return file;
}

RawFile RawFile::create(const fs::path& path, ExitCode code) {
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd < 0) throw file_error(code, path, "create");
  return RawFile(fd, path, code);
}

RawFile RawFile::modify(const fs::path& path, ExitCode code) {
  const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) throw file_error(code, path, "open for writing");
  return RawFile(fd, path, code);
}

RawFile RawFile::scratch(const fs::path& path, ExitCode code) {
  auto name = (directory_of(path) / fmt::format(".{}.XXXXXX", path.filename().string())).string();
  const int fd = ::mkostemp(name.data(), O_CLOEXEC);
  if (fd < 0) throw file_error(code, path, "create a scratch file beside it");
  ::unlink(name.c_str());
  return RawFile(fd, path, code);
}

Error RawFile::failed(std::string_view operation) const {
  return file_error(code_, path_, operation);
}

std::int64_t RawFile::size() const {
  struct stat status;
  if (::fstat(fd_, &status) != 0) throw failed("stat");
  return status.st_size;
}

std::size_t RawFile::read_at(std::int64_t offset, void* data, std::size_t bytes) const {
  const comm::FileOperation mark("reading", path_.native());
  std::size_t done = 0;
  while (done < bytes) {
    const auto got = ::pread(fd_, static_cast<char*>(data) + done, bytes - done,
                             static_cast<off_t>(offset + static_cast<std::int64_t>(done)));
    if (got < 0) {
      if (errno == EINTR) continue;
      throw failed(fmt::format("read at byte {}", offset + static_cast<std::int64_t>(done)));
    }
    if (got == 0) break;
    done += static_cast<std::size_t>(got);
  }
  return done;
}

namespace {

// Calls `write_some(data, bytes)` until all is written; false with errno where it fails.
template <class WriteSome>
bool write_all(const void* data, std::size_t bytes, const WriteSome& write_some) {
  const auto* from = static_cast<const char*>(data);
  for (std::size_t done = 0; done < bytes;) {
    const auto put = write_some(from + done, bytes - done, done);
    if (put < 0 && errno != EINTR) return false;
    if (put > 0) done += static_cast<std::size_t>(put);
  }
  return true;
}

}  // namespace

void RawFile::append(const void* data, std::size_t bytes) {
  const comm::FileOperation mark("writing", path_.native());
  const auto some = [&](const char* from, std::size_t size, std::size_t) {
    return ::write(fd_, from, size);
  };
  if (!write_all(data, bytes, some)) throw failed("write");
}

void RawFile::write_at(std::int64_t offset, const void* data, std::size_t bytes) {
  const comm::FileOperation mark("writing", path_.native());
  const auto some = [&](const char* from, std::size_t size, std::size_t done) {
    return ::pwrite(fd_, from, size, static_cast<off_t>(offset + static_cast<std::int64_t>(done)));
  };
  if (!write_all(data, bytes, some)) throw failed(fmt::format("write at byte {}", offset));
}

void RawFile::write_at(std::int64_t offset, std::span<const Piece> pieces) {
  constexpr std::size_t kAtOnce = 64;
  std::array<iovec, kAtOnce> vector;
  while (!pieces.empty()) {
    const auto count = std::min(pieces.size(), kAtOnce);
    std::int64_t total = 0;
    for (std::size_t i = 0; i < count; ++i) {
      // The system takes pointers to what it only reads.
      vector[i] = {const_cast<char*>(pieces[i].data), pieces[i].bytes};
      total += static_cast<std::int64_t>(pieces[i].bytes);
    }
    const auto put = [&] {
      const comm::FileOperation mark("writing", path_.native());
      return ::pwritev(fd_, vector.data(), static_cast<int>(count), offset);
    }();
    if (put < 0 && errno != EINTR) throw failed(fmt::format("write at byte {}", offset));
    if (put != total) {  // cut short: piece by piece, so that the failure says where
      for (const auto& piece : pieces.first(count)) {
        write_at(offset, piece.data, piece.bytes);
        offset += static_cast<std::int64_t>(piece.bytes);
      }
    } else {
      offset += total;
    }
    pieces = pieces.subspan(count);
  }
}

void RawFile::start_writeback(std::int64_t offset, std::int64_t bytes) const {
  ::sync_file_range(fd_, offset, bytes, SYNC_FILE_RANGE_WRITE);
}

void RawFile::flush(std::int64_t offset, std::int64_t bytes) const {
  constexpr unsigned kAll =
      SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER;
  const comm::FileOperation mark("writing back", path_.native());
  if (::sync_file_range(fd_, offset, bytes, kAll) == 0) return;
  if (errno == ENOSYS || errno == EOPNOTSUPP || errno == EINVAL || errno == ESPIPE) return;
  throw failed("write back");
}

void RawFile::drop_cached(std::int64_t offset, std::int64_t bytes) const {
  ::posix_fadvise(fd_, offset, bytes, POSIX_FADV_DONTNEED);
}

void RawFile::resize(std::int64_t bytes) {
  const comm::FileOperation mark("resizing", path_.native());
  if (::ftruncate(fd_, static_cast<off_t>(bytes)) != 0) {
    throw failed(fmt::format("make {} bytes long", bytes));
  }
}

void RawFile::sync() {
  const comm::FileOperation mark("fsync of", path_.native());
  if (::fsync(fd_) != 0) throw failed("fsync");
}

void RawFile::close() {
  const comm::FileOperation mark("closing", path_.native());
  if (::close(std::exchange(fd_, -1)) != 0) throw failed("close");
}

fs::path temporary_name(const fs::path& path) {
  return directory_of(path) / fmt::format(".{}.tmp-{}", path.filename().string(), ::getpid());
}

void commit_file(const fs::path& temporary, const fs::path& path) {
  RawFile::open(temporary, ExitCode::kSave).sync();
  if (::rename(temporary.c_str(), path.c_str()) != 0) {
    throw file_error(ExitCode::kSave, path, "rename to it");
  }
  const auto directory = directory_of(path);
  const int fd = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) throw file_error(ExitCode::kSave, directory, "open");
  RawFile(fd, directory, ExitCode::kSave).sync();
}

void make_parents(const fs::path& path) {
  std::error_code error;
  fs::create_directories(directory_of(path), error);
  if (error) {
    throw fail(ExitCode::kSave, "{}: cannot make the directory: {}", directory_of(path).string(),
               error.message());
  }
}

void write_file(const fs::path& path, std::string_view contents) {
  make_parents(path);
  const auto temporary = temporary_name(path);
  try {
    auto file = RawFile::create(temporary, ExitCode::kSave);
    file.append(contents.data(), contents.size());
    file.close();
    commit_file(temporary, path);
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
}

std::string read_file(const fs::path& path, std::int64_t limit) {
  const auto file = RawFile::open(path, ExitCode::kData);
  const auto bytes = file.size();
  if (bytes > limit) {
    throw fail(ExitCode::kData, "{}: {} bytes, more than the {} that it may have", path.string(),
               bytes, limit);
  }
  std::string contents(static_cast<std::size_t>(bytes), '\0');
  contents.resize(file.read_at(0, contents.data(), contents.size()));
  return contents;
}

}  // namespace pg::io

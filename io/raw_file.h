// A POSIX file descriptor that closes itself and turns every failed call into an Error with the
// path, the operation and the system's reason. Positional reads only, so one descriptor serves
// many threads, and a file that shrinks meanwhile is a short read, never a SIGBUS.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>

#include "comm/error.h"

namespace pg::io {

// Bytes in memory, not owned.
struct Piece {
  const char* data = nullptr;
  std::size_t bytes = 0;
};

class RawFile {
 public:
  RawFile() = default;
  // Takes over `fd`; errors carry `path` and `code`.
  RawFile(int fd, std::filesystem::path path, ExitCode code);
  RawFile(RawFile&& other) noexcept;
  RawFile& operator=(RawFile&& other) noexcept;
  ~RawFile();

  // An existing regular file; anything else (a directory, a pipe, nothing) is Error(code).
  static RawFile open(const std::filesystem::path& path, ExitCode code);
  // The same; a link at the last name is Error(code) too.
  static RawFile open_unfollowed(const std::filesystem::path& path, ExitCode code);
  // A new empty file, replacing an old one of this name.
  static RawFile create(const std::filesystem::path& path, ExitCode code);
  // An existing file, to be written at places of its own.
  static RawFile modify(const std::filesystem::path& path, ExitCode code);
  // A scratch file beside `path` without a name: it is gone when closed, or when the process dies.
  static RawFile scratch(const std::filesystem::path& path, ExitCode code);

  const std::filesystem::path& path() const { return path_; }
  std::int64_t size() const;
  // Bytes read at `offset`: fewer than `bytes` only where the file ends.
  std::size_t read_at(std::int64_t offset, void* data, std::size_t bytes) const;
  void append(const void* data, std::size_t bytes);
  void write_at(std::int64_t offset, const void* data, std::size_t bytes);
  // The pieces one behind the other, in one system call where it takes them (pwritev).
  void write_at(std::int64_t offset, std::span<const Piece> pieces);
  // Starts writing a range back to storage and returns; what fails shows in sync().
  void start_writeback(std::int64_t offset, std::int64_t bytes) const;
  // Writes a range to storage and waits for its pages; sync() still has to follow, for metadata and
  // the device's own cache, and where the file system cannot do this. An error told here is not
  // told again by sync().
  void flush(std::int64_t offset, std::int64_t bytes) const;
  // Asks the system to forget what it caches of a range (what is clean already), so that a read
  // comes from storage; only advice, nothing fails.
  void drop_cached(std::int64_t offset, std::int64_t bytes) const;
  void resize(std::int64_t bytes);
  void sync();   // fsync
  void close();  // checked: some file systems report a full disk only here

 private:
  static RawFile open_with(const std::filesystem::path& path, int flags, ExitCode code);
  Error failed(std::string_view operation) const;

  int fd_ = -1;
  std::filesystem::path path_;
  ExitCode code_ = ExitCode::kBug;
};

// Makes `temporary`, complete and closed, appear as `path`: fsync, rename, fsync of the directory.
// Error(kSave).
void commit_file(const std::filesystem::path& temporary, const std::filesystem::path& path);
// The name under which `path` is written before commit_file: hidden, in the same directory, of this
// process alone.
std::filesystem::path temporary_name(const std::filesystem::path& path);
// Writes a small file whole, by the two above. Makes missing directories. Error(kSave).
void write_file(const std::filesystem::path& path, std::string_view contents);
// Reads a file whole; Error(kData) when it is missing or has more than `limit` bytes.
std::string read_file(const std::filesystem::path& path, std::int64_t limit);
// Makes the directories that `path` will lie in. Error(kSave).
void make_parents(const std::filesystem::path& path);

}  // namespace pg::io

// HDF5 handles that close themselves and failures that become an Error: file, operation and HDF5's
// innermost reason in one line, with the library's own printing off.
//
// For the few files of io/ that speak HDF5; nobody else includes <hdf5.h>.
#pragma once

#include <hdf5.h>

#include <filesystem>
#include <string>
#include <string_view>
#include <utility>

#include "comm/dtype.h"
#include "comm/error.h"

namespace pg::io::h5 {

// Which file the operation concerns and what its failure means.
struct Place {
  std::filesystem::path path;
  ExitCode code;
};

// While one lives, HDF5 does not print its error stack.
class Quiet {
 public:
  Quiet();
  ~Quiet();
  Quiet(const Quiet&) = delete;
  Quiet& operator=(const Quiet&) = delete;

 private:
  H5E_auto2_t function_ = nullptr;
  void* data_ = nullptr;
};

// "PATH: OPERATION failed: REASON", REASON from HDF5's error stack.
Error failed(const Place& place, std::string_view operation);
// Throws `failed` when `status` is negative, as HDF5 reports failure; returns it otherwise.
template <class Status>
Status check(const Place& place, Status status, std::string_view operation) {
  if (status < 0) throw failed(place, operation);
  return status;
}

class Handle {
 public:
  using Close = herr_t (*)(hid_t);
  Handle() = default;
  // Takes over `id`; Error when it is negative.
  Handle(const Place& place, hid_t id, Close close_with, std::string_view operation)
      : id_(check(place, id, operation)), close_(close_with) {}
  Handle(Handle&& other) noexcept : id_(std::exchange(other.id_, -1)), close_(other.close_) {}
  Handle& operator=(Handle&& other) noexcept {
    reset();
    id_ = std::exchange(other.id_, -1);
    close_ = other.close_;
    return *this;
  }
  ~Handle() { reset(); }

  hid_t id() const { return id_; }
  explicit operator bool() const { return id_ >= 0; }
  // As the destructor does, but a failure is an Error.
  void close(const Place& place, std::string_view operation) {
    check(place, close_(std::exchange(id_, -1)), operation);
  }

 private:
  void reset() {
    if (id_ >= 0) close_(std::exchange(id_, -1));
  }

  hid_t id_ = -1;
  Close close_ = nullptr;
};

// How an element is stored: little endian; bf16 as its 16 bits (the attribute `dtype` tells).
hid_t storage_type(DType type);

// Access properties: libver latest, strong close, no file locks (clusters often lack them; a
// checkpoint is guarded by its commit instead).
Handle file_access(const Place& place);
// Opens for reading, by this process alone, a file that io/hdf5_guard.h lets pass.
Handle open_to_read(const Place& place);

// Closes a file that was written. HDF5 1.10 keeps a dangling entry of a file whose closing failed
// and crashes on it in MPI_Finalize: a failure here ends the job with the place's code instead.
void close_written_file(const Place& place, Handle& file);

// A short fixed-length string attribute, and back. Reading refuses any other kind.
void write_text_attribute(const Place& place, hid_t object, const char* name,
                          std::string_view text);
std::string read_text_attribute(const Place& place, hid_t object, const char* name);

}  // namespace pg::io::h5

// An HDF5 id that closes itself, and HDF5's errors as one line. For io/token_file_hdf5*.cpp.
#pragma once

#include <hdf5.h>

#include <string>
#include <utility>

namespace pg::io {

// HDF5 prints nothing to standard error from now on: its error stack is ours to read. It stays so,
// since after a damaged file it would complain once more when the program ends.
inline void silence_hdf5() {
  H5open();
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
}

// The innermost message of the error stack: the cause, not what it led to.
inline std::string hdf5_cause() {
  std::string cause = "no reason given";
  H5Ewalk2(
      H5E_DEFAULT, H5E_WALK_UPWARD,
      [](unsigned n, const H5E_error2_t* error, void* out) -> herr_t {
        if (n == 0 && error->desc != nullptr) *static_cast<std::string*>(out) = error->desc;
        return 0;
      },
      &cause);
  return cause;
}

class Hdf5Id {
 public:
  using Close = herr_t (*)(hid_t);
  Hdf5Id() = default;
  Hdf5Id(hid_t id, Close how) : id_(id), close_(how) {}
  Hdf5Id(Hdf5Id&& other) noexcept : id_(std::exchange(other.id_, -1)), close_(other.close_) {}
  Hdf5Id& operator=(Hdf5Id&& other) noexcept {
    std::swap(id_, other.id_);
    std::swap(close_, other.close_);
    return *this;
  }
  ~Hdf5Id() { close(); }

  hid_t get() const { return id_; }
  bool ok() const { return id_ >= 0; }
  // The close's own status: negative when what was buffered could not be written.
  herr_t close() { return id_ >= 0 ? close_(std::exchange(id_, -1)) : 0; }

 private:
  hid_t id_ = -1;
  Close close_ = nullptr;
};

}  // namespace pg::io

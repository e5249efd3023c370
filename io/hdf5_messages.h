// The messages of an object header that io/hdf5_guard.h lets pass: what each says, checked by
// itself and, at the end, one against another.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/hdf5_metadata.h"

namespace pg::io::h5 {

// Continuation blocks of a header: where they lie.
struct Continuation {
  std::uint64_t at = 0, bytes = 0;
};

// An object as its messages describe it.
class ObjectMessages {
 public:
  ObjectMessages(Metadata& file, std::string name) : file_(file), name_(std::move(name)) {}

  // One message, in the order of the header.
  void take(std::uint64_t type, std::uint64_t flags, std::string_view body);
  // Once all are in: it is a group or a dataset, and its sizes agree.
  void finish();

  std::vector<Continuation> take_continuations() { return std::exchange(continuations_, {}); }
  // Of a group: none for a dataset.
  std::vector<LinkMessage> take_links() { return std::move(links_); }

 private:
  struct Layout {
    std::uint64_t at = kNowhere, bytes = 0;
  };

  Cursor cursor(std::string_view what, std::string_view body) const {
    return {file_, name_, what, body};
  }
  void once(std::uint64_t type);
  bool has(std::uint64_t type) const { return (seen_ >> type & 1) != 0; }

  std::uint64_t dataspace(Cursor& at) const;  // elements
  std::uint64_t datatype(Cursor& at) const;   // bytes of one
  void fill_value(Cursor at);
  void layout(Cursor at);
  void attribute(std::string_view body) const;
  void link_info(Cursor at);
  void attribute_info(Cursor at) const;

  Metadata& file_;
  std::string name_;
  std::uint64_t seen_ = 0;  // a bit for each type
  std::uint64_t elements_ = 0, element_bytes_ = 0;
  std::optional<std::uint64_t> fill_bytes_;
  Layout layout_;
  std::string layout_problem_, filters_;
  std::uint64_t heap_ = kNowhere, name_tree_ = kNowhere;
  std::vector<LinkMessage> links_;
  std::vector<Continuation> continuations_;
};

}  // namespace pg::io::h5

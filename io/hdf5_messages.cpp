#include "io/hdf5_messages.h"

#include <array>
#include <set>

namespace pg::io::h5 {

namespace {

// Types of messages (HDF5 File Format Specification 3.0, IV.A.2).
enum : std::uint64_t {
  kNil = 0x00,
  kDataspace = 0x01,
  kLinkInfo = 0x02,
  kDatatype = 0x03,
  kFillValue = 0x05,
  kLink = 0x06,
  kExternalFiles = 0x07,
  kLayout = 0x08,
  kGroupInfo = 0x0A,
  kFilters = 0x0B,
  kAttribute = 0x0C,
  kContinuation = 0x10,
  kModified = 0x12,
  kAttributeInfo = 0x15,
  kReferences = 0x16,
};

// Flags of a message: constant, not to be shared, that it may be shared. Not: that it is shared.
constexpr std::uint64_t kLegalFlags = 0x01 | 0x04 | 0x40;

}  // namespace

void ObjectMessages::once(std::uint64_t type) {
  if (has(type)) file_.refuse(name_, fmt::format("has two messages of type {}", type));
  seen_ |= std::uint64_t{1} << type;
}

void ObjectMessages::take(std::uint64_t type, std::uint64_t flags, std::string_view body) {
  if (type == kNil) return;
  if ((flags & ~kLegalFlags) != 0) {
    file_.refuse(name_, fmt::format("has a message of type {} with flags {}", type, flags));
  }
  switch (type) {
    case kAttribute:
      return attribute(body);
    case kLink: {
      auto at = cursor("link", body);
      links_.push_back(read_link(at));
      seen_ |= std::uint64_t{1} << kLink;
      return;
    }
    case kContinuation: {
      auto at = cursor("continuation", body);
      const auto where = at.address();
      continuations_.push_back({where, at.number(8)});
      return at.expect_end();
    }
    default:
      break;
  }
  if (type >= 64) file_.refuse(name_, fmt::format("has a message of unknown type {}", type));
  once(type);
  switch (type) {
    case kDataspace: {
      auto at = cursor("dataspace", body);
      elements_ = dataspace(at);
      return at.expect_end();
    }
    case kDatatype: {
      auto at = cursor("datatype", body);
      element_bytes_ = datatype(at);
      return at.expect_end();
    }
    case kFillValue:
      return fill_value(cursor("fill value", body));
    case kLayout:
      return layout(cursor("layout", body));
    case kLinkInfo:
      return link_info(cursor("link info", body));
    case kAttributeInfo:
      return attribute_info(cursor("attribute info", body));
    case kExternalFiles:
      file_.refuse(name_, "is stored in another file");
    case kFilters: {
      auto at = cursor("filter pipeline", body);
      at.number(1);
      filters_ = fmt::format("{} filters", at.number(1));
      return;
    }
    case kGroupInfo: {
      auto at = cursor("group info", body);
      at.expect_number(1, 0, "version");
      const auto info = at.number(1);
      at.expect(info < 4, "has unknown flags");
      at.take((info & 1) * 4 + (info >> 1 & 1) * 4);
      return at.expect_end();
    }
    case kModified: {
      auto at = cursor("modification time", body);
      at.expect_number(1, 1, "version");
      at.take(7);
      return at.expect_end();
    }
    case kReferences: {
      auto at = cursor("reference count", body);
      at.expect_number(1, 0, "version");
      at.take(4);
      return at.expect_end();
    }
    default:
      file_.refuse(name_,
                   fmt::format("has a message of type {}, which files of ours never have", type));
  }
}

std::uint64_t ObjectMessages::dataspace(Cursor& at) const {
  constexpr std::uint64_t kScalar = 0, kSimple = 1;
  at.expect_number(1, 2, "version");
  const auto axes = at.number(1), flags = at.number(1), type = at.number(1);
  at.expect(axes <= 32 && flags <= 1, "has impossible axes");
  if (type != kSimple) {
    at.expect(type <= 2 && axes == 0 && flags == 0, "is of an unknown kind");
    return type == kScalar ? 1 : 0;
  }
  at.expect(axes > 0, "has no axes");
  std::uint64_t elements = 1;
  std::array<std::uint64_t, 32> extents{};
  bool fits = true;
  for (std::uint64_t axis = 0; axis < axes; ++axis) {
    extents[axis] = at.number(8);
    fits &= !__builtin_mul_overflow(elements, extents[axis], &elements);
  }
  at.expect(fits, "has more than 2^64 elements");
  for (std::uint64_t axis = 0; axis < axes && flags == 1; ++axis) {
    at.expect(at.number(8) >= extents[axis], "exceeds its own maximum");
  }
  return elements;
}

std::uint64_t ObjectMessages::datatype(Cursor& at) const {
  constexpr std::uint64_t kInteger = 0, kFloat = 1, kString = 3;
  const auto kind = at.number(1), version = kind >> 4, type = kind & 15;
  at.expect(version >= 1 && version <= 3, "has an unknown version");
  const auto bits = at.number(3), bytes = at.number(4);
  if (type == kInteger) {
    at.expect(bytes == 1 || bytes == 2 || bytes == 4 || bytes == 8, "is an integer of odd size");
    at.expect((bits & ~std::uint64_t{9}) == 0, "is an integer with padding");
    at.expect_number(2, 0, "bit offset");
    at.expect_number(2, 8 * bytes, "precision");
  } else if (type == kFloat) {
    // Bits of the exponent and of the fraction: IEEE 754 and nothing else.
    const auto exponent = bytes == 2 ? 5U : bytes == 4 ? 8U : 11U;
    at.expect(bytes == 2 || bytes == 4 || bytes == 8, "is a float of odd size");
    const auto fraction = 8 * bytes - 1 - exponent;
    at.expect((bits & ~std::uint64_t{1}) == (0x20 | (8 * bytes - 1) << 8), "is no IEEE float");
    at.expect_number(2, 0, "bit offset");
    at.expect_number(2, 8 * bytes, "precision");
    at.expect_number(1, fraction, "exponent's place");
    at.expect_number(1, exponent, "exponent's bits");
    at.expect_number(1, 0, "fraction's place");
    at.expect_number(1, fraction, "fraction's bits");
    at.expect_number(4, (std::uint64_t{1} << (exponent - 1)) - 1, "exponent's bias");
  } else if (type == kString) {
    at.expect((bits & 15) <= 2 && (bits >> 4) <= 1, "is a string of an unknown kind");
    at.expect(bytes > 0, "is a string of no bytes");
  } else {
    at.refuse(fmt::format(
        "is of another type (class {}) than an integer, a float or a fixed-length string", type));
  }
  return bytes;
}

void ObjectMessages::fill_value(Cursor at) {
  constexpr std::uint64_t kUndefined = 0x10, kHasValue = 0x20;
  at.expect_number(1, 3, "version");
  const auto flags = at.number(1);
  at.expect(flags < 0x40 && (flags & 0xC) != 0xC && (flags & 0x30) != (kUndefined | kHasValue),
            "has impossible flags");
  if ((flags & kHasValue) != 0) {
    fill_bytes_ = at.number(4);
    at.take(*fill_bytes_);
  }
  at.expect_end();
}

void ObjectMessages::layout(Cursor at) {
  constexpr std::uint64_t kContiguous = 1;
  const auto version = at.number(1), kind = at.number(1);
  at.expect(version == 3 || version == 4, "has an unknown version");
  if (kind != kContiguous) {
    layout_problem_ = kind == 0   ? "compact"
                      : kind == 2 ? "chunked"
                      : kind == 3 ? "a virtual dataset"
                                  : "of an unknown kind";
    return;
  }
  layout_.at = at.address();
  layout_.bytes = at.number(8);
  at.expect_end();
}

void ObjectMessages::attribute(std::string_view body) const {
  auto at = cursor("attribute", body);
  at.expect_number(1, 3, "version");
  at.expect_number(1, 0, "flags");
  const auto name_bytes = at.number(2), type_bytes = at.number(2), space_bytes = at.number(2);
  at.expect(at.number(1) <= 1, "has an unknown character set");
  const auto name = at.take(name_bytes);
  at.expect(name.size() > 1 && name.find('\0') == name.size() - 1, "has an impossible name");
  const auto what = fmt::format("attribute {}", name.substr(0, name.size() - 1));
  auto type = cursor(what, at.take(type_bytes)), space = cursor(what, at.take(space_bytes));
  const auto element_bytes = datatype(type);
  type.expect_end();
  const auto elements = dataspace(space);
  space.expect_end();
  std::uint64_t bytes = 0;
  if (__builtin_mul_overflow(elements, element_bytes, &bytes) || bytes != at.left()) {
    at.refuse(fmt::format("{} has {} elements of {} bytes in {} bytes",
                          name.substr(0, name.size() - 1), elements, element_bytes, at.left()));
  }
}

void ObjectMessages::link_info(Cursor at) {
  at.expect_number(1, 0, "version");
  const auto flags = at.number(1);
  at.expect(flags < 4 && flags != 2, "has unknown flags");
  if ((flags & 1) != 0) at.expect(at.number(8) >> 63 == 0, "has a negative creation order");
  heap_ = at.address();
  name_tree_ = at.address();
  if ((flags & 2) != 0) at.expect_number(8, kNowhere, "tree of the creation order");
  at.expect_end();
  at.expect((heap_ == kNowhere) == (name_tree_ == kNowhere), "has half an index");
}

void ObjectMessages::attribute_info(Cursor at) const {
  at.expect_number(1, 0, "version");
  const auto flags = at.number(1);
  at.expect(flags < 4 && flags != 2, "has unknown flags");
  if ((flags & 1) != 0) at.take(2);
  const auto indices = (flags & 2) != 0 ? 3 : 2;
  for (int i = 0; i < indices; ++i) {
    at.expect(at.address() == kNowhere, "keeps more than 8 attributes outside the header");
  }
  at.expect_end();
}

void ObjectMessages::finish() {
  if (has(kLinkInfo)) {
    for (const auto type : {kDataspace, kDatatype, kFillValue, kLayout, kFilters}) {
      if (has(type)) file_.refuse(name_, "is half a group and half a dataset");
    }
    if (heap_ != kNowhere) {
      if (!links_.empty()) file_.refuse(name_, "keeps links both in its header and outside");
      links_ = dense_links(file_, name_, heap_, name_tree_);
    }
    std::set<std::string_view> names;
    for (const auto& link : links_) {
      if (!names.insert(link.name).second) {
        file_.refuse(name_, fmt::format("has two links '{}'", link.name));
      }
    }
    return;
  }
  for (const auto type : {kDataspace, kDatatype, kFillValue, kLayout}) {
    if (!has(type)) file_.refuse(name_, "is neither a group nor a dataset");
  }
  if (has(kLink) || has(kGroupInfo)) file_.refuse(name_, "is half a group and half a dataset");
  if (!layout_problem_.empty() || !filters_.empty()) {
    file_.refuse(name_, fmt::format("is not stored contiguously: it is {}{}{}", layout_problem_,
                                    layout_problem_.empty() ? "stored through " : ", with ",
                                    filters_.empty() ? "no filters" : filters_));
  }
  if (fill_bytes_ && *fill_bytes_ != 0 && *fill_bytes_ != element_bytes_) {
    file_.refuse(name_, "has a fill value of another size than its elements");
  }
  std::uint64_t bytes = 0;
  if (__builtin_mul_overflow(elements_, element_bytes_, &bytes) || bytes != layout_.bytes) {
    file_.refuse(name_, fmt::format("has {} elements of {} bytes in {} bytes", elements_,
                                    element_bytes_, layout_.bytes));
  }
  if (layout_.at != kNowhere && (layout_.at > file_.size() || bytes > file_.size() - layout_.at)) {
    file_.refuse(name_, fmt::format("has {} bytes from byte {} on, but the file ends at {}", bytes,
                                    layout_.at, file_.size()));
  }
}

}  // namespace pg::io::h5

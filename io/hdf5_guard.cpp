#include "io/hdf5_guard.h"

#include <set>
#include <vector>

#include "io/hdf5_messages.h"
#include "io/hdf5_metadata.h"

namespace pg::io::h5 {

namespace {

constexpr std::string_view kSignature = "\x89HDF\r\n\x1A\n";
constexpr int kDeepest = 2;  // groups below the root's links

class Walk {
 public:
  explicit Walk(const Place& place) : file_(place) {}

  void run() {
    std::vector<Object> objects{{superblock(), "/", 0}};
    while (!objects.empty()) {
      const auto object = std::move(objects.back());
      objects.pop_back();
      // A second name, or a loop: known already.
      if (!seen_.insert(object.at).second) continue;
      for (const auto& link : links_of(object)) {
        if (!link.hard) continue;
        if (object.depth == kDeepest) file_.refuse(object.name, "is a group in too many groups");
        const auto separator = object.depth == 0 ? "" : "/";
        objects.push_back({link.target, object.name + separator + link.name, object.depth + 1});
      }
    }
  }

 private:
  struct Object {
    std::uint64_t at;
    std::string name;
    int depth;
  };

  // Address of the root group.
  std::uint64_t superblock() {
    constexpr std::uint64_t kBytes = 48;
    constexpr std::string_view kName = "/";
    if (file_.size() < kBytes || !file_.bytes(kName, 0, kBytes).starts_with(kSignature)) {
      file_.refuse("", "no HDF5 file, or one that begins with something else");
    }
    const auto version = static_cast<unsigned char>(file_.bytes(kName, 8, 1)[0]);
    if (version < 2) {
      file_.refuse("",
                   fmt::format("in HDF5's older encoding (superblock {}), which has no checksums: "
                               "write it with libver='latest'",
                               version));
    }
    const auto block = file_.block(kName, 0, kBytes, kSignature);
    Cursor at(file_, kName, "superblock", block);
    at.take(8);
    at.expect(at.number(1) <= 3, "has an unknown version");
    at.expect_number(1, 8, "bytes of an offset");
    at.expect_number(1, 8, "bytes of a length");
    at.expect_number(1, 0, "marks of an open file:");
    at.expect_number(8, 0, "base address");
    at.expect_number(8, kNowhere, "extension");
    if (const auto end = at.address(); end != file_.size()) {
      file_.refuse(
          "", fmt::format("an HDF5 file of {} bytes, of which {} are there", end, file_.size()));
    }
    return at.address();
  }

  // Checks the object's header, all its blocks.
  std::vector<LinkMessage> links_of(const Object& object) {
    ObjectMessages messages(file_, object.name);
    const bool ordered = first_block(object, messages);
    for (auto more = messages.take_continuations(); !more.empty();) {
      std::vector<Continuation> next;
      for (const auto& [at, bytes] : more) {
        constexpr std::uint64_t kEnds = 8;  // signature and checksum
        if (bytes <= kEnds) file_.refuse(object.name, "has an empty header block");
        const auto block = file_.block(object.name, at, bytes, "OCHK");
        read_messages(object, std::string_view(block).substr(4, bytes - kEnds), ordered, messages);
        for (const auto& one : messages.take_continuations()) next.push_back(one);
      }
      more = std::move(next);
    }
    messages.finish();
    return messages.take_links();
  }

  // Whether messages carry the order of their creation.
  bool first_block(const Object& object, ObjectMessages& messages) {
    constexpr std::uint64_t kPrefix = 6;  // up to the flags
    const auto prefix = file_.bytes(object.name, object.at, kPrefix);
    if (!prefix.starts_with("OHDR")) file_.refuse(object.name, "has no header of version 2");
    const auto flags = static_cast<unsigned char>(prefix[5]);
    const bool ordered = (flags & 0x04) != 0, indexed = (flags & 0x08) != 0;
    if (flags >= 0x40 || (indexed && !ordered)) {
      file_.refuse(object.name, fmt::format("has a header with flags {}", flags));
    }
    const std::uint64_t size_width = std::uint64_t{1} << (flags & 3);
    const std::uint64_t times = (flags & 0x20) != 0 ? 16 : 0, phases = (flags & 0x10) != 0 ? 4 : 0;
    const auto fixed = kPrefix + times + phases + size_width;
    const auto fixed_bytes = file_.bytes(object.name, object.at, fixed);
    Cursor ahead(file_, object.name, "header", fixed_bytes);
    ahead.take(fixed - size_width);
    const auto bytes = ahead.number(size_width);
    if (bytes > file_.size()) file_.refuse(object.name, "has a header larger than the file");

    const auto block = file_.block(object.name, object.at, fixed + bytes + 4, "OHDR");
    Cursor at(file_, object.name, "header", block);
    at.take(4);
    at.expect_number(1, 2, "version");
    at.take(1 + times);
    if (phases != 0) {
      const auto most_compact = at.number(2), least_dense = at.number(2);
      at.expect(most_compact + 1 >= least_dense, "has impossible limits of attributes");
    }
    at.take(size_width);
    read_messages(object, at.take(bytes), ordered, messages);
    return ordered;
  }

  void read_messages(const Object& object, std::string_view bytes, bool ordered,
                     ObjectMessages& messages) const {
    const std::size_t prefix = ordered ? 6 : 4;
    Cursor at(file_, object.name, "header", bytes);
    at.expect(at.left() >= prefix, "has no messages");
    bool has_nil = false;
    while (at.left() >= prefix) {
      const auto type = at.number(1), size = at.number(2), flags = at.number(1);
      if (ordered) at.take(2);
      has_nil |= type == 0;
      messages.take(type, flags, at.take(size));
    }
    // A rest too small for a message is left unused, unless an empty message could hold it.
    at.expect(at.left() == 0 || !has_nil, "has a gap beside an empty message");
  }

  Metadata file_;
  std::set<std::uint64_t> seen_;
};

}  // namespace

void require_plain(const Place& place) {
  Walk(place).run();
}

}  // namespace pg::io::h5

#include "io/hdf5_metadata.h"

#include <algorithm>

#include "io/lookup3.h"

namespace pg::io::h5 {

namespace {

constexpr std::uint64_t kMostBytes = std::uint64_t{16} << 20, kWindow = std::uint64_t{64} << 10;

std::uint64_t little_endian(std::string_view bytes) {
  std::uint64_t value = 0;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    value |= static_cast<std::uint64_t>(static_cast<unsigned char>(bytes[i])) << 8 * i;
  }
  return value;
}

}  // namespace

Metadata::Metadata(const Place& place)
    : place_(place),
      file_(RawFile::open(place.path, place.code)),
      size_(static_cast<std::uint64_t>(file_.size())) {}

void Metadata::refuse(std::string_view object, std::string_view why) const {
  const auto subject = object.empty() ? "" : fmt::format("'{}' ", object);
  throw fail(place_.code, "{}: {}{}", place_.path.string(), subject, why);
}

std::string Metadata::bytes(std::string_view object, std::uint64_t at, std::uint64_t count) {
  if (at > size_ || count > size_ - at) {
    refuse(object, fmt::format("has metadata from byte {} on, {} bytes long, but the file has {}",
                               at, count, size_));
  }
  if (count > kMostBytes) refuse(object, fmt::format("has a block of {} bytes of metadata", count));
  if (at < window_at_ || at + count > window_at_ + window_.size()) {
    window_.resize(std::min(std::max(count, kWindow), size_ - at));
    window_.resize(file_.read_at(static_cast<std::int64_t>(at), window_.data(), window_.size()));
    window_at_ = at;
    if (window_.size() < count) refuse(object, "cannot be read: the file shrinks");
  }
  return window_.substr(at - window_at_, count);
}

void Metadata::claim(std::string_view object, std::uint64_t at, std::uint64_t count) {
  const auto next = claimed_.lower_bound(at);
  const bool reaches_next = next != claimed_.end() && next->first < at + count;
  const bool inside_last = next != claimed_.begin() && std::prev(next)->second > at;
  if (reaches_next || inside_last) {
    refuse(object, fmt::format("shares the metadata at byte {} with something else", at));
  }
  claimed_.emplace(at, at + count);
}

std::string Metadata::signed_bytes(std::string_view object, std::uint64_t at, std::uint64_t count,
                                   std::string_view signature) {
  auto block = bytes(object, at, count);
  if (!block.starts_with(signature)) {
    refuse(object, fmt::format("has no {} block at byte {}", signature, at));
  }
  claim(object, at, count);
  return block;
}

std::string Metadata::block(std::string_view object, std::uint64_t at, std::uint64_t count,
                            std::string_view signature) {
  auto block = signed_bytes(object, at, count, signature);
  const std::string_view all = block;
  if (little_endian(all.substr(all.size() - 4)) != lookup3(all.substr(0, all.size() - 4))) {
    refuse(object, fmt::format("is damaged: the checksum of the metadata at byte {}", at));
  }
  return block;
}

std::string Metadata::block_with_inner_checksum(std::string_view object, std::uint64_t at,
                                                std::uint64_t count, std::string_view signature,
                                                std::size_t checksum_at) {
  auto block = signed_bytes(object, at, count, signature);
  const auto stored = little_endian(std::string_view(block).substr(checksum_at, 4));
  block.replace(checksum_at, 4, 4, '\0');
  if (stored != lookup3(block)) {
    refuse(object, fmt::format("is damaged: the checksum of the metadata at byte {}", at));
  }
  return block;
}

void Cursor::refuse(std::string_view why) const {
  file_->refuse(object_, fmt::format("is malformed: its {} {}", what_, why));
}

std::string_view Cursor::take(std::uint64_t count) {
  if (count > bytes_.size()) refuse("ends too early");
  const auto taken = bytes_.substr(0, count);
  bytes_.remove_prefix(count);
  return taken;
}

std::uint64_t Cursor::number(std::size_t width) {
  return little_endian(take(width));
}

void Cursor::expect_number(std::size_t width, std::uint64_t value, std::string_view name) {
  const auto found = number(width);
  if (found != value) refuse(fmt::format("has {} {}, not {}", name, found, value));
}

LinkMessage read_link(Cursor& at) {
  constexpr std::uint64_t kHard = 0, kSoft = 1, kExternal = 64;
  at.expect_number(1, 1, "version");
  const auto flags = at.number(1);
  at.expect(flags < 0x20, "has unknown flags");
  const auto type = (flags & 0x08) != 0 ? at.number(1) : kHard;
  if ((flags & 0x04) != 0) at.expect(at.number(8) >> 63 == 0, "has a negative creation order");
  if ((flags & 0x10) != 0) at.expect(at.number(1) <= 1, "has an unknown character set");
  LinkMessage link;
  link.name = at.take(at.number(std::size_t{1} << (flags & 3)));
  at.expect(!link.name.empty() && link.name != "." && link.name.find('/') == link.name.npos &&
                link.name.find('\0') == link.name.npos,
            "has an impossible name");
  link.hard = type == kHard;
  if (link.hard) {
    link.target = at.address();
  } else if (type == kSoft || type == kExternal) {
    const auto value = at.take(at.number(2));
    at.expect(value.size() >= 2, "leads nowhere");
    if (type == kSoft) {
      at.expect(value.find('\0') == value.npos, "leads to an impossible name");
    } else {
      // A version and flags, then file and object, each ended by a zero byte.
      const auto names = value.substr(1);
      at.expect(value[0] == 0 && std::ranges::count(names, '\0') == 2 && names.back() == '\0',
                "does not name a file and an object");
    }
  } else {
    at.refuse(fmt::format("is of the unknown type {}", type));
  }
  at.expect_end();
  return link;
}

}  // namespace pg::io::h5

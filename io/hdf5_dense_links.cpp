// Links in a fractal heap with a v2 B-tree: see io/hdf5_metadata.h. All numbers that may differ in
// general have one value for groups; that is what makes this short.
#include <algorithm>
#include <bit>
#include <vector>

#include "io/hdf5_metadata.h"
#include "io/lookup3.h"

namespace pg::io::h5 {

namespace {

// Of the doubling table: blocks a row, bytes of a block in the first two rows (from then on they
// double), of the largest direct block; bits of an offset in the heap.
constexpr std::uint64_t kWidth = 4, kFirstBlock = 512, kLargestBlock = 65536, kHeapBits = 32;
constexpr std::uint64_t kDirectRows = 9, kMostRows = 22;  // of the above
constexpr std::uint64_t kHeapHeaderBytes = 146, kDirectPrefix = 21, kIndirectPrefix = 17;
// Of the B-tree: bytes of a node, of a record (hash and heap id), of a node's ends.
constexpr std::uint64_t kNodeBytes = 512, kRecordBytes = 11, kNodeEnds = 10;
constexpr std::uint64_t kMostDepth = 5;
constexpr std::uint64_t kNameRecords = 5;  // the tree's type

std::uint64_t block_bytes(std::uint64_t row) {
  return row < 2 ? kFirstBlock : kFirstBlock << (row - 1);
}

// Rows of the indirect block that covers `bytes` of the heap.
std::uint64_t rows_of(std::uint64_t bytes) {
  return static_cast<std::uint64_t>(std::countr_zero(bytes) -
                                    std::countr_zero(kFirstBlock * kWidth)) +
         1;
}

class Heap {
 public:
  Heap(Metadata& file, std::string_view object, std::uint64_t at)
      : file_(file), object_(object), at_(at) {
    const auto header = file.block(object, at, kHeapHeaderBytes, "FRHP");
    Cursor c(file, object, "fractal heap", header);
    c.take(4);
    c.expect_number(1, 0, "version");
    c.expect_number(2, 7, "bytes of an id");
    c.expect_number(2, 0, "bytes of filters");
    c.expect_number(1, 2, "flags");
    c.expect_number(4, 4096, "largest object");
    c.expect_number(8, 0, "next huge id");
    c.expect_number(8, kNowhere, "huge objects' tree");
    c.number(8);  // free space: of interest to writers, as are the next four
    c.address();
    c.number(8);
    c.number(8);
    c.number(8);
    objects_ = c.number(8);
    for (const auto* name :
         {"bytes of huge objects", "huge objects", "bytes of tiny objects", "tiny objects"}) {
      c.expect_number(8, 0, name);
    }
    c.expect_number(2, kWidth, "table width");
    c.expect_number(8, kFirstBlock, "first block size");
    c.expect_number(8, kLargestBlock, "largest block size");
    c.expect_number(2, kHeapBits, "offset bits");
    c.expect_number(2, 1, "first rows");
    const auto root = c.address();
    const auto rows = c.number(2);
    c.expect(rows <= kMostRows, "has too many rows");
    if (rows == 0) {
      direct(root, 0, kFirstBlock);
    } else {
      indirect(root, 0, rows);
    }
  }

  std::uint64_t objects() const { return objects_; }

  // The bytes of the object with this id, which is 7 bytes long.
  std::string_view find(Cursor& c) const {
    c.expect_number(1, 0, "id kind");
    const auto offset = c.number(4), bytes = c.number(2);
    auto block = blocks_.upper_bound(offset);
    c.expect(block != blocks_.begin(), "leads outside its heap");
    --block;
    const auto inside = offset - block->first;
    c.expect(inside >= kDirectPrefix && inside <= block->second.size() &&
                 bytes <= block->second.size() - inside,
             "leads outside its heap");
    return std::string_view(block->second).substr(inside, bytes);
  }

 private:
  void expect_prefix(Cursor& c, std::uint64_t offset) const {
    c.take(4);
    c.expect_number(1, 0, "version");
    c.expect_number(8, at_, "heap");
    c.expect_number(kHeapBits / 8, offset, "offset");
  }

  void direct(std::uint64_t at, std::uint64_t offset, std::uint64_t bytes) {
    auto block = file_.block_with_inner_checksum(object_, at, bytes, "FHDB", kDirectPrefix - 4);
    Cursor c(file_, object_, "heap block", block);
    expect_prefix(c, offset);
    blocks_.emplace(offset, std::move(block));
  }

  // No cycles: every block is claimed once, and an inner one has fewer rows.
  void indirect(std::uint64_t at, std::uint64_t offset, std::uint64_t rows) {
    const auto bytes = kIndirectPrefix + kWidth * rows * 8 + 4;
    const auto block = file_.block(object_, at, bytes, "FHIB");
    Cursor c(file_, object_, "heap index", block);
    expect_prefix(c, offset);
    for (std::uint64_t row = 0; row < rows; ++row) {
      for (std::uint64_t column = 0; column < kWidth; ++column, offset += block_bytes(row)) {
        const auto child = c.address();
        if (child == kNowhere) continue;
        if (row < kDirectRows) {
          direct(child, offset, block_bytes(row));
        } else {
          indirect(child, offset, rows_of(block_bytes(row)));
        }
      }
    }
  }

  Metadata& file_;
  std::string_view object_;
  std::uint64_t at_, objects_ = 0;
  std::map<std::uint64_t, std::string> blocks_;  // direct ones by their offset in the heap
};

// Bytes that hold any number up to `most`.
std::size_t width_for(std::uint64_t most) {
  return static_cast<std::size_t>((std::bit_width(most) - 1) / 8 + 1);
}

class NameTree {
 public:
  NameTree(Metadata& file, std::string_view object, std::uint64_t at, const Heap& heap)
      : file_(file), object_(object), heap_(heap) {
    constexpr std::uint64_t kHeaderBytes = 38;
    const auto header = file.block(object, at, kHeaderBytes, "BTHD");
    Cursor c(file, object, "B-tree", header);
    c.take(4);
    c.expect_number(1, 0, "version");
    c.expect_number(1, kNameRecords, "type");
    c.expect_number(4, kNodeBytes, "node size");
    c.expect_number(2, kRecordBytes, "record size");
    const auto depth = c.number(2);
    c.expect(depth <= kMostDepth, "is too deep");
    c.expect_number(1, 100, "split percentage");
    c.expect_number(1, 40, "merge percentage");
    const auto root = c.address(), records = c.number(2), total = c.number(8);
    c.expect(total == heap.objects(), "has another number of links than the heap");
    c.expect(total > 0 && total <= file.size() / kRecordBytes, "has an impossible size");
    levels_.push_back({(kNodeBytes - kNodeEnds) / kRecordBytes, 0, 0});
    levels_[0].in_all = levels_[0].most;
    for (std::uint64_t level = 1; level <= depth; ++level) {
      const auto& below = levels_.back();
      const auto pointer = 8 + width_for(levels_[0].most) + below.total_width;
      const auto most = (kNodeBytes - kNodeEnds - pointer) / (kRecordBytes + pointer);
      const auto in_all = (most + 1) * below.in_all + most;
      levels_.push_back({most, in_all, width_for(in_all)});
    }
    c.expect(node(root, depth, records) == total && links_.size() == total,
             "has another number of links than it says");
  }

  std::vector<LinkMessage> take() { return std::move(links_); }

 private:
  // Of a node's level: the most records in it, in it and below, and the bytes of such a number
  // (none for leaves).
  struct Level {
    std::uint64_t most, in_all;
    std::size_t total_width;
  };

  // Records in this node and below it.
  std::uint64_t node(std::uint64_t at, std::uint64_t level, std::uint64_t records) {
    const auto fits = records > 0 && records <= levels_[level].most;
    if (!fits) file_.refuse(object_, fmt::format("has a B-tree node of {} records", records));
    const auto count_width = width_for(levels_[0].most);
    const auto total_width = level > 0 ? levels_[level - 1].total_width : 0;
    const auto pointers = level > 0 ? (records + 1) * (8 + count_width + total_width) : 0;
    const auto block = file_.block(object_, at, kNodeEnds + records * kRecordBytes + pointers,
                                   level > 0 ? "BTIN" : "BTLF");
    Cursor c(file_, object_, "B-tree node", block);
    c.take(4);
    c.expect_number(1, 0, "version");
    c.expect_number(1, kNameRecords, "type");
    // Links in the order of the tree: a child, a record, the next child, ...
    Cursor own(file_, object_, "B-tree node", c.take(records * kRecordBytes));
    std::uint64_t sum = records;
    for (std::uint64_t i = 0; i <= records; ++i) {
      if (level > 0) {
        const auto child = c.address(), in_child = c.number(count_width);
        const auto found = node(child, level - 1, in_child);
        if (level > 1) c.expect_number(total_width, found, "records below");
        sum += found;
      }
      if (i < records) record(own);
    }
    return sum;
  }

  void record(Cursor& c) {
    const auto hash = c.number(4);
    c.expect(hash >= last_hash_, "is not in order");
    last_hash_ = hash;
    Cursor message(file_, object_, "link", heap_.find(c));
    links_.push_back(read_link(message));
    c.expect(lookup3(links_.back().name) == hash, "has another hash than the link's name");
  }

  Metadata& file_;
  std::string_view object_;
  const Heap& heap_;
  std::vector<Level> levels_;
  std::uint64_t last_hash_ = 0;
  std::vector<LinkMessage> links_;
};

}  // namespace

std::vector<LinkMessage> dense_links(Metadata& file, std::string_view object, std::uint64_t heap,
                                     std::uint64_t name_tree) {
  const Heap objects(file, object, heap);
  return NameTree(file, object, name_tree, objects).take();
}

}  // namespace pg::io::h5

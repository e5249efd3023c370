// A small training state for checkpoint tests: tensors of every dtype, cut over ranks in the ways
// that training cuts them, with values that depend on the tensor and the global index alone.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <deque>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "comm/error.h"
#include "comm/random.h"
#include "io/checkpoint.h"

namespace pg::io {

enum class Cut { kRows, kColumns, kFlat, kReplicated, kLastRankOnly };

struct TensorPlan {
  std::string name;
  DType dtype;
  std::vector<std::int64_t> shape;
  Cut cut;
};

// The byte `at` of element `index`, `bytes` long: any bit pattern of a finite number.
inline std::uint8_t expected_byte(const std::string& name, std::int64_t index, std::size_t at,
                                  std::size_t bytes, int version) {
  const auto key = comm::random_key(7, name);
  const auto bits = comm::random_bits(key, static_cast<std::uint64_t>(version),
                                      static_cast<std::uint64_t>(index) * 8 + at);
  // The last byte has the exponent's highest bit: without it no exponent is all ones.
  return static_cast<std::uint8_t>(at + 1 == bytes ? bits & 0xBF : bits);
}

// This rank's part, with memory of its own.
class TestState {
 public:
  TestState(const std::vector<TensorPlan>& plans, int rank, int size) {
    for (const auto& plan : plans) {
      comm::TensorRecord tensor{plan.name, plan.dtype, plan.shape, {}};
      add_slabs(tensor, plan.cut, rank, size);
      tensors_.push_back(std::move(tensor));
    }
  }

  std::vector<comm::TensorRecord>& tensors() { return tensors_; }

  void fill(int version) {
    each_element(
        [&](const std::string& name, std::int64_t index, std::uint8_t* element, std::size_t bytes) {
          for (std::size_t b = 0; b < bytes; ++b)
            element[b] = expected_byte(name, index, b, bytes, version);
        });
  }
  void clear() {
    for (auto& memory : memories_) std::fill(memory.begin(), memory.end(), std::uint8_t{0xA5});
  }
  // Elements that are not what fill(version) gives.
  std::int64_t wrong(int version) {
    std::int64_t count = 0;
    each_element([&](const std::string& name, std::int64_t index, const std::uint8_t* element,
                     std::size_t bytes) {
      for (std::size_t b = 0; b < bytes; ++b) {
        if (element[b] == expected_byte(name, index, b, bytes, version)) continue;
        ++count;
        return;
      }
    });
    return count;
  }

 private:
  void add(comm::TensorRecord& tensor, std::vector<std::int64_t> offset,
           std::vector<std::int64_t> extent, bool owner) {
    std::int64_t elements = 1;
    for (const auto e : extent) elements *= e;
    auto& memory =
        memories_.emplace_back(static_cast<std::size_t>(elements) * dtype_size(tensor.dtype));
    tensor.slabs.push_back({std::move(offset), std::move(extent), memory.data(), owner});
  }

  void add_block(comm::TensorRecord& tensor, std::size_t axis, int rank, int size) {
    const auto n = tensor.shape[axis];
    const auto begin = n * rank / size, end = n * (rank + 1) / size;
    std::vector<std::int64_t> offset(tensor.shape.size(), 0), extent = tensor.shape;
    offset[axis] = begin;
    extent[axis] = end - begin;
    add(tensor, offset, extent, true);
  }

  // An even share of the flattened matrix: the end of a row, whole rows, the start of a row. Given
  // last part first, since order must not matter.
  void add_flat(comm::TensorRecord& tensor, int rank, int size) {
    const auto width = tensor.shape[1];
    auto begin = tensor.elements() * rank / size;
    const auto end = tensor.elements() * (rank + 1) / size;
    while (begin < end) {
      const auto row = begin / width, column = begin % width;
      const auto rows = column == 0 ? std::max<std::int64_t>(1, (end - begin) / width) : 1;
      const auto columns = rows * width <= end - begin && column == 0
                               ? width
                               : std::min(width - column, end - begin);
      add(tensor, {row, column}, {rows, columns}, true);
      begin += rows * columns;
    }
    std::reverse(tensor.slabs.begin(), tensor.slabs.end());
  }

  void add_slabs(comm::TensorRecord& tensor, Cut cut, int rank, int size) {
    switch (cut) {
      case Cut::kRows:
        return add_block(tensor, 0, rank, size);
      case Cut::kColumns:
        return add_block(tensor, tensor.shape.size() - 1, rank, size);
      case Cut::kFlat:
        return add_flat(tensor, rank, size);
      case Cut::kReplicated:
        return add(tensor, std::vector<std::int64_t>(tensor.shape.size(), 0), tensor.shape,
                   rank == static_cast<int>(tensor.name.size()) % size);
      case Cut::kLastRankOnly:
        if (rank == size - 1) add_block(tensor, 0, 0, 1);
    }
  }

  template <class Visit>
  void each_element(Visit visit) {
    for (auto& tensor : tensors_) {
      const auto bytes = dtype_size(tensor.dtype);
      for (auto& slab : tensor.slabs) {
        std::int64_t elements = 1;
        for (const auto e : slab.extent) elements *= e;
        for (std::int64_t local = 0; local < elements; ++local) {
          std::int64_t rest = local, index = 0, stride = 1;
          for (std::size_t a = tensor.shape.size(); a-- > 0;) {
            index += (slab.offset[a] + rest % slab.extent[a]) * stride;
            rest /= slab.extent[a];
            stride *= tensor.shape[a];
          }
          visit(tensor.name, index, static_cast<std::uint8_t*>(slab.data) + local * bytes, bytes);
        }
      }
    }
  }

  std::vector<comm::TensorRecord> tensors_;
  std::deque<std::vector<std::uint8_t>> memories_;
};

// A few hundred bytes of data: every bit of the file can be flipped in turn.
inline std::vector<TensorPlan> tiny_plans() {
  return {{"norm.weight", DType::kF32, {5}, Cut::kReplicated},
          {"blocks.0.q.weight", DType::kBF16, {3, 5}, Cut::kRows},
          {"adam.m.blocks.0.q.weight", DType::kF32, {3, 5}, Cut::kFlat}};
}

// Every cut with every extent awkward for 2, 3 and 4 ranks.
inline std::vector<TensorPlan> awkward_plans() {
  std::vector<TensorPlan> plans;
  for (const auto dtype : {DType::kF64, DType::kF32, DType::kBF16}) {
    const auto prefix = std::string(dtype_name(dtype)) + ".blocks.0.";
    plans.push_back({prefix + "rows", dtype, {7, 5}, Cut::kRows});
    plans.push_back({prefix + "columns", dtype, {5, 11}, Cut::kColumns});
    plans.push_back({prefix + "deep_columns", dtype, {3, 2, 7}, Cut::kColumns});
    plans.push_back({prefix + "flat", dtype, {9, 13}, Cut::kFlat});
    plans.push_back({prefix + "fewer_rows_than_ranks", dtype, {2, 3}, Cut::kRows});
    plans.push_back({prefix + "replicated", dtype, {4, 3}, Cut::kReplicated});
    plans.push_back({prefix + "vector", dtype, {17}, Cut::kRows});
    plans.push_back({prefix + "last_stage", dtype, {3, 4}, Cut::kLastRankOnly});
    plans.push_back({prefix + "one", dtype, {1}, Cut::kReplicated});
  }
  plans.push_back({"counts", DType::kI64, {6}, Cut::kRows});
  return plans;
}

inline CheckpointInfo test_info(std::int64_t step) {
  return {.step = step,
          .next_sample = 8 * step,
          .data_fingerprint = "00112233445566778899aabbccddeeff",
          .guard = {},
          .deck = "[run]\nname = \"test\"\n",
          .provenance = R"({"version":"0.1.0","grid":"dp 2","host":"n1"})"};
}

// A fresh directory below the build tree that every rank of `group` knows; removed with its owner.
class TestDirectory {
 public:
  explicit TestDirectory(comm::Group& group) : group_(group) {
    const auto* small = std::getenv("PG_TEST_DIRECTORY");
    const std::filesystem::path base = small ? small : PG_BINARY_DIR "/tests/checkpoints";
    std::filesystem::create_directories(base);
    path_ = base / comm::broadcast(group, std::to_string(::getpid()) + "." + name(), 0);
    if (group.rank() == 0) {
      std::filesystem::remove_all(path_);
      std::filesystem::create_directories(path_);
    }
    group_.barrier();
  }
  ~TestDirectory() {
    group_.barrier();
    std::error_code error;
    if (group_.rank() == 0) std::filesystem::remove_all(path_, error);
  }
  const std::filesystem::path& path() const { return path_; }
  operator const std::filesystem::path&() const { return path_; }

 private:
  static std::string name() {
    return testing::UnitTest::GetInstance()->current_test_info()->name();
  }
  comm::Group& group_;
  std::filesystem::path path_;
};

inline std::string bytes_of(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}
inline void put_bytes(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out << bytes;
}

// The message of the Error(code) that `work` throws; a failure of the test when it throws none.
template <class Work>
std::string error_of(ExitCode code, Work work) {
  try {
    work();
  } catch (const Error& error) {
    EXPECT_EQ(static_cast<int>(error.code()), static_cast<int>(code)) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "no Error was thrown";
  return "";
}

inline void expect_contains(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos) << "'" << part << "' is not in: " << text;
}

// Names in a directory, sorted.
inline std::vector<std::string> names_in(const std::filesystem::path& directory) {
  std::vector<std::string> names;
  for (const auto& item : std::filesystem::directory_iterator(directory)) {
    names.push_back(item.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace pg::io

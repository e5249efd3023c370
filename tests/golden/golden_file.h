// Reads the golden files of this folder: a tiny model's weights with the logits, loss, gradients
// and AdamW steps that PyTorch and Hugging Face's code got from them (make_golden.py says what is
// stored and how). Test-only, serial, values as they are in the file, row-major. Whatever is
// missing or has another type throws std::runtime_error with file and name.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "model/config.h"

namespace pg::golden {

template <class T>
struct Array {
  std::vector<std::int64_t> shape;  // empty for a scalar
  std::vector<T> values;
};

class GoldenFile {
 public:
  explicit GoldenFile(const std::filesystem::path& path);
  GoldenFile(const GoldenFile&) = delete;
  GoldenFile& operator=(const GoldenFile&) = delete;
  ~GoldenFile();

  bool has(const std::string& name) const;  // "/losses", "/grads/final_norm.weight"
  // Names in a group, sorted: "weights" -> "blocks.0.attention.k.weight", ...
  std::vector<std::string> names(const std::string& group) const;
  Array<double> doubles(const std::string& name) const;     // fp32 or fp64, widened exactly
  Array<std::int32_t> ints(const std::string& name) const;  // int32 only

  // Attributes of the file.
  bool has_attribute(const std::string& name) const;
  std::int64_t integer(const std::string& name) const;
  double real(const std::string& name) const;
  std::string text(const std::string& name) const;
  model::ModelConfig config() const;

 private:
  std::filesystem::path path_;
  std::int64_t file_ = -1;  // hid_t, kept out of this header with HDF5's own
};

// tests/golden/NAME.h5 of the source tree.
std::filesystem::path golden_path(const std::string& name);

}  // namespace pg::golden

#include "app/inspect.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <vector>

#include "comm/error.h"
#include "io/checkpoint.h"
#include "io/files.h"
#include "io/manifest.h"
#include "io/token_file.h"

namespace pg::app {

namespace {

namespace fs = std::filesystem;

void print_tensors(const std::vector<comm::TensorRecord>& tensors) {
  std::size_t width = 6;
  std::int64_t elements = 0, bytes = 0;
  for (const auto& tensor : tensors) width = std::max(width, tensor.name.size());
  fmt::print("\n  {:<{}}  {:<5}  {:>14}  {}\n", "tensor", width, "dtype", "bytes", "shape");
  for (const auto& tensor : tensors) {
    const auto size = tensor.elements() * static_cast<std::int64_t>(dtype_size(tensor.dtype));
    fmt::print("  {:<{}}  {:<5}  {:>14}  {}\n", tensor.name, width, dtype_name(tensor.dtype), size,
               io::shape_text(tensor.shape));
    elements += tensor.elements();
    bytes += size;
  }
  fmt::print("  {} tensors, {} elements, {}\n", tensors.size(), elements,
             io::readable_bytes(bytes));
}

std::string digests_text(const io::ManifestFile& file) {
  if (file.chunks.size() == 1) return "XXH3-128 " + file.chunks.front();
  return fmt::format("XXH3-128 of {} chunks of {}", file.chunks.size(),
                     io::readable_bytes(io::kChunkBytes));
}

int inspect_checkpoint(const fs::path& entry) {
  const auto strays = io::verify_checkpoint(entry);
  const auto info = io::read_checkpoint_info(entry);
  const auto tensors = io::read_checkpoint_tensors(entry);
  const auto manifest = io::read_manifest(entry);
  fmt::print("checkpoint   {}\n", entry.string());
  fmt::print("step         {}\n", info.step);
  fmt::print("next sample  {}\n", info.next_sample);
  fmt::print("data         {}\n", info.data_fingerprint);
  fmt::print("deck         XXH3-128 {}\n", io::digest_of_text(info.deck));
  fmt::print("provenance   {}\n", info.provenance);
  print_tensors(tensors);
  fmt::print("\n");
  for (const auto& file : manifest.files) {
    fmt::print("  {:<10}  {:>14}  {}\n", file.name, file.bytes, digests_text(file));
  }
  for (const auto& stray : strays) fmt::print("  {:<10}  not of this checkpoint\n", stray);
  fmt::print("verified: every byte of {} files, {}\n", manifest.files.size(),
             io::readable_bytes(manifest.bytes()));
  return 0;
}

int inspect_list(const fs::path& directory, const std::vector<io::CheckpointEntry>& entries) {
  std::int64_t damaged = 0;
  fmt::print("{}: {} checkpoints, newest first\n", directory.string(), entries.size());
  for (const auto& entry : entries) {
    const auto name = entry.path.filename().string();
    try {
      io::verify_checkpoint(entry.path);
      fmt::print("  {}  verified, {}\n", name,
                 io::readable_bytes(io::read_manifest(entry.path).bytes()));
    } catch (const Error& error) {
      ++damaged;
      fmt::print("  {}  DAMAGED: {}\n", name, error.what());
    }
  }
  if (damaged == 0) return 0;
  fmt::print(stderr, "pentagrid: {}: {} of {} checkpoints are damaged\n", directory.string(),
             damaged, entries.size());
  return static_cast<int>(ExitCode::kCheckpoint);
}

int inspect_token_file(const fs::path& path) {
  const io::TokenFile file(path);
  file.verify();
  const auto& tokenizer = file.tokenizer();
  fmt::print("token file   {}\n", path.string());
  fmt::print("source       {}\n", file.source());
  fmt::print("tokens       {}\n", file.tokens());
  fmt::print("documents    {}\n", file.documents());
  fmt::print("vocabulary   {}\n", file.vocab());
  fmt::print("tokenizer    {}\n",
             tokenizer == "bytes" ? tokenizer
                                  : "SentencePiece, " + io::readable_bytes(std::ssize(tokenizer)));
  fmt::print("fingerprint  {}\n", file.fingerprint());
  fmt::print("verified: every token, document and the tokenizer\n");
  return 0;
}

bool is_entry(const fs::path& path) {
  std::error_code error;
  if (fs::exists(path / io::kManifestName, error)) return true;
  // Under its name, an entry without a manifest is a damaged one.
  const auto absolute = fs::absolute(path).lexically_normal();
  const auto name = (absolute.has_filename() ? absolute : absolute.parent_path()).filename();
  return io::checkpoint_step(name.string()).has_value();
}

}  // namespace

int run_inspect(const std::string& path) {
  const fs::path at(path);
  std::error_code error;
  if (!fs::exists(at, error)) {
    throw fail(ExitCode::kDeck, "inspect: {}: {}", path,
               error ? error.message() : "no such file or folder");
  }
  if (!fs::is_directory(at)) return inspect_token_file(at);
  if (is_entry(at)) return inspect_checkpoint(at);
  for (const auto& directory : {at, at / "checkpoints"}) {
    const auto entries = io::list_checkpoints(directory);
    if (!entries.empty()) return inspect_list(directory, entries);
  }
  throw fail(ExitCode::kCheckpoint, "inspect: {}: holds no checkpoint (step-NNNNNNNNN)", path);
}

}  // namespace pg::app

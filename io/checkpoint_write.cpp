// Writing the tensors of state.h5 and reading them back: see io/checkpoint_state.h.
#include <algorithm>
#include <cstring>

#include "comm/activity.h"
#include "io/checkpoint_state.h"
#include "io/file_runs.h"
#include "io/finite.h"
#include "io/raw_file.h"

namespace pg::io {

namespace {

using comm::TensorRecord;

// The most that one system call moves: small enough that a failure elsewhere is noticed soon.
constexpr std::size_t kPieceBytes = std::size_t{8} << 20;
constexpr std::size_t kJoined = 64;
constexpr std::size_t kStartedBytes = std::size_t{1} << 20;

// Long runs cut into pieces, at multiples of a piece in the file.
std::vector<FileRun> pieces_of(const TensorRecord& tensor, std::int64_t begin) {
  std::vector<FileRun> pieces;
  for (auto run : owned_runs(tensor, begin)) {
    while (run.bytes > kPieceBytes) {
      const auto part = kPieceBytes - static_cast<std::size_t>(run.offset) % kPieceBytes;
      pieces.push_back({run.offset, run.data, part});
      run.offset += static_cast<std::int64_t>(part);
      run.data += part;
      run.bytes -= part;
    }
    pieces.push_back(run);
  }
  return pieces;
}

std::size_t bytes_of(std::span<const FileRun> pieces) {
  std::size_t bytes = 0;
  for (const auto& piece : pieces) bytes += piece.bytes;
  return bytes;
}

// Calls `visit(parts)` for each stretch of the file, `parts` its pieces in memory.
template <class Visit>
void for_stretches(std::span<const FileRun> pieces, const BetweenPieces& between, Visit visit) {
  while (!pieces.empty()) {
    const auto count = joined_runs(pieces, kPieceBytes, kJoined);
    between();
    visit(pieces.first(count));
    comm::note_progress();
    pieces = pieces.subspan(count);
  }
}

void require_finite(const TensorRecord& tensor, const comm::Slab& slab) {
  if (!slab.owner) return;
  std::int64_t count = 1;
  for (const auto extent : slab.extent) count *= extent;
  const auto bad = first_not_finite(tensor.dtype, slab.data, static_cast<std::size_t>(count));
  if (!bad) return;
  std::vector<std::int64_t> index(slab.extent.size());
  auto rest = static_cast<std::int64_t>(*bad);
  for (auto a = index.size(); a-- > 0;) {
    index[a] = slab.offset[a] + rest % slab.extent[a];
    rest /= slab.extent[a];
  }
  throw fail(ExitCode::kNumerical, "{} is not finite at [{}]: such a state is not saved",
             tensor.name, fmt::join(index, ", "));
}

[[noreturn]] void report_difference(const std::filesystem::path& path, const TensorRecord& tensor,
                                    const FileRun& run, const char* back, std::size_t got) {
  std::size_t at = 0;
  while (at < got && back[at] == run.data[at]) ++at;
  const auto offset = run.offset + static_cast<std::int64_t>(at);
  if (at == got) {
    throw fail(ExitCode::kSave, "{}: {}: ends at byte {} when read back", path.string(),
               tensor.name, offset);
  }
  throw fail(ExitCode::kSave, "{}: {}: byte {} was written as {:#04x} and reads back as {:#04x}",
             path.string(), tensor.name, offset, static_cast<unsigned char>(run.data[at]),
             static_cast<unsigned char>(back[at]));
}

}  // namespace

void write_owned(const std::filesystem::path& path, std::span<const std::int64_t> offsets,
                 std::span<const TensorRecord> tensors, const BetweenPieces& before_tensor,
                 const BetweenPieces& between) {
  auto file = RawFile::modify(path, ExitCode::kSave);
  std::vector<Piece> parts;
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    const auto& tensor = tensors[t];
    before_tensor();
    for (const auto& slab : tensor.slabs) require_finite(tensor, slab);
    const auto pieces = pieces_of(tensor, offsets[t]);
    try {
      for_stretches(pieces, between, [&](std::span<const FileRun> stretch) {
        parts.clear();
        for (const auto& run : stretch) parts.push_back({run.data, run.bytes});
        file.write_at(stretch.front().offset, parts);
        // Storage is busy from now on, not only in the sync. Pages that ranks share would be
        // written several times.
        if (const auto bytes = bytes_of(stretch); bytes >= kStartedBytes) {
          file.start_writeback(stretch.front().offset, static_cast<std::int64_t>(bytes));
        }
      });
    } catch (const Error& error) {
      throw fail(error.code(), "writing {}: {}", tensor.name, error.what());
    }
  }
  file.close();
}

void sync_owned(const std::filesystem::path& path, std::span<const std::int64_t> offsets,
                std::span<const TensorRecord> tensors, const BetweenPieces& between) {
  auto file = RawFile::modify(path, ExitCode::kSave);
  std::int64_t begin = 0, end = 0;
  const auto flush = [&] {
    if (begin == end) return;
    between();
    file.flush(begin, end - begin);
    comm::note_progress();
    begin = end;
  };
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    for (const auto& run : pieces_of(tensors[t], offsets[t])) {
      // Small runs near each other together, with what other ranks wrote between them.
      const auto stop = run.offset + static_cast<std::int64_t>(run.bytes);
      if (run.offset < begin || stop - begin > static_cast<std::int64_t>(kPieceBytes)) {
        flush();
        begin = run.offset;
      }
      if (begin == end) begin = run.offset;
      end = stop;
    }
  }
  flush();
  file.sync();
  file.close();
}

void verify_owned(const std::filesystem::path& path, std::span<const std::int64_t> offsets,
                  std::span<const TensorRecord> tensors, const BetweenPieces& between) {
  const auto file = RawFile::open(path, ExitCode::kSave);
  std::vector<char> back;
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    const auto pieces = pieces_of(tensors[t], offsets[t]);
    if (pieces.empty()) continue;
    const auto end = pieces.back().offset + static_cast<std::int64_t>(pieces.back().bytes);
    file.drop_cached(pieces.front().offset, end - pieces.front().offset);
    for_stretches(pieces, between, [&](std::span<const FileRun> stretch) {
      const auto bytes = bytes_of(stretch);
      back.resize(bytes);
      const auto got = file.read_at(stretch.front().offset, back.data(), bytes);
      std::size_t at = 0;
      for (const auto& run : stretch) {
        const auto have = std::min(run.bytes, got - std::min(got, at));
        if (have < run.bytes || std::memcmp(back.data() + at, run.data, run.bytes) != 0) {
          report_difference(path, tensors[t], run, back.data() + at, have);
        }
        at += run.bytes;
      }
    });
  }
}

}  // namespace pg::io

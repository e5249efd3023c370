// Loading: rank 0 alone looks at the file's structure, then every rank reads its slabs by their
// offsets. See io/checkpoint.h.
#include <algorithm>
#include <chrono>
#include <cstring>
#include <map>

#include "comm/activity.h"
#include "comm/agree.h"
#include "io/checkpoint.h"
#include "io/checkpoint_reads.h"
#include "io/checkpoint_state.h"
#include "io/raw_file.h"

namespace pg::io {

namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
using comm::TensorRecord;

// Offsets are told by a tensor's place in the list: it must be the same everywhere.
void agree_on_tensors(comm::Group& group, std::span<const TensorRecord> tensors) {
  std::string text;
  for (const auto& tensor : tensors) {
    text +=
        fmt::format("{} {} {}\n", tensor.name, dtype_name(tensor.dtype), shape_text(tensor.shape));
  }
  const auto mine = digest_of_text(text);
  const auto roots = comm::broadcast(group, mine, 0);
  comm::together(group, [&] {
    PG_ASSERT(mine == roots, "{} tensors to load: another list than on rank 0", tensors.size());
  });
}

// Offsets of `tensors` in their order.
std::vector<std::int64_t> offsets_in(const fs::path& path, std::span<const TensorRecord> tensors) {
  std::vector<TensorRecord> stored;
  std::map<std::string, std::int64_t> offset_of;
  for (auto& found : locate_state(path)) {
    offset_of[found.tensor.name] = found.offset;
    stored.push_back(std::move(found.tensor));
  }
  compare_tensors(path, stored, tensors);
  std::vector<std::int64_t> offsets;
  for (const auto& tensor : tensors) offsets.push_back(offset_of.at(tensor.name));
  return offsets;
}

void read_bytes(const RawFile& file, std::int64_t at, char* data, std::int64_t bytes) {
  const auto got = file.read_at(at, data, static_cast<std::size_t>(bytes));
  if (static_cast<std::int64_t>(got) != bytes) {
    throw fail(ExitCode::kCheckpoint, "{}: ends at byte {} while it is read", file.path().string(),
               at + static_cast<std::int64_t>(got));
  }
  comm::note_progress();
}

// Adds what this rank reads to `report`.
void read_slabs(const RawFile& file, std::span<const TensorRecord> tensors,
                std::span<const std::int64_t> offsets, LoadReport& report) {
  std::vector<char> staging;
  for_each_read(tensors, offsets, ReadLimits(), [&](const Read& read) {
    report.bytes += read.bytes();
    ++report.reads;
    if (read.in_place()) return read_bytes(file, read.begin, read.runs.front().data, read.bytes());
    if (std::ssize(staging) < read.bytes()) staging.resize(static_cast<std::size_t>(read.bytes()));
    read_bytes(file, read.begin, staging.data(), read.bytes());
    for (const auto& run : read.runs) {
      std::memcpy(run.data, staging.data() + (run.at - read.begin),
                  static_cast<std::size_t>(run.bytes));
    }
  });
}

}  // namespace

void read_state(const fs::path& path, std::span<const TensorRecord> tensors) {
  LoadReport report;
  const auto offsets = offsets_in(path, tensors);
  read_slabs(RawFile::open_unfollowed(path, ExitCode::kCheckpoint), tensors, offsets, report);
}

LoadReport load_checkpoint(const comm::Communicator& world, const fs::path& entry,
                           std::span<const TensorRecord> tensors) {
  const auto group = world.size() == 1 ? comm::make_self_group("checkpoint")
                                       : comm::make_mpi_group(world, "checkpoint");
  const auto path = entry / kStateName;
  const auto begin = Clock::now();
  agree_on_tensors(*group, tensors);
  // The offsets, and the size that they were checked against.
  std::vector<std::int64_t> places(tensors.size() + 1);
  comm::together(*group, [&] {
    if (group->rank() != 0) return;
    const auto offsets = offsets_in(path, tensors);
    std::copy(offsets.begin(), offsets.end(), places.begin());
    places.back() = regular_file_size(path, ExitCode::kCheckpoint);
  });
  group->broadcast({places.data(), places.size(), DType::kI64}, 0).wait();

  LoadReport report;
  // No collective call inside: a rank that fails to read keeps nobody waiting.
  comm::together(*group, [&] {
    const auto file = RawFile::open_unfollowed(path, ExitCode::kCheckpoint);
    // Another node may see another file than the one that was looked at.
    if (file.size() != places.back()) {
      throw fail(ExitCode::kCheckpoint, "{}: has {} here, rank 0 sees {}", path.string(),
                 readable_bytes(file.size()), readable_bytes(places.back()));
    }
    read_slabs(file, tensors, std::span(places).first(tensors.size()), report);
  });
  const std::chrono::duration<double> seconds = Clock::now() - begin;
  report.seconds = comm::all_reduce(*group, seconds.count(), comm::ReduceOp::kMax);
  report.most_bytes = comm::all_reduce(*group, report.bytes, comm::ReduceOp::kMax);
  report.total_bytes = comm::all_reduce(*group, report.bytes, comm::ReduceOp::kSum);
  return report;
}

}  // namespace pg::io

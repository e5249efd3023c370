// Saving: the phases and the commit. See io/checkpoint.h.
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>

#include "comm/agree.h"
#include "io/checkpoint.h"
#include "io/checkpoint_entry.h"
#include "io/checkpoint_state.h"
#include "io/files.h"
#include "io/manifest.h"

namespace pg::io {

namespace {

namespace fs = std::filesystem;
using comm::TensorRecord;

// Makes `directory` and lasting entries for it in its parents.
void make_directory(const fs::path& directory) {
  std::vector<fs::path> missing;
  for (auto at = fs::absolute(directory).lexically_normal(); !fs::exists(at);
       at = at.parent_path()) {
    if (at.has_filename()) missing.push_back(at);
  }
  for (auto at = missing.rbegin(); at != missing.rend(); ++at) {
    std::error_code error;
    fs::create_directory(*at, error);
    if (error) {
      throw fail(ExitCode::kSave, "{}: cannot be made: {}", at->string(), error.message());
    }
    sync_path(at->parent_path());
  }
}

void rename_path(const fs::path& from, const fs::path& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) {
    throw fail(ExitCode::kSave, "{}: renaming it to {} failed: {}", from.string(),
               to.filename().string(), std::strerror(errno));
  }
}

// Moves a complete temporary directory to its final name. An entry already there is out of the way
// without a moment in which neither exists, where the file system can exchange names; else it gets
// a dot-name for the moment. `undo` restores what was; `finish` removes the replaced entry.
class Publication {
 public:
  Publication(fs::path temporary, fs::path final)
      : temporary_(std::move(temporary)),
        final_(std::move(final)),
        replaced_(temporary_.string() + ".replaced") {
    std::error_code error;
    if (!fs::exists(fs::symlink_status(final_, error))) {
      rename_path(temporary_, final_);
    } else if (::renameat2(AT_FDCWD, temporary_.c_str(), AT_FDCWD, final_.c_str(),
                           RENAME_EXCHANGE) == 0) {
      old_ = temporary_;
    } else {
      rename_path(final_, replaced_);
      old_ = replaced_;
      try {
        rename_path(temporary_, final_);
      } catch (const Error&) {
        ::rename(replaced_.c_str(), final_.c_str());
        throw;
      }
    }
  }

  void undo() noexcept {
    std::error_code error;
    const fs::path aside = temporary_.string() + ".undone";
    fs::rename(final_, aside, error);
    if (!old_.empty()) fs::rename(old_, final_, error);
    fs::rename(aside, temporary_, error);
  }

  void finish() noexcept {
    std::error_code error;
    if (!old_.empty()) fs::remove_all(old_, error);
  }

 private:
  fs::path temporary_, final_, replaced_, old_;
};

// A write past a file size limit (ulimit -f) is an error to report, not a signal that kills.
class FileSizeSignalIgnored {
 public:
  FileSizeSignalIgnored() {
    struct sigaction ignore {};
    ignore.sa_handler = SIG_IGN;
    ::sigaction(SIGXFSZ, &ignore, &before_);
  }
  FileSizeSignalIgnored(const FileSizeSignalIgnored&) = delete;
  FileSizeSignalIgnored& operator=(const FileSizeSignalIgnored&) = delete;
  ~FileSizeSignalIgnored() { ::sigaction(SIGXFSZ, &before_, nullptr); }

 private:
  struct sigaction before_ {};
};

class Save {
 public:
  Save(const comm::Communicator& world, const fs::path& directory, const CheckpointInfo& info,
       std::span<const TensorRecord> tensors, const SaveObserver& observer)
      : world_(world),
        group_(comm::make_mpi_group(world, "checkpoint")),
        root_(group_->rank() == 0),
        directory_(directory),
        info_(info),
        tensors_(tensors),
        observer_(observer),
        final_(directory / checkpoint_name(info.step)) {
    const auto name = fmt::format(".{}.{}", checkpoint_name(info.step), ::getpid());
    temporary_ = directory / comm::broadcast(*group_, name, 0);
    state_ = temporary_ / kStateName;
  }

  fs::path run() {
    agree_on_tensors();
    try {
      steps();
    } catch (const Error&) {
      std::error_code error;
      if (publication_) publication_->undo();
      if (root_) fs::remove_all(temporary_, error);
      throw;
    }
    return final_;
  }

 private:
  void steps() {
    on_root("layout", [&] { lay_out(); });

    try {
      write_state(world_, *group_, state_, tensors_, [&] { attempt([&] { reach("data"); }); });
    } catch (const Error& error) {
      if (error.code() != ExitCode::kSave) throw;
      throw Error(ExitCode::kSave, described(error.what()));
    }

    // Every rank: its own node holds the pages that it wrote.
    on_all("sync", [&] { sync_path(state_); });
    on_root("digest", [&] { describe_files(); });
    on_root("publish", [&] { publication_.emplace(temporary_, final_); });
    on_root("published", [&] { sync_path(directory_); });
    if (publication_) publication_->finish();
  }

  void lay_out() {
    make_directory(directory_);
    std::error_code error;
    fs::remove_all(temporary_, error);  // of an earlier process with this number
    if (!fs::create_directory(temporary_, error)) {
      throw fail(ExitCode::kSave, "{}: cannot be made: {}", temporary_.string(), error.message());
    }
    state_size_ = lay_out_state(state_, tensors_);
  }

  // Once the data is on storage: the small files, and the manifest of what storage returns.
  void describe_files() {
    const auto size = regular_file_size(state_, ExitCode::kSave);
    if (size != state_size_) {
      throw fail(ExitCode::kSave, "{}: has {} after writing, {} were laid out", state_.string(),
                 readable_bytes(size), readable_bytes(state_size_));
    }
    // HDF5 closes a file that it could not write completely without an error.
    compare_tensors(state_, list_state(state_), tensors_);
    write_synced(temporary_ / kRunName, render_run(info_));
    write_synced(temporary_ / kDeckName, info_.deck);
    const auto manifest = measure_files(temporary_, info_.step, entry_files(), ExitCode::kSave);
    write_synced(temporary_ / kManifestName, render_manifest(manifest));
    sync_path(temporary_);
  }

  void reach(std::string_view phase) const {
    if (observer_) observer_(phase);
  }

  std::string described(std::string_view what) const {
    const auto free = free_bytes(directory_);
    return fmt::format("saving step {} failed ({} needed, {} free): {}", info_.step,
                       readable_bytes(checkpoint_bytes(tensors_)),
                       free < 0 ? "unknown" : readable_bytes(free), what);
  }

  // Whatever fails in `work` is a failed save, bugs excepted.
  void attempt(const std::function<void()>& work) const {
    try {
      work();
    } catch (const Error& error) {
      if (error.code() == ExitCode::kBug) throw;
      throw Error(ExitCode::kSave, error.what());
    } catch (const fs::filesystem_error& error) {
      throw Error(ExitCode::kSave, error.what());
    }
  }

  void on_all(std::string_view phase, const std::function<void()>& work) {
    comm::together(*group_, [&] {
      attempt([&] {
        try {
          reach(phase);
          work();
        } catch (const Error& error) {
          throw Error(error.code(), described(error.what()));
        }
      });
    });
  }

  void on_root(std::string_view phase, const std::function<void()>& work) {
    on_all(phase, [&] {
      if (root_) work();
    });
  }

  // Collective calls follow the list: it must be the same everywhere.
  void agree_on_tensors() {
    std::string text = final_.string();
    for (const auto& tensor : tensors_) {
      text += fmt::format("\n{} {} {}", tensor.name, dtype_name(tensor.dtype),
                          shape_text(tensor.shape));
    }
    const auto mine = digest_of_text(text);
    const auto roots = comm::broadcast(*group_, mine, 0);
    comm::together(*group_, [&] {
      PG_ASSERT(mine == roots, "{} tensors at {}: another list than on rank 0", tensors_.size(),
                final_.string());
    });
  }

  comm::Communicator world_;
  std::unique_ptr<comm::Group> group_;
  bool root_;
  fs::path directory_;
  const CheckpointInfo& info_;
  std::span<const TensorRecord> tensors_;
  const SaveObserver& observer_;
  fs::path final_, temporary_, state_;
  std::int64_t state_size_ = 0;
  std::optional<Publication> publication_;
};

}  // namespace

std::filesystem::path save_checkpoint(const comm::Communicator& world, const fs::path& directory,
                                      const CheckpointInfo& info,
                                      std::span<const TensorRecord> tensors,
                                      const SaveObserver& observer) {
  const FileSizeSignalIgnored ignored;
  return Save(world, directory, info, tensors, observer).run();
}

std::int64_t checkpoint_bytes(std::span<const TensorRecord> tensors) {
  constexpr std::int64_t kSmallFiles = 64 << 10;  // deck, provenance, manifest without:
  constexpr std::int64_t kChunkLine = 48;         // a chunk's digest in the manifest
  const auto state = state_bytes(tensors);
  return state + kSmallFiles + kChunkLine * chunk_count(state);
}

}  // namespace pg::io

#include "io/run_lock.h"

#include <fcntl.h>
#include <fmt/chrono.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <sstream>
#include <system_error>
#include <thread>
#include <utility>

#include "comm/error.h"
#include "comm/mpi_session.h"
#include "comm/quiet_thread.h"
#include "io/files.h"

namespace pg::io {

namespace fs = std::filesystem;

namespace {

constexpr std::int64_t kMaxBytes = 1 << 16;

std::string first_line(const fs::path& path) {
  std::ifstream in(path);
  std::string line;
  std::getline(in, line);
  return line;
}

std::string variable(const char* name) {
  const char* const value = std::getenv(name);
  return value == nullptr ? "" : value;
}

// When the process of a /proc/PID/stat began, in ticks since boot; empty: it has ended and nobody
// has asked for its status yet.
std::string start_in(const std::string& line) {
  // "PID (NAME) STATE ...": the name may hold anything, so count from its end. Field 22.
  const auto name_end = line.rfind(')');
  if (name_end == std::string::npos) return "";
  std::istringstream fields(line.substr(name_end + 1));
  std::string field;
  for (int number = 3; number <= 22 && fields >> field; ++number) {
    if (number == 3 && (field == "Z" || field == "X")) return "";
  }
  return field;
}

std::string process_namespace() {
  std::error_code error;
  return fs::read_symlink("/proc/self/ns/pid", error).string();
}

std::string random_token() {
  std::random_device device;
  return fmt::format("{:08x}{:08x}{:08x}", device(), device(), device());
}

// What stands in the file.
struct Owner {
  std::string token;  // of this one taking of the lock
  std::string host, boot, processes, started, job, cluster, since;
  std::int64_t pid = 0, restarts = 0, beat = 0;

  static Owner me() {
    Owner o;
    o.token = random_token();
    o.host = comm::host_name();
    o.boot = first_line("/proc/sys/kernel/random/boot_id");
    o.processes = process_namespace();
    o.pid = ::getpid();
    o.started = start_in(first_line("/proc/self/stat"));
    o.job = variable("SLURM_JOB_ID");
    o.cluster = variable("SLURM_CLUSTER_NAME");
    o.restarts = std::atoll(variable("SLURM_RESTART_COUNT").c_str());
    o.since = fmt::format(
        "{:%Y-%m-%dT%H:%M:%SZ}",
        fmt::gmtime(std::chrono::system_clock::to_time_t(std::chrono::system_clock::now())));
    return o;
  }

  // Always of the same length: it is written over itself.
  std::string text() const {
    const nlohmann::json json{{"token", token},
                              {"host", host},
                              {"boot", boot},
                              {"processes", processes},
                              {"started", started},
                              {"job", job},
                              {"cluster", cluster},
                              {"since", since},
                              {"pid", pid},
                              {"restarts", restarts},
                              {"beat", fmt::format("{:012}", beat)}};
    return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  }

  // Anything else than our own text is of an owner that nothing is known of but its bytes.
  static Owner parse(const std::string& text) {
    Owner o;
    o.token = digest_of_text(text);
    const auto json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
    const auto string = [&](const char* key) {
      const auto at = json.find(key);
      return at != json.end() && at->is_string() ? at->get<std::string>() : std::string();
    };
    const auto number = [&](const char* key) {
      const auto at = json.find(key);
      return at != json.end() && at->is_number_integer() ? at->get<std::int64_t>() : 0;
    };
    if (!json.is_object() || !is_token(string("token"))) return o;
    o.token = string("token");
    o.host = string("host");
    o.boot = string("boot");
    o.processes = string("processes");
    o.started = string("started");
    o.job = string("job");
    o.cluster = string("cluster");
    o.since = string("since");
    o.pid = number("pid");
    o.restarts = number("restarts");
    return o;
  }

  // It becomes part of a file's name.
  static bool is_token(const std::string& text) {
    return text.size() == 24 && text.find_first_not_of("0123456789abcdef") == std::string::npos;
  }

  std::string who() const {
    if (host.empty()) return "an owner that it does not name";
    return fmt::format("process {} on {}{}, since {}", pid, host,
                       job.empty() ? "" : fmt::format(" of Slurm job {}", job), since);
  }
};

enum class State { kAlive, kGone, kUnknown };

// A process that this host could show.
State state_here(const Owner& owner) {
  if (owner.pid <= 0 || owner.started.empty()) return State::kUnknown;
  if (::kill(static_cast<pid_t>(owner.pid), 0) != 0 && errno == ESRCH) return State::kGone;
  const auto stat = first_line(fmt::format("/proc/{}/stat", owner.pid));
  if (stat.empty()) return State::kUnknown;  // hidepid
  return start_in(stat) == owner.started ? State::kAlive : State::kGone;
}

State state_of(const Owner& owner, const Owner& me) {
  if (!owner.boot.empty() && owner.boot == me.boot && owner.processes == me.processes) {
    return state_here(owner);
  }
  // A job is started again when nothing of it runs any more.
  if (!owner.job.empty() && owner.job == me.job && owner.cluster == me.cluster &&
      owner.restarts < me.restarts) {
    return State::kGone;
  }
  return State::kUnknown;
}

// Of a small file; nothing when there is none.
std::optional<std::string> contents(const fs::path& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (fd < 0 && errno == ENOENT) return {};
  if (fd >= 0) ::close(fd);
  try {
    return read_small(path, kMaxBytes, ExitCode::kSave);
  } catch (const Error&) {
    if (!fs::exists(fs::symlink_status(path))) return {};
    throw;
  }
}

}  // namespace

class RunLock::Impl {
 public:
  Impl(const fs::path& folder, RunLockOptions options)
      : folder_(folder), path_(folder / ".lock"), options_(std::move(options)), me_(Owner::me()) {
    std::error_code error;
    made_folder_ = fs::create_directories(folder_, error);
    if (error) throw fail(ExitCode::kSave, "run.output: {}: {}", folder_.string(), error.message());
    try {
      write_own();
      acquire(path_, /*waits=*/false);
      ::unlink(own_.c_str());
      require_held();
    } catch (...) {
      give_back();
      throw;
    }
    try {
      remove_leftovers();
    } catch (const std::exception& left) {
      note(fmt::format("run.output: {}: {}", folder_.string(), left.what()));
    }
    beats_.start(options_.beat_s, [this](double) { beat(); });
  }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;
  ~Impl() {
    beats_.stop();
    if (held()) ::unlink(path_.c_str());
    give_back();
  }

  void require_held() const {
    if (held()) return;
    const auto text = contents(path_);
    throw fail(ExitCode::kSave, "run.output: another job took {} over meanwhile: {}",
               path_.string(), text ? Owner::parse(*text).who() : "it is gone");
  }

 private:
  Error failed(const char* operation, const fs::path& path) const {
    return fail(ExitCode::kSave, "run.output: {}: {} failed: {}", path.string(), operation,
                std::strerror(errno));
  }

  // The file under a name of its own, whole before it gets the name that others look at.
  void write_own() {
    own_ = folder_ / fmt::format(".lock.of.{}", me_.token);
    fd_ = ::open(own_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd_ < 0) throw failed("making it", own_);
    write_text(own_);
  }
  void write_text(const fs::path& path) {
    const auto text = me_.text();
    if (::pwrite(fd_, text.data(), text.size(), 0) != static_cast<ssize_t>(text.size())) {
      throw failed("writing it", path);
    }
    if (::fdatasync(fd_) != 0) throw failed("syncing it", path);  // before others see the name
  }

  // The file gets the name `path` too, unless there is one of that name.
  bool place(const fs::path& path) {
    if (options_.hard_links) {
      if (::link(own_.c_str(), path.c_str()) == 0) return true;
      if (errno == EEXIST) return false;
      if (errno != EPERM && errno != EOPNOTSUPP && errno != ENOSYS) {
        throw failed("linking it", path);
      }
    }
    // A reader may come before the text: then it looks again.
    const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0 && errno == EEXIST) return false;
    if (fd < 0) throw failed("making it", path);
    ::close(std::exchange(fd_, fd));
    write_text(path);
    return true;
  }

  // The file becomes `path`. With `waits` a living owner is waited for.
  void acquire(const fs::path& path, bool waits) {
    for (;;) {
      if (place(path)) return;
      const auto text = contents(path);
      if (!text) continue;
      const auto owner = Owner::parse(*text);
      if (owner.token == me_.token) return;  // NFS: the answer to the first request was lost
      if (alive(path, owner, *text)) {
        if (!waits) {
          throw fail(ExitCode::kDeck,
                     "run.output: {} is in use by {} ({}; legal: another folder, or this one when "
                     "that job has ended)",
                     folder_.string(), owner.who(), path.string());
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
        continue;
      }
      if (replace(path, owner)) return;
    }
  }

  // Takes the place of an owner that is gone. A compare-and-swap out of links and renames: only who
  // holds the claim on this very owner may put a file of its own in its place, and claims vanish
  // with the rename. A claim whose holder died is replaced in the same way.
  bool replace(const fs::path& path, const Owner& gone) {
    const auto claim = folder_ / fmt::format(".lock.after.{}", gone.token);
    acquire(claim, /*waits=*/true);
    const auto text = contents(path);
    if (!text || Owner::parse(*text).token != gone.token) {  // somebody was here before
      ::unlink(claim.c_str());
      return false;
    }
    if (::rename(claim.c_str(), path.c_str()) != 0) {
      const int why = errno;
      ::unlink(claim.c_str());
      errno = why;
      throw failed("renaming it", claim);
    }
    if (path == path_)
      note(fmt::format("run.output: {}: was left by {}, which is gone; taken over", path_.string(),
                       gone.who()));
    return true;
  }

  // Files and claims of processes that were killed while they took the lock. One that may be alive
  // keeps its own for as long as no taking lasts, by the clock of storage.
  void remove_leftovers() const {
    constexpr std::chrono::hours kLongAgo(1);
    std::error_code error;
    const auto now = fs::last_write_time(path_, error);
    if (error) return;
    for (const auto& item : fs::directory_iterator(folder_, error)) {
      const auto name = item.path().filename().string();
      if (!name.starts_with(".lock.of.") && !name.starts_with(".lock.after.")) continue;
      std::error_code ignored;
      if (!item.is_regular_file(ignored) || item.is_symlink(ignored)) continue;
      const auto written = item.last_write_time(ignored);
      if (ignored) continue;
      const auto text = contents(item.path());
      const bool gone = text && state_of(Owner::parse(*text), me_) == State::kGone;
      if (gone || now - written > kLongAgo) fs::remove(item.path(), ignored);
    }
  }

  // Where only its beat can tell, that takes four beats.
  bool alive(const fs::path& path, const Owner& owner, const std::string& text) const {
    const auto state = state_of(owner, me_);
    if (state != State::kUnknown) return state == State::kAlive;
    if (path == path_) {
      note(fmt::format("run.output: {}: is of {}: looking for {:.0f} s whether that job lives",
                       path_.string(), owner.who(), 4 * options_.beat_s));
    }
    for (int quarter = 0; quarter < 16; ++quarter) {
      std::this_thread::sleep_for(std::chrono::duration<double>(options_.beat_s / 4));
      const auto now = contents(path);
      if (!now || Owner::parse(*now).token != owner.token) return false;  // replace() finds out
      if (*now != text) return true;
    }
    return false;
  }

  bool held() const {
    struct stat open {
    }, named{};
    return fd_ >= 0 && ::fstat(fd_, &open) == 0 && ::stat(path_.c_str(), &named) == 0 &&
           open.st_ino == named.st_ino && open.st_dev == named.st_dev;
  }

  void beat() {
    ++me_.beat;
    const auto text = me_.text();
    // A beat that fails is one too few; the next may not. Synced: NFS keeps what is written to an
    // open file for longer than others wait for a beat.
    [[maybe_unused]] const bool written =
        ::pwrite(fd_, text.data(), text.size(), 0) >= 0 && ::fdatasync(fd_) == 0;
  }

  void give_back() {
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
    ::unlink(own_.c_str());
    if (made_folder_) ::rmdir(folder_.c_str());  // stays where there is something in it
  }

  void note(const std::string& text) const {
    if (options_.note) options_.note(text);
  }

  fs::path folder_, path_, own_;
  RunLockOptions options_;
  Owner me_;
  int fd_ = -1;
  bool made_folder_ = false;
  comm::QuietThread beats_;
};

RunLock::RunLock(const fs::path& folder, RunLockOptions options)
    : impl_(std::make_unique<Impl>(folder, std::move(options))) {}

RunLock::~RunLock() = default;

void RunLock::require_held() const {
  impl_->require_held();
}

}  // namespace pg::io

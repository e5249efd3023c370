#include "app/background_command.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <thread>

extern char** environ;

namespace pg::app {

namespace {

constexpr std::size_t kOutputMost = 4096;

struct Actions {
  posix_spawn_file_actions_t value{};
  Actions() { posix_spawn_file_actions_init(&value); }
  ~Actions() { posix_spawn_file_actions_destroy(&value); }
  Actions(const Actions&) = delete;
  Actions& operator=(const Actions&) = delete;
};

struct Attributes {
  posix_spawnattr_t value{};
  Attributes() { posix_spawnattr_init(&value); }
  ~Attributes() { posix_spawnattr_destroy(&value); }
  Attributes(const Attributes&) = delete;
  Attributes& operator=(const Attributes&) = delete;
};

}  // namespace

BackgroundCommand::BackgroundCommand(const std::vector<std::string>& argv) {
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC | O_NONBLOCK) != 0) return;
  Actions actions;
  posix_spawn_file_actions_addopen(&actions.value, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions.value, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
  posix_spawn_file_actions_adddup2(&actions.value, ends[1], STDOUT_FILENO);
  Attributes attributes;
  posix_spawnattr_setflags(&attributes.value, POSIX_SPAWN_SETPGROUP);
  posix_spawnattr_setpgroup(&attributes.value, 0);
  std::vector<char*> words;
  for (const auto& word : argv) words.push_back(const_cast<char*>(word.c_str()));
  words.push_back(nullptr);
  pid_t pid = -1;
  const int failed =
      posix_spawnp(&pid, words[0], &actions.value, &attributes.value, words.data(), environ);
  close(ends[1]);
  pipe_ = ends[0];
  if (failed == 0) pid_ = pid;
}

BackgroundCommand::~BackgroundCommand() {
  if (pid_ > 0) {
    kill(-pid_, SIGKILL);
    // One that the kernel holds (a dead network file system) stays behind rather than hold us.
    for (int tries = 0; tries < 50 && waitpid(pid_, nullptr, WNOHANG) == 0; ++tries) {
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
  }
  if (pipe_ >= 0) close(pipe_);
}

void BackgroundCommand::read_some() {
  std::array<char, 1024> piece{};
  for (;;) {
    const auto got = read(pipe_, piece.data(), piece.size());
    if (got <= 0) return;
    const auto room = kOutputMost - std::min(kOutputMost, text_.size());
    text_.append(piece.data(), std::min(room, static_cast<std::size_t>(got)));
  }
}

std::optional<std::string> BackgroundCommand::output(std::chrono::milliseconds patience) {
  const auto until = std::chrono::steady_clock::now() + patience;
  while (pid_ > 0) {
    read_some();
    int status = 0;
    if (waitpid(pid_, &status, WNOHANG) == pid_) {
      pid_ = -1;
      read_some();
      if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) text_.clear();
      break;
    }
    if (std::chrono::steady_clock::now() >= until) return std::nullopt;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return text_;
}

}  // namespace pg::app

// The output folder of a run: metrics.jsonl, deck.toml, exit.json and checkpoints/. One rank
// writes.
#pragma once

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace pg::io {

class RunFolder {
 public:
  explicit RunFolder(std::filesystem::path path) : path_(std::move(path)) {}

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path checkpoints() const { return path_ / "checkpoints"; }
  std::filesystem::path metrics() const { return path_ / "metrics.jsonl"; }

  // Whether a run has left records or checkpoints here.
  bool holds_run() const;
  // How often an evaluation after this step was cut short, by their records; 0 when one was done.
  std::int64_t cut_evaluations(std::int64_t step) const;
  void write_deck(const std::string& resolved) const;  // Error(kSave)
  // Which algorithms each rank's GPU library chose, so that a restart computes the same bits.
  // choices.json: one text a rank. Nothing is written while they are as they were written last.
  void write_choices(const std::vector<std::string>& of_ranks);  // Error(kSave)
  std::vector<std::string> read_choices() const;  // none when there is no such file, or no good one
  // A run that goes on has not ended: what an earlier slice said must not stand for it.
  // Error(kSave).
  void remove_exit() const;
  // Launchers mask exit codes: {"code": 75, "reason": "..."} stays. Never throws: it is written
  // while failing.
  void write_exit(int code, const std::string& reason) const noexcept;

 private:
  std::filesystem::path path_;
  std::vector<std::string> written_;
};

// metrics.jsonl: one JSON object a line, flushed line by line, so that a killed run keeps what it
// printed; a lost machine loses what sync() did not see.
class MetricsWriter {
 public:
  // Keeps the records up to and including `after_step` (a resume repeats what came later; a torn
  // last line is dropped) and appends. Error(kSave) naming the file.
  MetricsWriter(const std::filesystem::path& path, std::int64_t after_step);
  // `json`: one object without a newline.
  void write(const std::string& json);
  // What the last save among the records that were kept took; 0: there is none.
  double last_save_seconds() const { return last_save_seconds_; }
  // What was written is on disk when it returns. Error(kSave). Any thread.
  void sync();

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  std::filesystem::path path_;
  double last_save_seconds_ = 0;
  std::unique_ptr<std::FILE, Close> file_;
};

// A JSON number with 17 significant digits (a double's round trip); not-finite values are null.
std::string json_number(double value);
// A JSON string literal, quoted and escaped.
std::string json_string(const std::string& text);
// The string `name` of a JSON object; empty when there is none.
std::string json_member(const std::string& object, const std::string& name);

}  // namespace pg::io

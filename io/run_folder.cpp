#include "io/run_folder.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "comm/error.h"
#include "io/checkpoint.h"
#include "io/files.h"

namespace pg::io {

namespace fs = std::filesystem;

namespace {

Error save_error(const fs::path& path, const char* operation) {
  return fail(ExitCode::kSave, "{}: {}: {}", path.string(), operation, std::strerror(errno));
}

// Appears whole or not at all, also where the machine is lost right after.
void write_whole(const fs::path& path, const std::string& text) {
  const fs::path temporary = path.string() + ".tmp";
  std::error_code error;
  fs::remove(temporary, error);
  write_synced(temporary, text);
  fs::rename(temporary, path, error);
  if (error) {
    throw fail(ExitCode::kSave, "{}: cannot rename: {}", path.string(), error.message());
  }
}

}  // namespace

bool RunFolder::holds_run() const {
  std::error_code error;
  // An empty record file is a run that ended before its first step.
  const auto recorded = fs::file_size(metrics(), error);
  return (!error && recorded > 0) || !list_checkpoints(checkpoints()).empty();
}

std::int64_t RunFolder::cut_evaluations(std::int64_t step) const {
  std::ifstream in(metrics(), std::ios::binary);
  std::int64_t cut = 0;
  for (std::string line; std::getline(in, line);) {
    if (line.find("\"valid_") == line.npos) continue;
    const auto record = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!record.is_object() || record.value("step", nlohmann::json()) != step) continue;
    if (record.contains("valid_loss")) return 0;
    if (record.contains("valid_cut")) ++cut;
  }
  return cut;
}

void RunFolder::write_deck(const std::string& resolved) const {
  write_whole(path_ / "deck.toml", resolved);
}

void RunFolder::write_choices(const std::vector<std::string>& of_ranks) {
  if (of_ranks == written_) return;
  write_whole(path_ / "choices.json", nlohmann::json{{"ranks", of_ranks}}.dump(1) + "\n");
  written_ = of_ranks;
}

std::vector<std::string> RunFolder::read_choices() const {
  std::ifstream in(path_ / "choices.json", std::ios::binary);
  const auto json = nlohmann::json::parse(in, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("ranks") || !json["ranks"].is_array()) return {};
  std::vector<std::string> texts;
  for (const auto& text : json["ranks"]) {
    if (!text.is_string()) return {};
    texts.push_back(text.get<std::string>());
  }
  return texts;
}

void RunFolder::remove_exit() const {
  std::error_code error;
  fs::remove(path_ / "exit.json", error);
  if (error) throw fail(ExitCode::kSave, "{}/exit.json: {}", path_.string(), error.message());
}

void RunFolder::write_exit(int code, const std::string& reason) const noexcept {
  try {
    write_whole(path_ / "exit.json",
                fmt::format("{{\"code\": {}, \"reason\": {}}}\n", code, json_string(reason)));
  } catch (...) {
    // The exit code itself still tells.
  }
}

MetricsWriter::MetricsWriter(const fs::path& path, std::int64_t after_step) : path_(path) {
  if (std::ifstream in(path, std::ios::binary); in) {
    std::string kept, line;
    while (std::getline(in, line)) {
      const auto record = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
      if (!record.is_object()) continue;
      const auto step = record.find("step");
      if (step != record.end() && step->is_number_integer() &&
          step->get<std::int64_t>() > after_step) {
        continue;
      }
      // A blocking save kept the run for all of its stall, an asynchronous one for its work.
      const auto seconds = [&](const char* name) {
        const auto at = record.find(name);
        return at != record.end() && at->is_number() ? at->get<double>() : 0.0;
      };
      const double save = std::max(seconds("save_work_s"), seconds("save_stall_s"));
      if (save > 0) last_save_seconds_ = save;
      kept += line + "\n";
    }
    write_whole(path, kept);
  }
  file_.reset(std::fopen(path.c_str(), "ae"));
  if (!file_) throw save_error(path, "cannot open for appending");
  sync_path(fs::absolute(path).parent_path());  // a new file's name
}

void MetricsWriter::write(const std::string& json) {
  if (std::fputs((json + "\n").c_str(), file_.get()) < 0 || std::fflush(file_.get()) != 0) {
    throw save_error(path_, "cannot append");
  }
}

void MetricsWriter::sync() {
  if (::fdatasync(::fileno(file_.get())) != 0) throw save_error(path_, "cannot sync");
}

std::string json_number(double value) {
  return std::isfinite(value) ? fmt::format("{:.17g}", value) : "null";
}

std::string json_string(const std::string& text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string json_member(const std::string& object, const std::string& name) {
  const auto json = nlohmann::json::parse(object, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return "";
  const auto member = json.find(name);
  return member != json.end() && member->is_string() ? member->get<std::string>() : "";
}

}  // namespace pg::io

#include "comm/heartbeat.h"

#include <unistd.h>

#include <charconv>
#include <map>

#include "comm/activity.h"
#include "comm/error.h"
#include "comm/mpi_session.h"

namespace pg::comm {

namespace {

constexpr std::string_view kMagic = "pentagrid heartbeat 1 ";

// FNV-1a.
std::uint64_t digest(std::string_view text) {
  std::uint64_t hash = 14695981039346656037U;
  for (const char c : text) {
    hash ^= static_cast<unsigned char>(c);
    hash *= 1099511628211U;
  }
  return hash;
}

// Up to the next `end`, which is taken away too.
std::string_view take(std::string_view& text, char end) {
  const auto at = text.find(end);
  const auto part = text.substr(0, at);
  text.remove_prefix(at == std::string_view::npos ? text.size() : at + 1);
  return part;
}

template <class T>
T number_in(std::string_view text) {
  T value{};
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

std::string place_text(const std::vector<ActivityRecord::Stretch>& places) {
  std::string text;
  for (const auto& place : places) {
    if (!text.empty()) text += " > ";
    text += place.name;
    if (place.index >= 0) text += fmt::format(" {}", place.index);
  }
  return text;
}

std::string group_text(const Heartbeat::Group& group) {
  return fmt::format("{}\t{}\t{}\t{}", group.name, group.serial, group.issued,
                     ranks_text(group.members));
}

std::vector<int> parse_ranks(std::string_view text) {
  std::vector<int> ranks;
  while (!text.empty()) {
    auto range = take(text, ',');
    if (range.starts_with(' ')) range.remove_prefix(1);
    const auto first = number_in<int>(take(range, '-'));
    const auto last = range.empty() ? first : number_in<int>(range);
    for (int rank = first; rank <= last; ++rank) ranks.push_back(rank);
  }
  return ranks;
}

Heartbeat::Group parse_group(std::string_view text) {
  Heartbeat::Group group;
  group.name = take(text, '\t');
  group.serial = number_in<int>(take(text, '\t'));
  group.issued = number_in<std::uint64_t>(take(text, '\t'));
  group.members = parse_ranks(text);
  return group;
}

// Lines carry names of files and hosts: no line may be two.
std::string one_line(std::string text) {
  for (char& c : text) {
    if (c == '\n' || c == '\t') c = ' ';
  }
  return text;
}

}  // namespace

std::string ranks_text(const std::vector<int>& ranks) {
  std::string text;
  for (std::size_t i = 0; i < ranks.size();) {
    std::size_t end = i + 1;
    while (end < ranks.size() && ranks[end] == ranks[end - 1] + 1) ++end;
    if (!text.empty()) text += ", ";
    text += fmt::format("{}", ranks[i]);
    if (end - i > 1) text += fmt::format("-{}", ranks[end - 1]);
    i = end;
  }
  return text;
}

Heartbeat current_heartbeat(int rank, std::uint64_t beat, double idle_s) {
  const auto record = activity_record();
  Heartbeat h;
  h.rank = rank;
  h.host = one_line(host_name());
  h.pid = ::getpid();
  h.beat = beat;
  h.idle_s = idle_s;
  h.step = record.step;
  h.place = place_text(record.places);
  if (!record.places.empty()) {
    h.site = site_text(record.places.back().file, record.places.back().line);
  }
  if (record.operation != nullptr) h.operation = record.operation;
  h.file = one_line(record.path);
  h.number = record.number;
  h.peer = record.peer;
  for (const auto& group : activity_groups()) {
    h.groups.push_back({one_line(group.name), group.serial, group.issued, group.members});
    if (group.id == record.group) h.group = h.groups.back();
  }
  return h;
}

std::string heartbeat_text(const Heartbeat& h) {
  std::string body = fmt::format(
      "rank {}\nhost {}\npid {}\nbeat {}\nidle_ms {}\nstep {}\nplace {}\nsite {}\noperation {}\n"
      "file {}\nnumber {}\npeer {}\n",
      h.rank, h.host, h.pid, h.beat, static_cast<std::int64_t>(h.idle_s * 1e3), h.step, h.place,
      h.site, h.operation, h.file, h.number, h.peer);
  if (h.group) body += fmt::format("group {}\n", group_text(*h.group));
  for (const auto& group : h.groups) body += fmt::format("in {}\n", group_text(group));
  // The length too: what an earlier, longer text left behind this one is not read.
  return fmt::format("{}{:016x} {}\n{}", kMagic, digest(body), body.size(), body);
}

std::optional<Heartbeat> parse_heartbeat(std::string_view text) {
  if (!text.starts_with(kMagic)) return {};
  text.remove_prefix(kMagic.size());
  const auto hash = take(text, ' ');
  const auto bytes = number_in<std::size_t>(take(text, '\n'));
  const auto body = text.substr(0, bytes);
  if (body.size() != bytes || hash != fmt::format("{:016x}", digest(body))) return {};

  Heartbeat h;
  std::map<std::string_view, std::string_view> values;
  for (auto rest = body; !rest.empty();) {
    auto line = take(rest, '\n');
    const auto key = take(line, ' ');
    if (key == "in") {
      h.groups.push_back(parse_group(line));
    } else {
      values[key] = line;
    }
  }
  h.rank = number_in<int>(values["rank"]);
  h.host = values["host"];
  h.pid = number_in<std::int64_t>(values["pid"]);
  h.beat = number_in<std::uint64_t>(values["beat"]);
  h.idle_s = static_cast<double>(number_in<std::int64_t>(values["idle_ms"])) * 1e-3;
  h.step = number_in<std::int64_t>(values["step"]);
  h.place = values["place"];
  h.site = values["site"];
  h.operation = values["operation"];
  h.file = values["file"];
  h.number = number_in<std::uint64_t>(values["number"]);
  h.peer = number_in<int>(values["peer"]);
  if (values.contains("group")) h.group = parse_group(values["group"]);
  return h;
}

}  // namespace pg::comm

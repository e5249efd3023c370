#include "comm/hang_report.h"

#include <algorithm>
#include <map>

#include "comm/error.h"

namespace pg::comm {

namespace {

bool waits_for_ranks(const RankView& view) {
  return !view.lost() && view.last->group.has_value();
}

const RankView* view_of(const std::vector<RankView>& ranks, int rank) {
  const auto found =
      std::ranges::find_if(ranks, [&](const RankView& view) { return view.rank == rank; });
  return found == ranks.end() ? nullptr : &*found;
}

// Whether `view`'s rank has begun the collective that `waiting` is in.
bool arrived(const RankView& view, const Heartbeat& waiting) {
  if (view.lost()) return false;
  for (const auto& group : view.last->groups) {
    if (group.same(*waiting.group)) return group.issued >= waiting.number;
  }
  return false;
}

// Members of the group (of a message: the other side) that keep `waiting` from going on.
std::vector<int> awaited(const std::vector<RankView>& ranks, const Heartbeat& waiting) {
  if (waiting.peer >= 0) return {waiting.peer};
  std::vector<int> missing;
  for (const int member : waiting.group->members) {
    const auto* const view = view_of(ranks, member);
    if (view == nullptr || !arrived(*view, waiting)) missing.push_back(member);
  }
  return missing;
}

std::string operation_text(const Heartbeat& h) {
  if (!h.group) {
    return h.file.empty() ? fmt::format("waiting for {}", h.operation)
                          : fmt::format("{} {}", h.operation, h.file);
  }
  if (h.peer >= 0) {
    return fmt::format("{} {} rank {} on group {}", h.operation,
                       h.operation == "send" ? "to" : "from", h.peer, h.group->name);
  }
  return fmt::format("{} #{} on group {}", h.operation, h.number, h.group->name);
}

std::string with_hosts(const std::vector<RankView>& ranks, const std::vector<int>& some) {
  std::vector<std::string> hosts;
  for (const int rank : some) {
    const auto* const view = view_of(ranks, rank);
    const auto host = view == nullptr || !view->last ? "host unknown" : view->last->host;
    if (std::ranges::find(hosts, host) == hosts.end()) hosts.push_back(host);
  }
  std::string text = fmt::format("rank{} {} (", some.size() == 1 ? "" : "s", ranks_text(some));
  constexpr std::size_t kMost = 4;
  for (std::size_t i = 0; i < std::min(hosts.size(), kMost); ++i) {
    text += (i == 0 ? "" : ", ") + hosts[i];
  }
  if (hosts.size() > kMost) text += fmt::format(" and {} more hosts", hosts.size() - kMost);
  return text + ")";
}

// The wait that the headline names, and whom for; no waiting rank: nobody waits for another.
struct Cause {
  const RankView* waiting = nullptr;
  std::vector<int> awaited;
};

Cause cause_of(const std::vector<RankView>& ranks) {
  Cause any;
  for (const auto& view : ranks) {
    if (!waits_for_ranks(view)) continue;
    auto missing = awaited(ranks, *view.last);
    // Those that wait for others themselves are no cause.
    std::vector<int> roots;
    for (const int rank : missing) {
      const auto* const other = view_of(ranks, rank);
      if (other == nullptr || !waits_for_ranks(*other)) roots.push_back(rank);
    }
    if (!roots.empty()) return {&view, std::move(roots)};
    if (any.waiting == nullptr || (any.awaited.empty() && !missing.empty())) {
      any = {&view, std::move(missing)};
    }
  }
  return any;
}

std::string where(const Heartbeat& h) {
  std::string text;
  if (!h.operation.empty()) text = operation_text(h);
  if (!h.place.empty()) {
    text += fmt::format("{}in {} at {}", text.empty() ? "" : ", ", h.place, h.site);
  }
  if (text.empty()) text = "in no named place";
  return text + fmt::format(", step {}", h.step);
}

// Of one rank, without its number.
std::string standing(const RankView& view, const Cause& cause) {
  std::string text;
  const auto* const wait = cause.waiting;
  if (wait != nullptr) {
    const auto& members = wait->last->group->members;
    const auto is = [&](const auto& list) {
      return std::ranges::find(list, view.rank) != list.end();
    };
    const bool awaited_for = is(cause.awaited);
    if (awaited_for || (wait->last->peer < 0 && is(members))) {
      text = !awaited_for && arrived(view, *wait->last) ? "arrived: " : "not arrived: ";
    }
  }
  if (!view.last) return text + "no heartbeat: gone, or it never began";
  if (view.silent) {
    text += fmt::format("no heartbeat for {:.0f} s: stopped or gone; last ", view.silent_s);
  }
  return text + where(*view.last);
}

}  // namespace

std::string hang_headline(const std::vector<RankView>& ranks, double seconds) {
  const std::string who = ranks.size() == 1 ? "the rank did not come on" : "no rank came on";
  const auto begin = fmt::format("run.watchdog: {} for {:.0f} s: ", who, seconds);
  const auto cause = cause_of(ranks);
  if (cause.waiting == nullptr) {
    for (const auto& view : ranks) {
      if (!view.lost()) {
        return fmt::format("{}{}: {}", begin, with_hosts(ranks, {view.rank}), where(*view.last));
      }
    }
    return begin + "no rank's heartbeat can be read";
  }
  const auto& h = *cause.waiting->last;
  const auto what = fmt::format("{}step {}, {}: ", begin, h.step, operation_text(h));
  if (cause.awaited.empty())
    return what + "all its ranks arrived: MPI or the network does not go on";
  return fmt::format("{}waiting for {}", what, with_hosts(ranks, cause.awaited));
}

std::string hang_report(const std::vector<RankView>& ranks, double seconds, int lines) {
  const auto cause = cause_of(ranks);
  // Those that are waited for come first, then by their lowest rank.
  struct Row {
    std::vector<int> ranks;
    std::string text;
    bool first = false;
  };
  std::vector<Row> rows;
  std::map<std::string, std::size_t> row_of;
  for (const auto& view : ranks) {
    const auto text = standing(view, cause);
    const auto [at, fresh] = row_of.try_emplace(text, rows.size());
    if (fresh) rows.push_back({{}, text});
    auto& row = rows[at->second];
    row.ranks.push_back(view.rank);
    row.first |= std::ranges::find(cause.awaited, view.rank) != cause.awaited.end();
  }
  std::ranges::stable_partition(rows, [](const Row& row) { return row.first; });

  std::string report = hang_headline(ranks, seconds) + "\n";
  std::size_t said = 0;
  const auto most = static_cast<std::size_t>(lines);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (i + 1 == most && rows.size() > most) {
      report += fmt::format("  and {} more ranks\n", ranks.size() - said);
      break;
    }
    report += fmt::format("  {}: {}\n", with_hosts(ranks, rows[i].ranks), rows[i].text);
    said += rows[i].ranks.size();
  }
  return report;
}

}  // namespace pg::comm

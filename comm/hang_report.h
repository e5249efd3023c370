// What the watchdog says of ranks that do not come on: whom they wait for, and where each of them
// is. Pure text from what the ranks last wrote of themselves.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "comm/heartbeat.h"

namespace pg::comm {

struct RankView {
  int rank = 0;                   // in the job
  std::optional<Heartbeat> last;  // none: it never wrote one, or took it away
  bool silent = false;            // no new one came for silent_s
  double silent_s = 0;

  bool lost() const { return silent || !last; }
};

// "run.watchdog: no rank came on for 12 s: step 40, all_reduce #311 on group dp: waiting for rank 2
// (n1)". The first cause that can be told: a rank that is silent, or that computes while others
// wait for it.
std::string hang_headline(const std::vector<RankView>& ranks, double seconds);
// The headline and, in at most `lines` more, where every rank is; ranks of which the same is said
// share a line.
std::string hang_report(const std::vector<RankView>& ranks, double seconds, int lines = 16);

}  // namespace pg::comm

// What a step communicated, by group and operation, for metrics.jsonl.
#pragma once

#include <string>
#include <vector>

#include "comm/group.h"
#include "comm/traffic.h"

namespace pg::app {

// Collective over `world`; each rank passes its own rows. One JSON object of the sums over all
// ranks: {"tp": {"all_reduce": {"calls": 8, "bytes": 4096, "least_sent": 4096}}, ...}. `bytes` are
// those of the buffers, `least_sent` those that the best algorithm must send (comm/traffic.h).
// Groups of one rank, and operations that were not called, do not appear.
std::string traffic_json(comm::Group& world, const std::vector<comm::TrafficRow>& rows);

}  // namespace pg::app

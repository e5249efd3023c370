// A failure on one rank becomes the same failure on all: no rank goes on into a collective that
// another will never reach.
#pragma once

#include <functional>

#include "comm/group.h"

namespace pg::comm {

// Runs `work` on every rank of `group`, then compares notes. When any rank threw, every rank throws
// Error with the code and message of the lowest failing rank, prefixed "rank R (host): " (R in this
// group) when group.size() > 1; its ranks() is group.size(). Exceptions that are not Error count as
// kBug. `work` must not leave ranks inside different collectives: it does its communication before
// or after, or all ranks do the same.
void together(Group& group, const std::function<void()>& work);

}  // namespace pg::comm
